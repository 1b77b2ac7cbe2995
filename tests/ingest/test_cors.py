"""CORS: which web pages may ask, and which may read what their key is answered."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from app.credentials.policies import origin_of
from app.errors import OriginNotAllowed
from app.ingest.cors import Origins
from tests.ingest.test_batch import BATCH_PATH, send_batch
from tests.ingest.test_policies import limit
from tests.support.live import LiveServer
from tests.support.people import Tenant, events_of, execute
from tests.support.sending import PATH, error_of, event_for, send

_EXPOSED = {"X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy", "Idempotent-Replayed"}

pytestmark = pytest.mark.wiring


@pytest.fixture(name="origin")
def _origin(context: Context, alice: Tenant) -> str:
    """The page of a shop of Alice's, whose key is a browser key."""
    origin = f"https://{alice.source_id.lower().replace('_', '-')}.example"
    limit(context, alice, allowed_event_types=["payment.*"], allowed_origins=["https://other.example", origin])
    return origin


def _ask(client: FlaskClient, origin: str, path: str = PATH, **headers: str) -> TestResponse:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"} | headers
    return client.options(path, headers=asked)


def _cors(response: TestResponse) -> dict[str, str]:
    return {
        name: value for name, value in response.headers.items() if name.startswith("Access-Control-") or name == "Vary"
    }


class TestPreflight:
    @pytest.mark.parametrize("path", [PATH, BATCH_PATH])
    def test_a_page_of_an_allowed_origin_may_send(self, client: FlaskClient, origin: str, path: str) -> None:
        response = _ask(client, origin, path, **{"Access-Control-Request-Headers": "content-type,x-api-key"})

        assert (response.status_code, response.data) == (204, b"")
        assert "Content-Type" not in response.headers
        assert _cors(response) == {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "x-api-key, content-type, idempotency-key, content-encoding, x-request-id",
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        }

    @pytest.mark.parametrize("path", [PATH, BATCH_PATH])
    @pytest.mark.parametrize("other", ["https://evil.example", "null", "*", "", "x" * 5_000])
    def test_a_page_of_any_other_origin_may_not(self, client: FlaskClient, origin: str, path: str, other: str) -> None:
        for unknown in (other, f"{origin}.evil.example", origin.upper(), origin.replace("https", "http")):
            response = _ask(client, unknown, path)

            assert response.status_code == 403
            assert error_of(response)["code"] == "origin_not_allowed"
            assert _cors(response) == {}

    @pytest.mark.parametrize("end", ["revoked_at = now()", "expires_at = now()", "allowed_origins = NULL"])
    def test_a_key_that_has_ended_lets_no_page_in(
        self, client: FlaskClient, context: Context, alice: Tenant, origin: str, end: str
    ) -> None:
        execute(context, f"UPDATE source_keys SET {end} WHERE id = :id", id=alice.key_row)

        assert _ask(client, origin).status_code == 403

    @pytest.mark.parametrize(
        "headers", [{}, {"Origin": "https://evil.example"}, {"Access-Control-Request-Method": "POST"}]
    )
    def test_any_other_options_tells_what_is_allowed(self, client: FlaskClient, headers: dict[str, str]) -> None:
        response = client.options(PATH, headers=headers)

        assert (response.status_code, response.data) == (204, b"")
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
        assert _cors(response) == {}

    def test_it_needs_no_key_and_stores_nothing(
        self, client: FlaskClient, context: Context, alice: Tenant, origin: str
    ) -> None:
        assert _ask(client, origin, **{"X-API-Key": alice.key}).status_code == 204
        assert events_of(context, alice) == []

    def test_it_works_in_the_real_server(self, live: LiveServer, origin: str) -> None:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}

        answer = live.request("OPTIONS", PATH, headers=asked)

        assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, origin)

    def test_the_management_api_answers_no_page(self, client: FlaskClient, alice: Tenant, origin: str) -> None:
        asked = _ask(client, origin, "/v1/projects")
        read = client.get("/v1/projects", headers=alice.bearer | {"Origin": origin})

        assert (asked.status_code, read.status_code) == (204, 200)
        assert _cors(asked) == _cors(read) == {}


@pytest.mark.parametrize(
    "header", ["", "null", "*", "https://a\0b", "https://ü.example", "https://a b", "file://a", " "]
)
def test_what_names_no_origin_is_one_that_no_key_is_for(header: str) -> None:
    assert origin_of(header) == "null"
    assert origin_of(None) is None


class TestAnswer:
    def _assert_readable(self, response: TestResponse, origin: str) -> None:
        headers = _cors(response)
        exposed = headers.pop("Access-Control-Expose-Headers")
        assert set(exposed.split(", ")) == _EXPOSED
        assert headers == {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def test_a_page_of_the_keys_origin_may_read_it(self, client: FlaskClient, alice: Tenant, origin: str) -> None:
        single = [send(client, alice, idempotency_key="k", headers={"Origin": origin}) for _ in range(2)]
        batch = send_batch(client, alice, [event_for(alice)], headers={"Origin": origin})

        assert [each.status_code for each in (*single, batch)] == [201, 201, 200]
        for response in (*single, batch):
            self._assert_readable(response, origin)

    def test_it_may_read_every_refusal_once_the_key_is_known(
        self, client: FlaskClient, context: Context, alice: Tenant, origin: str
    ) -> None:
        sent: dict[str, Any] = {"headers": {"Origin": origin}}
        refused = [
            send(client, alice, "{", **sent),
            send(client, alice, {"event_type": 1}, **sent),
            send(client, alice, event_for(alice, event_type="cart"), **sent),
            send(client, alice, event_for(alice, source_id="src_other"), **sent),
            send(client, alice, content_type="text/plain", **sent),
            send_batch(client, alice, [], **sent),
        ]
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)
        refused.append(send(client, alice, **sent))

        assert [each.status_code for each in refused] == [400, 422, 403, 403, 415, 422, 401]
        for response in refused:
            self._assert_readable(response, origin)

    def test_a_page_of_another_origin_may_not(
        self, client: FlaskClient, context: Context, alice: Tenant, charlie: Tenant, origin: str
    ) -> None:
        limit(context, charlie, allowed_event_types=["a"], allowed_origins=["https://charlies.example"])

        for other in ("https://charlies.example", "null", origin.upper()):
            response = send(client, alice, headers={"Origin": other})

            assert (response.status_code, _cors(response)) == (403, {})

    def test_no_page_may_read_what_other_keys_are_answered(
        self, client: FlaskClient, charlie: Tenant, origin: str
    ) -> None:
        response = send(client, charlie, headers={"Origin": origin})

        assert (response.status_code, _cors(response)) == (201, {})

    def test_no_page_may_read_what_an_unknown_key_is_answered(
        self, client: FlaskClient, alice: Tenant, origin: str
    ) -> None:
        response = send(client, alice, key="lrb_sk_nobody", headers={"Origin": origin})

        assert (response.status_code, _cors(response)) == (401, {})

    def test_without_an_origin_nothing_is_said_about_pages(self, client: FlaskClient, charlie: Tenant) -> None:
        assert _cors(send(client, charlie)) == {}

    def test_an_origin_that_was_just_added_may_read_at_once(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        new = "https://new.example"
        before = send(client, alice, headers={"Origin": new})
        limit(context, alice, allowed_event_types=["payment.*"], allowed_origins=[new])

        assert _cors(before) == {}
        self._assert_readable(send(client, alice, headers={"Origin": new}), new)


class TestMemory:
    def test_an_answer_is_remembered_for_some_seconds_and_then_asked_for_again(
        self, context: Context, alice: Tenant, origin: str
    ) -> None:
        now = [0.0]
        origins = Origins(context.database, clock=lambda: now[0])
        origins.require_known(origin)
        limit(context, alice, allowed_origins=None)

        origins.require_known(origin)
        now[0] += 3.0
        with pytest.raises(OriginNotAllowed):
            origins.require_known(origin)

    def test_so_is_a_no_to_a_preflight(self, context: Context, alice: Tenant, origin: str) -> None:
        now = [0.0]
        origins = Origins(context.database, clock=lambda: now[0])
        limit(context, alice, allowed_origins=None)
        with pytest.raises(OriginNotAllowed):
            origins.require_known(origin)
        limit(context, alice, allowed_origins=[origin])

        with pytest.raises(OriginNotAllowed):
            origins.require_known(origin)
        now[0] += 3.0
        origins.require_known(origin)

    def test_it_is_bounded(self, context: Context) -> None:
        origins = Origins(context.database)
        for n in range(1_100):
            with pytest.raises(OriginNotAllowed):
                origins.require_known(f"https://{n}.example")

        assert len(origins._remembered) <= 1_000  # noqa: SLF001
