"""GET /v1/usage/reads: who has read how much, within the operator's reach."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from app.context import Context
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from app.models.read_usage import NO_PROJECT
from tests.support.counted_reads import counted_reads, token_identity
from tests.support.operating import UNKNOWN_ID, ApiClient, api_of, api_with
from tests.support.people import Tenant, execute
from tests.support.sending import error_of, event_for, pointers_of, send

_PATH = "/v1/usage/reads"
_NOTHING = {"answered": 0, "broken_off": 0, "rejected": {}, "events": 0, "body_bytes": 0}
_DAY = "2024-02-29"
_THAT_DAY = {"from": f"{_DAY}T00:00:00Z", "to": "2024-03-01T00:00:00Z"}


def _usage(api: ApiClient, **query: Any) -> dict[str, Any]:
    response = api.get(_PATH, **query)
    assert response.status_code == 200, response.text
    assert isinstance(response.json, dict)
    return response.json


def _note(context: Context, tenant: Tenant, hour: str, **other: Any) -> None:
    """Ten events in two requests of the tenant's token in some hour of that day."""
    values = {
        "workspace": tenant.workspace_row,
        "token": token_identity(context, tenant).row_id,
        "project": tenant.project_row,
        "operation": "searchEvents",
        "outcome": "answered",
        "requests": 2,
        "events": 10,
        "bytes": 1000,
    }
    execute(
        context,
        "INSERT INTO read_hours (workspace_id, token_id, hour, project_id, operation, outcome, requests, events,"
        " body_bytes) VALUES (:workspace, :token, :hour, :project, :operation, :outcome, :requests, :events, :bytes)",
        hour=f"{_DAY}T{hour}:00:00Z",
        **values | other,
    )


class TestCounts:
    def test_what_was_read_is_shown_after_the_flush(self, app: Flask, api: ApiClient, alice: Tenant) -> None:
        assert send(app.test_client(), alice, event_for(alice)).status_code == 201
        page = api.get("/v1/events", project_id=alice.project_id)
        api.get("/v1/events", project_id=alice.project_id, cursor="forged")
        counted_reads(app, alice)

        usage = _usage(api, group_by="operation")

        counts = {
            "answered": 1,
            "broken_off": 0,
            "rejected": {"schema_validation_failed": 1},
            "events": 1,
            "body_bytes": len(page.data),
        }
        assert usage["total"] == counts
        (only,) = usage["data"]
        assert only == counts | {"start": only["start"], "operation": "searchEvents"}

    def test_answered_broken_off_and_refused_by_code_are_counted_apart(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        _note(context, alice, "10")
        _note(context, alice, "10", outcome="broken_off", requests=1, events=0, bytes=0)
        for code, requests in (("query_too_broad", 3), ("rate_limit_exceeded", 4)):
            _note(context, alice, "10", outcome=code, requests=requests, events=0, bytes=0)

        assert _usage(api, **_THAT_DAY)["total"] == {
            "answered": 2,
            "broken_off": 1,
            "rejected": {"query_too_broad": 3, "rate_limit_exceeded": 4},
            "events": 10,
            "body_bytes": 1000,
        }

    def test_a_workspace_in_which_nothing_was_read_has_an_empty_answer(self, api: ApiClient) -> None:
        usage = _usage(api, **_THAT_DAY)

        assert (usage["data"], usage["total"]) == ([], _NOTHING)

    def test_sums_beyond_64_bits_are_exact(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        for hour in ("10", "11"):
            _note(context, alice, hour, bytes=9_223_372_036_854_775_807)

        assert _usage(api, interval="day", **_THAT_DAY)["data"][0]["body_bytes"] == 18_446_744_073_709_551_614


class TestTime:
    def test_hours_and_days_are_utc_and_the_range_is_widened_to_whole_ones(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        for hour in ("00", "10", "23"):
            _note(context, alice, hour)
        query = {"from": f"{_DAY}T12:30:00+02:00", "to": f"{_DAY}T23:00:01Z"}

        by_hour, by_day = _usage(api, **query), _usage(api, interval="day", **query)

        assert [(each["start"], each["events"]) for each in by_hour["data"]] == [
            (f"{_DAY}T10:00:00Z", 10),
            (f"{_DAY}T23:00:00Z", 10),
        ]
        assert (by_hour["from"], by_hour["to"]) == (f"{_DAY}T10:00:00Z", "2024-03-01T00:00:00Z")
        assert [(each["start"], each["events"]) for each in by_day["data"]] == [(f"{_DAY}T00:00:00Z", 30)]

    def test_the_end_is_exclusive(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        _note(context, alice, "10")
        _note(context, alice, "11")

        assert _usage(api, **{"from": f"{_DAY}T10:00:00Z", "to": f"{_DAY}T11:00:00Z"})["total"]["events"] == 10

    def test_the_default_is_the_day_up_to_now(self, api: ApiClient) -> None:
        before = datetime.now(UTC)
        usage = _usage(api)
        begin, end = datetime.fromisoformat(usage["from"]), datetime.fromisoformat(usage["to"])

        assert begin <= before - timedelta(hours=24)
        assert end >= before

    @pytest.mark.parametrize("query", [{"from": "yesterday"}, {"to": "0"}, {"group_by": "key"}, {"interval": "week"}])
    def test_what_is_unclear_is_refused(self, api: ApiClient, query: dict[str, str]) -> None:
        response = api.get(_PATH, **query)

        assert response.status_code == 422
        assert pointers_of(response) == {f"/{name}" for name in query}

    def test_from_must_be_before_to(self, api: ApiClient) -> None:
        response = api.get(_PATH, **{"from": _THAT_DAY["to"], "to": _THAT_DAY["from"]})

        assert (response.status_code, pointers_of(response)) == (422, {"/from"})


class TestGroups:
    @pytest.fixture(name="second")
    def _second(self, app: Flask, context: Context, alice: Tenant, api: ApiClient) -> str:
        """A second token, which has read another project and, with a feed, none."""
        made = api.made("/v1/tokens", {"role": "auditor"})["id"]
        other = api.made("/v1/projects", {"name": "other"})["id"]
        token = "(SELECT id FROM management_tokens WHERE public_id = :made)"
        insert = (
            "INSERT INTO read_hours SELECT :workspace, {token}, timestamptz '{day}T10:00Z', {project}, '{operation}',"
            " 'answered', 1, 1, 1"
        )
        for project, operation in ((f"(SELECT id FROM projects WHERE public_id = '{other}')", "countEvents"), (
            str(NO_PROJECT), "readFeed",
        )):  # fmt: skip
            statement = insert.format(token=token, day=_DAY, project=project, operation=operation)
            execute(context, statement, workspace=alice.workspace_row, made=made)
        return str(made)

    def test_tokens_projects_and_operations_are_counted_apart(
        self, api: ApiClient, context: Context, alice: Tenant, second: str
    ) -> None:
        _note(context, alice, "09")
        _note(context, alice, "10")

        def grouped(by: str, member: str) -> list[tuple[str, Any, int]]:
            return [
                (each["start"][11:13], each[member], each["events"])
                for each in _usage(api, group_by=by, **_THAT_DAY)["data"]
            ]

        by_token = grouped("token", "token_id")
        assert by_token[0] == ("09", alice.token_id, 10)
        assert by_token[1:] == sorted([("10", alice.token_id, 10), ("10", second, 2)], key=lambda it: it[1])
        by_project = grouped("project", "project_id")
        assert by_project[0] == ("09", alice.project_id, 10)
        assert by_project[-1] == ("10", None, 1)
        assert len(by_project) == 4
        assert grouped("operation", "operation")[1:] == [
            ("10", "countEvents", 1),
            ("10", "readFeed", 1),
            ("10", "searchEvents", 10),
        ]

    def test_the_total_is_the_same_however_it_is_grouped(
        self, api: ApiClient, context: Context, alice: Tenant, second: str
    ) -> None:
        _note(context, alice, "09")
        _note(context, alice, "10", outcome="query_too_broad", events=0, bytes=0)

        for group_by in ("token", "project", "operation", "none"):
            assert _usage(api, group_by=group_by, **_THAT_DAY)["total"] == {
                "answered": 4,
                "broken_off": 0,
                "rejected": {"query_too_broad": 2},
                "events": 12,
                "body_bytes": 1002,
            }

    def test_a_filter_shows_a_token_or_a_project_alone(
        self, api: ApiClient, context: Context, alice: Tenant, second: str
    ) -> None:
        _note(context, alice, "09")

        def events(**only: str) -> Any:
            return _usage(api, **_THAT_DAY | only)["total"]["events"]

        assert events(token_id=second) == 2
        assert events(token_id=alice.token_id) == events(project_id=alice.project_id) == 10
        assert events(token_id=second, project_id=alice.project_id) == 0

    def test_revoked_and_archived_is_still_shown(
        self, app: Flask, context: Context, api: ApiClient, alice: Tenant, second: str
    ) -> None:
        """What did the leaked token read?"""
        _note(context, alice, "09")
        assert api.post(f"/v1/tokens/{second}/revoke").status_code == 200
        assert api.delete(f"/v1/projects/{alice.project_id}").status_code == 204

        assert _usage(api, token_id=second, **_THAT_DAY)["total"]["events"] == 2
        assert _usage(api, project_id=alice.project_id, **_THAT_DAY)["total"]["events"] == 10


class TestReach:
    @pytest.fixture(name="narrow")
    def _narrow(self, app: Flask, context: Context, alice: Tenant) -> ApiClient:
        """An auditor of Alice's one project."""
        return api_with(app, context, alice, NewToken(role=Role.AUDITOR, project_ids=(alice.project_id,)))

    def test_a_stranger_sees_nothing_of_it(self, stranger: ApiClient, context: Context, alice: Tenant) -> None:
        _note(context, alice, "09")

        for group_by in ("none", "token", "project", "operation"):
            assert _usage(stranger, group_by=group_by, **_THAT_DAY)["data"] == []

    def test_a_token_for_some_projects_sees_those_only_and_no_refusals_without_one(
        self, narrow: ApiClient, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        _note(context, alice, "09", project=NO_PROJECT, outcome="rate_limit_exceeded", operation="readFeed")
        other = api.made("/v1/projects", {"name": "other"})["id"]
        _note(context, alice, "09")
        execute(
            context,
            "INSERT INTO read_hours SELECT workspace_id, token_id, hour,"
            " (SELECT id FROM projects WHERE public_id = :id), operation, outcome, requests, events, body_bytes"
            " FROM read_hours WHERE project_id = :own",
            id=other,
            own=alice.project_row,
        )

        assert _usage(api, **_THAT_DAY)["total"]["events"] == 30
        for group_by in ("none", "token", "project", "operation"):
            assert _usage(narrow, group_by=group_by, **_THAT_DAY)["total"] == _NOTHING | {
                "answered": 2,
                "events": 10,
                "body_bytes": 1000,
            }
        assert _usage(narrow, group_by="project", **_THAT_DAY)["data"][0]["project_id"] == alice.project_id

    def test_a_token_beyond_the_callers_reach_counts_without_its_id(
        self, narrow: ApiClient, context: Context, alice: Tenant
    ) -> None:
        """GET /v1/tokens does not show it either."""
        _note(context, alice, "09")

        (only,) = _usage(narrow, group_by="token", **_THAT_DAY)["data"]
        assert (only["token_id"], only["events"]) == (None, 10)
        assert narrow.get(_PATH, token_id=alice.token_id).status_code == 404

    def test_an_id_out_of_reach_is_not_found(
        self, app: Flask, context: Context, stranger: ApiClient, api: ApiClient, alice: Tenant
    ) -> None:
        for name, own in (("project_id", alice.project_id), ("token_id", alice.token_id)):
            assert api.get(_PATH, **{name: own}).status_code == 200
            for response in (stranger.get(_PATH, **{name: own}), api.get(_PATH, **{name: UNKNOWN_ID})):
                assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
                assert pointers_of(response) == {f"/{name}"}


def test_two_thousand_counts_are_answered_and_one_more_says_how_to_narrow_it(
    app: Flask, context: Context, alice: Tenant
) -> None:
    api = api_of(app, alice)
    long_ago = {"from": "2020-01-01T00:00:00Z", "to": "2021-01-01T00:00:00Z"}
    execute(
        context,
        "INSERT INTO read_hours SELECT :workspace, :token, timestamptz '2020-01-01Z' + n * interval '1 hour', :project,"
        " 'searchEvents', outcome, 1, 1, 1"
        " FROM generate_series(1, 2000) AS n, (VALUES ('answered'), ('x')) AS it (outcome)",
        workspace=alice.workspace_row,
        token=token_identity(context, alice).row_id,
        project=alice.project_row,
    )
    assert len(_usage(api, **long_ago)["data"]) == 2_000
    execute(
        context,
        "INSERT INTO read_hours SELECT workspace_id, token_id, timestamptz '2020-12-31Z', project_id, operation,"
        " outcome, 1, 1, 1 FROM read_hours WHERE workspace_id = :workspace LIMIT 1",
        workspace=alice.workspace_row,
    )

    refused = api.get(_PATH, **long_ago)
    assert refused.status_code == 422
    assert pointers_of(refused) == {"/from"}
    assert "project_id or token_id" in refused.text
    assert len(_usage(api, interval="day", **long_ago)["data"]) < 100
