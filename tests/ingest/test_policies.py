"""What a key may send and from where is judged where events are written: singly, in batches, and while it changes."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from itertools import count
from threading import Event
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.context import Context
from app.credentials.verification import Identity
from app.database.engine import TenantScope
from app.identifiers import uuid7
from app.ingest.acceptance import Client
from app.ingest.batch import record
from app.ingest.batch.storing import executing
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import Outcome, store
from app.wire.exact_json import read_object
from tests.ingest.test_batch import BATCH_PATH, body_of, send_batch, statuses_of
from tests.support.live import LiveServer, read
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.sending import PATH, error_of, event_for, send
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

_SHOP = "https://shop.example"
_FROM_SHOP = {"Origin": _SHOP}

pytestmark = pytest.mark.wiring


def limit(context: Context, tenant: Tenant, **policies: list[str] | None) -> None:
    """Give the tenant's key policies, behind the product's back."""
    for policy, entries in policies.items():
        execute(
            context,
            f"UPDATE source_keys SET {policy} = CAST(:entries AS text[]) WHERE id = :id",
            entries=entries,
            id=tenant.key_row,
        )


def _code(response: Any) -> str | None:
    return None if response.status_code in (200, 201) else error_of(response)["code"]


class TestEventTypes:
    @pytest.mark.parametrize(
        ("allowed", "event_type", "code"),
        [
            ("payment.failed", "payment.failed", None),
            ("payment.failed", "payment.failed.late", "event_type_not_allowed"),
            ("payment.failed", "payment", "event_type_not_allowed"),
            ("payment.failed", "Payment.failed", "event_type_not_allowed"),
            ("payment.*", "payment.failed", None),
            ("payment.*", "payment.card.failed", None),
            ("payment.*", "payment", "event_type_not_allowed"),
            ("payment.*", "payments.failed", "event_type_not_allowed"),
            ("payment.*", "paymentX.failed", "event_type_not_allowed"),
            ("payment.card.*", "payment.failed", "event_type_not_allowed"),
            ("pay_ent.*", "payment.failed", "event_type_not_allowed"),
            ("_.*", "x.y", "event_type_not_allowed"),
        ],
    )
    def test_a_type_is_allowed_as_a_whole_or_below_a_prefix(
        self, client: FlaskClient, context: Context, alice: Tenant, allowed: str, event_type: str, code: str | None
    ) -> None:
        limit(context, alice, allowed_event_types=["cart.left", allowed])

        response = send(client, alice, event_for(alice, event_type=event_type))

        assert _code(response) == code
        assert response.status_code == (403 if code else 201)
        assert len(events_of(context, alice)) == (not code)

    def test_a_refusal_leaves_event_id_and_idempotency_key_free(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        limit(context, alice, allowed_event_types=["cart.*"])
        event = event_for(alice, event_id="e")
        assert send(client, alice, event, idempotency_key="k").status_code == 403

        limit(context, alice, allowed_event_types=["payment.*"])

        assert send(client, alice, event, idempotency_key="k").status_code == 201

    def test_what_is_wrong_with_the_key_or_the_source_is_reported_first(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        limit(context, alice, allowed_event_types=["cart.*"], allowed_networks=["10.0.0.0/8"])

        assert _code(send(client, alice, event_for(alice, source_id="src_other"))) == "source_mismatch"
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)
        assert _code(send(client, alice)) == "invalid_source_key"


class TestOrigins:
    def test_a_browser_key_is_taken_from_its_origins_only(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        limit(context, alice, allowed_event_types=["payment.*"], allowed_origins=[_SHOP, "http://localhost:3000"])
        origins = [
            (_SHOP, None),
            ("http://localhost:3000", None),
            ("http://shop.example", "origin_not_allowed"),
            ("https://shop.example:8443", "origin_not_allowed"),
            ("https://evil.example", "origin_not_allowed"),
            ("https://shop.example.evil.example", "origin_not_allowed"),
            ("null", "origin_not_allowed"),
            ("", "origin_not_allowed"),
            (f"{_SHOP},{_SHOP}", "origin_not_allowed"),
            ("https://" + "a" * 5_000, "origin_not_allowed"),
        ]

        assert [(origin, _code(send(client, alice, headers={"Origin": origin}))) for origin, _ in origins] == origins
        assert len(events_of(context, alice)) == 2

    def test_a_browser_key_is_of_no_use_without_an_origin(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        limit(context, alice, allowed_event_types=["payment.*"], allowed_origins=[_SHOP])

        response = send(client, alice)

        assert (response.status_code, _code(response)) == (403, "origin_not_allowed")
        assert events_of(context, alice) == []

    def test_any_other_key_may_come_from_any_origin(self, client: FlaskClient, alice: Tenant) -> None:
        for origin in (_SHOP, "null", "\\"):
            assert send(client, alice, headers={"Origin": origin}).status_code == 201


class TestNetworks:
    @pytest.mark.parametrize(
        ("address", "code"),
        [
            ("192.0.2.1", None),
            ("192.0.2.255", None),
            ("::ffff:192.0.2.1", None),
            ("192.0.3.1", "address_not_allowed"),
            ("2001:db8::7", None),
            ("2001:db9::7", "address_not_allowed"),
            ("198.51.100.7", None),
            ("198.51.100.8", "address_not_allowed"),
            ("", "address_not_allowed"),
            ("somewhere", "address_not_allowed"),
        ],
    )
    def test_a_key_is_taken_from_its_networks_only(
        self, client: FlaskClient, context: Context, alice: Tenant, address: str, code: str | None
    ) -> None:
        limit(context, alice, allowed_networks=["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"])
        client.environ_base["REMOTE_ADDR"] = address

        response = send(client, alice, headers={"X-Forwarded-For": "192.0.2.1"})

        assert _code(response) == code
        assert response.status_code == (403 if code else 201)

    def test_a_key_without_networks_is_taken_from_an_unknown_address(self, client: FlaskClient, alice: Tenant) -> None:
        client.environ_base["REMOTE_ADDR"] = ""

        assert send(client, alice).status_code == 201


class TestBatches:
    @pytest.fixture(name="client")
    def _client(self, app: Flask) -> FlaskClient:
        """Batches never take the fast path, so one client is enough."""
        return app.test_client()

    def test_each_event_is_held_against_the_keys_types(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        limit(context, alice, allowed_event_types=["payment.*"])
        events = [event_for(alice, event_type=kind) for kind in ("payment.a", "cart", "payment.b")]

        assert statuses_of(send_batch(client, alice, events)) == ["stored", "event_type_not_allowed", "stored"]
        assert len(events_of(context, alice)) == 2

    def test_all_or_nothing_holds_for_types_too(self, client: FlaskClient, context: Context, alice: Tenant) -> None:
        limit(context, alice, allowed_event_types=["payment.*"])
        events = [event_for(alice), event_for(alice, event_type="cart")]

        response = send_batch(client, alice, events, query="?atomic=true")

        assert _code(response) == "batch_rejected"
        assert [fault["pointer"] for fault in error_of(response)["details"]] == ["/events/1"]
        assert events_of(context, alice) == []

    @pytest.mark.parametrize("key", [None, "k"])
    def test_where_it_comes_from_is_everybodys_matter(
        self, client: FlaskClient, context: Context, alice: Tenant, key: str | None
    ) -> None:
        limit(context, alice, allowed_event_types=["payment.*"], allowed_origins=[_SHOP])
        without = send_batch(client, alice, [event_for(alice)], key)
        from_it = send_batch(client, alice, [event_for(alice)], key, headers=_FROM_SHOP)
        limit(context, alice, allowed_networks=["10.0.0.0/8"])
        elsewhere = send_batch(client, alice, [event_for(alice)], key, headers=_FROM_SHOP)

        assert [each.status_code for each in (without, from_it, elsewhere)] == [403, 200, 403]
        assert (_code(without), _code(elsewhere)) == ("origin_not_allowed", "address_not_allowed")
        assert len(events_of(context, alice)) == 1

    def test_a_key_that_has_ended_by_the_databases_clock_stores_no_batch_that_began_before(
        self, context: Context, alice: Tenant
    ) -> None:
        execute(context, "UPDATE source_keys SET expires_at = clock_timestamp() WHERE id = :id", id=alice.key_row)

        with context.database.transaction(alice.workspace_row) as session:
            refusal, _ = record.begin(executing(session), _identity(alice), Client(None, "", None), 1.0, is_alone=False)

        assert refusal is Outcome.INVALID_SOURCE_KEY


class TestAddresses:
    def test_usage_says_from_where_the_events_of_each_outcome_came(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        event = event_for(alice, event_id="e")
        for address, key in (("192.0.2.1", "k"), ("192.0.2.2", "k"), ("192.0.2.3", None)):
            client.environ_base["REMOTE_ADDR"] = address
            send(client, alice, event, idempotency_key=key)

        assert _addresses(context, alice) == {
            ("stored", ("192.0.2.1",)),
            ("replayed", ("192.0.2.2",)),
            ("duplicate", ("192.0.2.3",)),
        }

    def test_of_a_batch_and_its_replay_too(self, app: Flask, context: Context, alice: Tenant) -> None:
        client = app.test_client()
        for address in ("192.0.2.1", "192.0.2.2"):
            client.environ_base["REMOTE_ADDR"] = address
            send_batch(client, alice, [event_for(alice), event_for(alice)], "k")

        assert _addresses(context, alice) == {("stored", ("192.0.2.1",)), ("replayed", ("192.0.2.2",))}

    def test_each_once_and_twenty_at_the_most_for_a_group(self, context: Context, alice: Tenant) -> None:
        some = [_attempt(alice, address=f"192.0.2.{n % 3}") for n in range(9)]
        many = [_attempt(alice, address=f"192.0.2.{n}") for n in range(100)]
        unknown = [_attempt(alice)]

        for group in (some, many, unknown):
            with context.database.transaction(TenantScope.ALL) as session:
                assert set(_outcomes(session, alice, group)) == {Outcome.STORED}

        found = [it.addresses for it in rows(context, _ADDRESSES, id=alice.project_row)]
        assert sorted(len(it or ()) for it in found) == [0, 3, 20]
        assert ["192.0.2.0", "192.0.2.1", "192.0.2.2"] in found


class TestStorage:
    def test_each_attempt_of_a_group_is_held_against_its_own_keys_policies(
        self, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        limit(context, alice, allowed_event_types=["a.*"], allowed_origins=[_SHOP], allowed_networks=["10.0.0.0/8"])
        there = {"address": "10.0.0.1", "origin": _SHOP}
        group = [
            (alice, _attempt(alice, "a.b", **there)),
            (alice, _attempt(alice, "b", **there)),
            (alice, _attempt(alice, "a.b", address="10.0.0.1")),
            (alice, _attempt(alice, "a.b", origin=_SHOP)),
            (charlie, _attempt(charlie, "b")),
        ]

        with context.database.transaction(TenantScope.ALL) as session:
            verdicts = store(
                executing(session),
                [(_identity(tenant), attempt) for tenant, attempt in group],
                idempotency_ttl_seconds=60,
                lock_wait_seconds=1,
            )

        assert [verdict.outcome for verdict in verdicts] == [
            Outcome.STORED,
            Outcome.EVENT_TYPE_NOT_ALLOWED,
            Outcome.ORIGIN_NOT_ALLOWED,
            Outcome.ADDRESS_NOT_ALLOWED,
            Outcome.STORED,
        ]

    def test_what_this_very_attempt_has_stored_before_counts_whatever_the_policies_say_now(
        self, context: Context, alice: Tenant
    ) -> None:
        attempt = _attempt(alice)
        for outcome in (Outcome.STORED, Outcome.RESUMED):
            with context.database.transaction(TenantScope.ALL) as session:
                assert _outcomes(session, alice, [attempt]) == [outcome]
            limit(context, alice, allowed_event_types=["other"])

    def test_a_key_that_has_ended_by_the_databases_clock_stores_nothing_that_came_in_before(
        self, context: Context, alice: Tenant
    ) -> None:
        execute(context, "UPDATE source_keys SET expires_at = clock_timestamp() WHERE id = :id", id=alice.key_row)

        with context.database.transaction(TenantScope.ALL) as session:
            assert _outcomes(session, alice, [_attempt(alice)]) == [Outcome.INVALID_SOURCE_KEY]


@pytest.mark.parametrize(
    ("method", "action", "body"),
    [
        ("PATCH", "", {"allowed_event_types": ["other"]}),
        ("PATCH", "", {"allowed_networks": ["192.0.2.0/24"]}),
        ("PATCH", "", {"allowed_event_types": ["a"], "allowed_origins": [_SHOP]}),
        ("PATCH", "", {"allowed_origins": None}),
        ("POST", "/rotate", {"grace_seconds": 0}),
        ("POST", "/rotate", {}),
    ],
)
def test_a_change_of_rights_waits_for_every_ingest_that_may_not_have_seen_it(
    app: Flask, context: Context, alice: Tenant, method: str, action: str, body: dict[str, Any]
) -> None:
    def change() -> tuple[int, int]:
        headers = alice.bearer | {"If-Match": "*"}
        response = app.test_client().open(f"/v1/keys/{alice.key_id}{action}", method=method, json=body, headers=headers)
        return response.status_code, len(events_of(context, alice))

    with ThreadPoolExecutor(1) as pool:
        with context.database.transaction(TenantScope.ALL) as session:
            assert _outcomes(session, alice, [_attempt(alice)]) == [Outcome.STORED]
            changing = pool.submit(change)
            wait_until(
                lambda: (
                    changing.done() or rows(context, f"SELECT 1 FROM {OUR_LOCKS} locktype = 'advisory' AND NOT granted")
                )
            )
            assert not changing.done()
        status, stored_when_answered = changing.result()

    assert status in (200, 201)
    assert stored_when_answered == 1


@pytest.mark.parametrize("path", [PATH, BATCH_PATH])
@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"allowed_event_types": ["other"]}, "event_type_not_allowed"),
        *(
            pytest.param(policy, code, marks=pytest.mark.slow)
            for policy, code in (
                ({"allowed_networks": ["192.0.2.0/24"]}, "address_not_allowed"),
                ({"allowed_event_types": ["payment.*"], "allowed_origins": [_SHOP]}, "origin_not_allowed"),
            )
        ),
    ],
)
def test_no_event_outside_a_policy_is_stored_after_its_change_has_answered(
    live: LiveServer, context: Context, alice: Tenant, policy: dict[str, list[str]], code: str, path: str
) -> None:
    """Senders run on four processes; the count stands still from the answer on."""
    codes, stored = _stream_until(
        live,
        context,
        alice,
        lambda: (
            live.request(
                "PATCH",
                f"/v1/keys/{alice.key_id}",
                json.dumps(policy).encode(),
                alice.bearer | {"Content-Type": "application/json", "If-Match": "*"},
            ).status
        ),
        path=path,
    )

    assert codes == {code}
    assert len(events_of(context, alice)) == stored


def test_no_event_is_stored_with_a_key_after_its_rotation_without_grace_has_answered(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    codes, stored = _stream_until(
        live,
        context,
        alice,
        lambda: (
            live.request(
                "POST",
                f"/v1/keys/{alice.key_id}/rotate",
                b'{"grace_seconds": 0}',
                alice.bearer | {"Content-Type": "application/json"},
            ).status
        ),
    )

    assert codes == {"invalid_source_key"}
    assert len(events_of(context, alice)) == stored


def _stream_until(
    live: LiveServer, context: Context, tenant: Tenant, change: Callable[[], int], *, path: str = PATH
) -> tuple[set[str], int]:
    """Send from eight threads while `change` is made: what is answered after it, and how much was stored until then."""
    changed = Event()

    def send_until_changed(name: int) -> str:
        with closing(HTTPConnection("127.0.0.1", live.port, timeout=30)) as connection:
            for n in count():
                is_after = changed.is_set()
                event = event_for(tenant, event_id=f"{name}-{n}")
                body = body_of([event]) if path == BATCH_PATH else json.dumps(event).encode()
                headers = {"Content-Type": "application/json", "X-API-Key": tenant.key}
                connection.request("POST", path, body, headers)
                answer = json.loads(read(connection.getresponse()).body)
                if is_after:
                    verdict = answer["verdicts"][0] if "verdicts" in answer else answer.get("error", answer)
                    return str(verdict.get("code"))
        raise AssertionError

    with ThreadPoolExecutor(8) as pool:
        senders = [pool.submit(send_until_changed, name) for name in range(8)]
        wait_until(lambda: len(events_of(context, tenant)) >= 100, 60)
        status = change()
        stored = len(events_of(context, tenant))
        changed.set()
        codes = {sender.result() for sender in senders}
    assert status in (200, 201)
    return codes, stored


_ADDRESSES = "SELECT outcome, addresses FROM usage_outbox WHERE project_id = :id"


def _addresses(context: Context, tenant: Tenant) -> set[tuple[str, tuple[str, ...]]]:
    return {(row.outcome, tuple(row.addresses)) for row in rows(context, _ADDRESSES, id=tenant.project_row)}


def _identity(tenant: Tenant) -> Identity:
    return Identity(tenant.key_id, tenant.key_row, tenant.workspace_row)


def _attempt(tenant: Tenant, event_type: str = "a", *, address: str = "", origin: str | None = None) -> Attempt:
    body = f'{{"event_type": "{event_type}", "source_id": "{tenant.source_id}", "payload": {{}}}}'
    return Attempt(
        envelope=read_envelope(read_object(body.encode())),
        idempotency_key=None,
        event_uid=uuid7(),
        address=address,
        origin=origin,
    )


def _outcomes(session: Session, tenant: Tenant, attempts: list[Attempt]) -> list[Outcome]:
    verdicts = store(
        executing(session),
        [(_identity(tenant), attempt) for attempt in attempts],
        idempotency_ttl_seconds=60,
        lock_wait_seconds=1,
    )
    return [verdict.outcome for verdict in verdicts]
