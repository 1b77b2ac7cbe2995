"""One event: found by our id and by the producer's, exact to the last digit, and by nobody else."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.events.query.identity import shown_id
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant, execute
from tests.support.sending import event_for, send


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    return api_of(app, alice)


class TestReading:
    def test_shows_the_envelope_as_it_was_sent(self, client: FlaskClient, api: ApiClient, alice: Tenant) -> None:
        sent = event_for(alice) | {
            "event_id": "evt/1é",
            "severity": "error",
            "timestamp": "2026-06-01T10:00:00.5+02:00",
            "payload": {"b": 1, "a": ["é", None, True]},
        }
        before = datetime.now(UTC)
        assert send(client, alice, sent).status_code == 201

        by_event_id = api.get(f"/v1/sources/{alice.source_id}/events/evt/1é")
        assert by_event_id.status_code == 200, by_event_id.json
        shown = by_event_id.json or {}
        assert shown == api.get(f"/v1/events/{shown['id']}").json
        received_at = datetime.fromisoformat(shown.pop("received_at"))
        assert abs(received_at - before) < timedelta(minutes=1)
        assert shown.pop("id").startswith("evu_")
        assert shown == {
            "event_id": "evt/1é",
            "event_type": sent["event_type"],
            "source_id": alice.source_id,
            "environment": "production",
            "severity": "error",
            "timestamp": "2026-06-01T08:00:00.500000Z",
            "project_id": alice.project_id,
            "environment_id": alice.environment_id,
            "key_id": alice.key_id,
            "payload": {"b": 1, "a": ["é", None, True]},
            "origin": None,
        }

    def test_keeps_every_digit_of_a_number(self, client: FlaskClient, api: ApiClient, alice: Tenant) -> None:
        digits = "12345678901234567890.12345678901234567890"
        body = f'{{"event_id": "n", "event_type": "a", "source_id": "{alice.source_id}", "payload": {{"n": {digits}}}}}'
        headers = {"X-API-Key": alice.key, "Content-Type": "application/json"}
        assert client.post("/v1/events/ingest", data=body, headers=headers).status_code == 201

        assert digits in api.get(f"/v1/sources/{alice.source_id}/events/n").text

    def test_of_an_archived_source_goes_on(self, client: FlaskClient, api: ApiClient, alice: Tenant) -> None:
        assert send(client, alice, event_for(alice) | {"event_id": "e"}).status_code == 201
        assert api.delete(f"/v1/sources/{alice.source_id}").status_code == 204

        assert api.get(f"/v1/sources/{alice.source_id}/events/e").status_code == 200

    def test_names_what_the_database_holds_now(
        self, client: FlaskClient, context: Context, api: ApiClient, alice: Tenant
    ) -> None:
        """A database that was restored may have given an inner id to another source."""
        shown = event_for(alice) | {"event_id": "e"}
        assert send(client, alice, shown).status_code == 201
        assert (api.get(f"/v1/sources/{alice.source_id}/events/e").json or {})["source_id"] == alice.source_id

        other = f"{alice.source_id[:-1]}{'a' if alice.source_id[-1] != 'a' else 'b'}"
        execute(context, "UPDATE sources SET public_id = :other WHERE id = :id", other=other, id=alice.source_row)
        assert (api.get(f"/v1/sources/{other}/events/e").json or {})["source_id"] == other


class TestWhatIsNotFound:
    def test_is_the_same_for_events_of_others_and_for_none(
        self, app: Flask, client: FlaskClient, alice: Tenant, charlie: Tenant
    ) -> None:
        assert send(client, charlie, event_for(charlie) | {"event_id": "e"}).status_code == 201
        theirs = api_of(app, charlie).get(f"/v1/sources/{charlie.source_id}/events/e").json
        assert theirs is not None
        none = shown_id(datetime.now(UTC), UUID(int=7))
        api = api_of(app, alice)

        answers = {
            api.call("GET", path, headers={"X-Request-ID": "the-same"}).text
            for path in (
                f"/v1/events/{theirs['id']}",
                f"/v1/events/{none}",
                "/v1/events/evu_1",
                f"/v1/sources/{charlie.source_id}/events/e",
                "/v1/sources/src_none/events/e",
            )
        }
        assert len(answers) == 1

    @pytest.mark.parametrize("event_id", ["other", "%00", "a%00b", "%ff", "%F0%9F%92%A9", "a" * 300])
    def test_is_any_other_event_id(self, api: ApiClient, alice: Tenant, event_id: str) -> None:
        assert api.get(f"/v1/sources/{alice.source_id}/events/{event_id}").status_code == 404
