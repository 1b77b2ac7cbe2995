"""GET /v1/usage and the usage of one key, source or project: exact at any moment, within the operator's reach."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.ingest.services import EXTENSION as INGEST
from app.maintenance.usage import fold_usage
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.operating import MOMENT, UNKNOWN_ID, ApiClient, api_with
from tests.support.people import Tenant, execute, issue_key, rows, source_of
from tests.support.sending import error_of, event_for, pointers_of, send

_NOTHING = {"stored": 0, "duplicate": 0, "replayed": 0, "rejected": {}, "payload_bytes": 0}
_DAY = "2024-02-29"
_THAT_DAY = {"from": f"{_DAY}T00:00:00Z", "to": "2024-03-01T00:00:00Z"}


def _usage(api: ApiClient, path: str = "/v1/usage", **query: Any) -> dict[str, Any]:
    response = api.get(path, **query)
    assert response.status_code == 200, response.text
    assert isinstance(response.json, dict)
    return response.json


def _refused(api: ApiClient, **query: Any) -> set[str]:
    response = api.get("/v1/usage", **query)
    assert response.status_code == 422, response.text
    return pointers_of(response)


def _note(context: Context, tenant: Tenant, at: str, outcome: str = "stored", events: int = 1, **other: Any) -> None:
    """What the ingest transaction leaves of events of another time."""
    execute(
        context,
        "INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,"
        " payload_bytes, received_at)"
        " VALUES (:project, gen_random_uuid(), :workspace, :source, :key, :outcome, :events, :bytes, :at)",
        workspace=tenant.workspace_row,
        **{"project": tenant.project_row, "source": tenant.source_row, "key": tenant.key_row, "bytes": 10} | other,
        outcome=outcome,
        events=events,
        at=at,
    )


@pytest.fixture(name="second")
def _second(context: Context, alice: Tenant) -> str:
    """A second key of Alice's source, with five events on that day."""
    row, key_id, _ = issue_key(context, source_of(context, alice))
    _note(context, alice, f"{_DAY}T10:30:00Z", events=5, key=row)
    return key_id


class TestCounts:
    def test_each_outcome_is_counted_for_itself_and_refusals_by_code(
        self, api: ApiClient, client: FlaskClient, app: Flask, alice: Tenant
    ) -> None:
        event = event_for(alice, event_id="e", payload={"a": 1})
        send(client, alice, event, idempotency_key="k")
        send(client, alice, event, idempotency_key="k")
        send(client, alice, event)
        send(client, alice, event | {"payload": {}})
        send(client, alice, "not json")
        send(client, alice, "not json")
        app.extensions[INGEST].refusals.flush()

        usage = _usage(api)

        counts = {
            "stored": 1,
            "duplicate": 1,
            "replayed": 1,
            "rejected": {"bad_request": 2, "duplicate_event": 1},
            "payload_bytes": len('{"a": 1}'),
        }
        assert usage["total"] == counts
        (only,) = usage["data"]
        assert only == counts | {"start": only["start"]}

    def test_the_numbers_are_the_same_before_and_after_the_fold(
        self, api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        for _ in range(3):
            send(client, alice)
        before = _usage(api, group_by="key")
        fold_usage(context.database)
        send(client, alice)

        after = _usage(api, group_by="key")

        assert before["total"]["stored"] == 3
        assert after["total"]["stored"] == 4
        assert [each["key_id"] for each in after["data"]] == [alice.key_id]

    def test_a_workspace_without_events_has_an_empty_answer(self, api: ApiClient) -> None:
        usage = _usage(api)

        assert (usage["data"], usage["total"]) == ([], _NOTHING)

    def test_numbers_beyond_64_bits_are_exact(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        for _ in range(2):
            _note(context, alice, f"{_DAY}T10:00:00Z", events=9_223_372_036_854_775_807)
        try:
            assert _usage(api, **_THAT_DAY)["total"]["stored"] == 18_446_744_073_709_551_614
        finally:
            execute(context, "DELETE FROM usage_outbox WHERE project_id = :id", id=alice.project_row)


class TestTime:
    def test_hours_and_days_are_utc_and_only_those_in_which_something_happened(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        for at in ("00:00:00Z", "00:59:59.999999Z", "23:30:00Z", "23:30:00-02:00"):
            _note(context, alice, f"{_DAY}T{at}")

        by_hour = _usage(api, **_THAT_DAY | {"to": "2024-03-02T00:00:00Z"})
        by_day = _usage(api, interval="day", **_THAT_DAY | {"to": "2024-03-02T00:00:00Z"})

        assert [(each["start"], each["stored"]) for each in by_hour["data"]] == [
            ("2024-02-29T00:00:00Z", 2),
            ("2024-02-29T23:00:00Z", 1),
            ("2024-03-01T01:00:00Z", 1),
        ]
        assert [(each["start"], each["stored"]) for each in by_day["data"]] == [
            ("2024-02-29T00:00:00Z", 3),
            ("2024-03-01T00:00:00Z", 1),
        ]

    def test_from_is_inclusive_and_to_is_not(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        for at in ("09:59:59.999999Z", "10:00:00Z", "10:59:59.999999Z", "11:00:00Z"):
            _note(context, alice, f"{_DAY}T{at}")

        query = {"from": f"{_DAY}T10:00:00Z", "to": f"{_DAY}T11:00:00Z"}
        unfolded = _usage(api, **query)["total"]["stored"]
        fold_usage(context.database)

        assert unfolded == _usage(api, **query)["total"]["stored"] == 2

    def test_the_range_is_widened_to_whole_intervals_and_shown(self, api: ApiClient) -> None:
        query = {"from": f"{_DAY}T12:30:00+02:00", "to": f"{_DAY}T11:00:01Z"}

        by_hour, by_day = _usage(api, **query), _usage(api, interval="day", **query)

        assert (by_hour["from"], by_hour["to"]) == (f"{_DAY}T10:00:00Z", f"{_DAY}T12:00:00Z")
        assert (by_day["from"], by_day["to"]) == (f"{_DAY}T00:00:00Z", "2024-03-01T00:00:00Z")
        assert (by_hour["interval"], by_hour["group_by"]) == ("hour", "none")
        assert by_day["interval"] == "day"

    @pytest.mark.parametrize(("interval", "back"), [("hour", timedelta(hours=24)), ("day", timedelta(days=30))])
    def test_the_default_is_the_time_up_to_now(self, api: ApiClient, interval: str, back: timedelta) -> None:
        before = datetime.now(UTC)
        usage = _usage(api, interval=interval)
        begin, end = datetime.fromisoformat(usage["from"]), datetime.fromisoformat(usage["to"])

        assert MOMENT.fullmatch(usage["from"])
        assert begin <= before - back
        assert end >= before
        assert end - begin <= back + 2 * timedelta(days=1 if interval == "day" else 1 / 24)

    def test_without_from_it_is_the_time_before_to(self, api: ApiClient) -> None:
        usage = _usage(api, to=f"{_DAY}T00:00:00Z")

        assert usage["from"] == "2024-02-28T00:00:00Z"

    @pytest.mark.parametrize(
        "moment",
        ["2024-02-29T10:00:00", "2024-02-30T10:00:00Z", "yesterday", "", "0", "0001-01-01T00:00:00+23:59",
         "1969-12-31T23:59:59Z", "9999-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2024-02-29T10:00:00 02:00"],
    )  # fmt: skip
    @pytest.mark.parametrize("name", ["from", "to"])
    def test_a_moment_that_is_unclear_or_out_of_all_time_is_refused(
        self, api: ApiClient, name: str, moment: str
    ) -> None:
        assert _refused(api, **{name: moment}) == {f"/{name}"}

    @pytest.mark.parametrize("begin", ["2024-03-01T00:00:00Z", "2024-03-01T00:00:01Z", "2098-01-01T00:00:00Z"])
    def test_from_must_be_before_to(self, api: ApiClient, begin: str) -> None:
        assert _refused(api, **{"from": begin, "to": "2024-03-01T00:00:00Z"}) == {"/from"}

    def test_the_whole_time_of_the_calendar_can_be_asked_for(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        _note(context, alice, f"{_DAY}T10:00:00Z")

        usage = _usage(api, **{"from": "1970-01-01T00:00:00Z", "to": "9998-12-31T23:59:59Z"})

        assert usage["total"]["stored"] == 1


class TestGroups:
    def test_keys_sources_and_projects_are_counted_apart_and_ordered_by_start_then_id(
        self, api: ApiClient, context: Context, alice: Tenant, second: str
    ) -> None:
        _note(context, alice, f"{_DAY}T10:00:00Z", outcome="replayed")
        _note(context, alice, f"{_DAY}T09:00:00Z")

        by_key = _usage(api, group_by="key", **_THAT_DAY)["data"]

        assert [(each["start"][11:13], each["key_id"]) for each in by_key] == [
            ("09", alice.key_id),
            *(("10", key_id) for key_id in sorted((alice.key_id, second))),
        ]
        for group_by, own in (("source", alice.source_id), ("project", alice.project_id)):
            grouped = _usage(api, group_by=group_by, **_THAT_DAY)["data"]
            assert [(each[f"{group_by}_id"], each["stored"], each["replayed"]) for each in grouped] == [
                (own, 1, 0),
                (own, 5, 1),
            ]
            assert set(grouped[0]) == {*_NOTHING, "start", f"{group_by}_id"}

    def test_the_total_is_the_sum_of_what_is_shown(
        self, api: ApiClient, context: Context, alice: Tenant, second: str
    ) -> None:
        _note(context, alice, f"{_DAY}T09:00:00Z", outcome="bad_request", events=3, bytes=0)
        _note(context, alice, f"{_DAY}T10:00:00Z", outcome="bad_request", events=4, bytes=0)

        for group_by in ("key", "source", "project", "none"):
            total = _usage(api, group_by=group_by, **_THAT_DAY)["total"]
            assert total == _NOTHING | {"stored": 5, "payload_bytes": 10, "rejected": {"bad_request": 7}}

    def test_the_bytes_are_those_of_stored_events(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        for outcome in ("stored", "duplicate", "replayed"):
            _note(context, alice, f"{_DAY}T09:00:00Z", outcome=outcome, bytes=7)

        assert _usage(api, **_THAT_DAY)["total"]["payload_bytes"] == 7


class TestOne:
    def test_a_key_a_source_and_a_project_show_their_own(
        self, api: ApiClient, context: Context, alice: Tenant, second: str
    ) -> None:
        _note(context, alice, f"{_DAY}T09:00:00Z")

        shown = {
            path: _usage(api, path, **_THAT_DAY)
            for path in (
                f"/v1/keys/{second}/usage",
                f"/v1/sources/{alice.source_id}/usage",
                f"/v1/projects/{alice.project_id}/usage",
            )
        }

        assert [usage["total"]["stored"] for usage in shown.values()] == [5, 6, 6]
        assert [usage["group_by"] for usage in shown.values()] == ["key", "source", "project"]
        assert shown[f"/v1/keys/{second}/usage"]["data"][0]["key_id"] == second

    def test_a_filter_shows_the_same(self, api: ApiClient, context: Context, alice: Tenant, second: str) -> None:
        _note(context, alice, f"{_DAY}T09:00:00Z")

        def stored(**only: str) -> int:
            number = _usage(api, **_THAT_DAY | only)["total"]["stored"]
            assert isinstance(number, int)
            return number

        assert stored(key_id=second) == 5
        assert stored(source_id=alice.source_id) == stored(project_id=alice.project_id) == 6
        assert stored(key_id=second, source_id=alice.source_id, project_id=alice.project_id) == 5

    def test_revoked_and_archived_is_still_shown(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        _note(context, alice, f"{_DAY}T09:00:00Z")
        api.post(f"/v1/keys/{alice.key_id}/revoke")
        api.delete(f"/v1/sources/{alice.source_id}")
        api.delete(f"/v1/projects/{alice.project_id}")

        for path in (
            f"/v1/keys/{alice.key_id}/usage",
            f"/v1/sources/{alice.source_id}/usage",
            f"/v1/projects/{alice.project_id}/usage",
            "/v1/usage",
        ):
            assert _usage(api, path, **_THAT_DAY)["total"]["stored"] == 1, path


class TestReach:
    @pytest.fixture(name="narrow")
    def _narrow(self, app: Flask, context: Context, api: ApiClient, alice: Tenant) -> ApiClient:
        """An auditor of another project of Alice's workspace."""
        other = api.made("/v1/projects", {"name": "other"})["id"]
        return api_with(app, context, alice, NewToken(role=Role.AUDITOR, label="narrow", project_ids=(other,)))

    def test_a_stranger_sees_nothing_of_it(self, stranger: ApiClient, context: Context, alice: Tenant) -> None:
        _note(context, alice, f"{_DAY}T09:00:00Z")

        assert _usage(stranger, **_THAT_DAY)["total"] == _NOTHING

    def test_a_token_for_some_projects_sees_those_only(
        self, narrow: ApiClient, context: Context, alice: Tenant
    ) -> None:
        _note(context, alice, f"{_DAY}T09:00:00Z")

        assert _usage(narrow, **_THAT_DAY)["total"] == _NOTHING
        for path in (f"keys/{alice.key_id}", f"sources/{alice.source_id}", f"projects/{alice.project_id}"):
            assert narrow.get(f"/v1/{path}/usage").status_code == 404

    def test_an_id_out_of_reach_is_not_found_in_a_filter_either(
        self, narrow: ApiClient, stranger: ApiClient, api: ApiClient, alice: Tenant
    ) -> None:
        for name, own in (("project_id", alice.project_id), ("source_id", alice.source_id), ("key_id", alice.key_id)):
            assert api.get("/v1/usage", **{name: own}).status_code == 200
            for response in (
                narrow.get("/v1/usage", **{name: own}),
                stranger.get("/v1/usage", **{name: own}),
                api.get("/v1/usage", **{name: UNKNOWN_ID}),
            ):
                assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
                assert pointers_of(response) == {f"/{name}"}


class TestBounds:
    def _note_hours(self, context: Context, tenant: Tenant, hours: int) -> None:
        execute(
            context,
            "INSERT INTO usage_hours SELECT :project, :key, timestamptz '2020-01-01Z' + n * interval '1 hour',"
            " 'stored', :workspace, :source, 1, 1 FROM generate_series(1, :hours) AS n",
            workspace=tenant.workspace_row,
            project=tenant.project_row,
            key=tenant.key_row,
            source=tenant.source_row,
            hours=hours,
        )

    def test_two_thousand_counts_are_answered_and_one_more_says_how_to_narrow_it(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        long_ago = {"from": "2020-01-01T00:00:00Z", "to": "2021-01-01T00:00:00Z"}
        self._note_hours(context, alice, 2_000)
        assert len(_usage(api, **long_ago)["data"]) == 2_000

        _note(context, alice, "2020-12-31T00:00:00Z")
        refused = api.get("/v1/usage", **long_ago)

        assert refused.status_code == 422
        (detail,) = error_of(refused)["details"]
        assert detail["pointer"] == "/from"
        assert "interval=day" in detail["message"]
        assert _usage(api, interval="day", **long_ago)["total"]["stored"] == 2_001

    @pytest.mark.parametrize(
        ("name", "value"),
        [("interval", "minute"), ("group_by", "outcome"), ("key_id", "no id!"), ("limit", "1"), ("form", "x")],
    )
    def test_what_it_does_not_know_is_refused(self, api: ApiClient, name: str, value: str) -> None:
        assert _refused(api, **{name: value}) == {f"/{name}"}

    def test_one_objects_usage_cannot_be_grouped_or_filtered(self, api: ApiClient, alice: Tenant) -> None:
        response = api.get(f"/v1/keys/{alice.key_id}/usage", group_by="source")

        assert response.status_code == 422

    def test_reading_writes_nothing(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        def entries() -> int:
            return len(rows(context, "SELECT 1 FROM audit_entries WHERE workspace_id = :id", id=alice.workspace_row))

        before = entries()
        _usage(api)

        assert entries() == before
