"""An event that names another source or environment than its key's: the refusal says which they are."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from app.context import Context
from app.errors import StorageUnavailable
from app.ingest import verdicts
from tests.ingest.test_batch import send_batch
from tests.ingest.test_policies import limit
from tests.support.people import Tenant
from tests.support.sending import error_of, event_for, send


def _wrong(tenant: Tenant) -> list[tuple[dict[str, Any], str, str]]:
    """Events, each with its code and with what its refusal names."""
    return [
        (event_for(tenant, source_id="src_other"), "source_mismatch", tenant.source_id),
        (event_for(tenant, environment="staging"), "environment_mismatch", "production"),
    ]


def test_a_refusal_names_the_keys_own_source_and_environment(client: FlaskClient, alice: Tenant) -> None:
    for _ in ("the key is looked up", "the key is cached, and the event goes by the fast path"):
        for event, code, own in _wrong(alice):
            error = error_of(send(client, alice, event))

            assert error["code"] == code
            assert own in error["message"]


@pytest.mark.parametrize("query", ["", "?atomic=true"])
def test_so_does_the_verdict_of_a_batch(client: FlaskClient, alice: Tenant, query: str) -> None:
    wrong = _wrong(alice)
    events = [event_for(alice), *(event for event, _, _ in wrong)]

    answer = send_batch(client, alice, events, query=query).json

    assert answer is not None
    faults = answer["error"]["details"] if query else answer["verdicts"][1:]
    for verdict, (_, code, own) in zip(faults, wrong, strict=True):
        assert own in verdict["message"]
        assert code in str(verdict)


def test_nothing_is_named_where_the_key_may_not_be_used(client: FlaskClient, context: Context, alice: Tenant) -> None:
    places = {"allowed_networks": ["10.0.0.0/8"], "allowed_origins": ["https://shop.example"]}
    limit(context, alice, allowed_event_types=["payment.*"])
    for policy, entries in places.items():
        limit(context, alice, **(dict.fromkeys(places) | {policy: entries}))
        for event, code, own in _wrong(alice):
            error = error_of(send(client, alice, event))

            assert error["code"] == code
            assert own not in error["message"]


def test_nothing_is_named_to_a_key_that_is_not_proven(client: FlaskClient, alice: Tenant, charlie: Tenant) -> None:
    forged = alice.key[:-1] + ("1" if alice.key.endswith("0") else "0")
    for key in (forged, alice.key[:20], charlie.token):
        answer = send(client, alice, event_for(alice, source_id="src_other"), key=key)

        assert (answer.status_code, alice.source_id in answer.get_data(as_text=True)) == (401, False)


def test_the_refusal_stands_if_the_database_goes_away_before_it_is_worded(
    client: FlaskClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise StorageUnavailable

    monkeypatch.setattr(verdicts, "named_refusals", gone)

    error = error_of(send(client, alice, event_for(alice, source_id="src_other")))

    assert (error["code"], error["retryable"]) == ("source_mismatch", False)
