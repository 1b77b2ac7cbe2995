"""Lists, page after page: one schema, nothing twice, nothing left out, and cursors that open one list only."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
import pytest
from flask import Flask
from itsdangerous import URLSafeSerializer

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.factory import create_app
from tests.support.databases import SECRET_KEY, close
from tests.support.operating import ApiClient
from tests.support.people import Tenant, execute
from tests.support.sending import pointers_of


def _names(page: dict[str, Any] | None) -> list[str]:
    assert page is not None
    assert set(page) == {"data", "next_cursor"}
    return [each["name"] for each in page["data"]]


def _delete(context: Context, table: str, public_id: str) -> None:
    """As the owner: the API archives most rows."""
    with psycopg.connect(context.settings.admin_database_url) as owner:
        owner.execute(f"DELETE FROM {table} WHERE public_id = %s", [public_id])


@pytest.fixture(name="path")
def _path(api: ApiClient, alice: Tenant) -> str:
    """The list of an environment with the sources a, b, c, d, e beside the first one, checkout."""
    path = f"/v1/environments/{alice.environment_id}/sources"
    for name in "abcde":
        api.made(path, {"name": name, "type": "erp"})
    return path


def test_pages_follow_one_another_to_the_end(api: ApiClient, path: str) -> None:
    first = api.get(path, limit=4).json
    assert _names(first) == ["e", "d", "c", "b"]
    assert first is not None

    last = api.get(path, limit=4, cursor=first["next_cursor"]).json
    assert _names(last) == ["a", "checkout"]
    assert last is not None
    assert last["next_cursor"] is None


def test_a_page_that_is_exactly_full_and_the_last_has_no_cursor(api: ApiClient, path: str) -> None:
    page = api.get(path, limit=6).json

    assert len(_names(page)) == 6
    assert page is not None
    assert page["next_cursor"] is None


def test_what_is_added_meanwhile_neither_repeats_nor_hides_anything(api: ApiClient, path: str) -> None:
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(path, limit=2, **cursor).json
        seen += _names(page)
        assert page is not None
        api.made(path, {"name": f"late {len(seen)}", "type": "erp"})
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}

    assert seen == ["e", "d", "c", "b", "a", "checkout"]


def test_pages_are_in_order_of_time_whatever_the_numbers_of_the_rows(
    api: ApiClient, context: Context, alice: Tenant, path: str
) -> None:
    execute(
        context,
        "UPDATE sources SET created_at = timestamptz '2026-01-01Z' + ascii(name) % 3 * interval '1 day'"
        " WHERE environment_id = (SELECT environment_id FROM sources WHERE id = :id)",
        id=alice.source_row,
    )
    # Of equal moments the newer row comes first.
    in_order = ["e", "b", "d", "a", "c", "checkout"]
    walked: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(path, limit=1, **cursor).json
        walked += _names(page)
        assert page is not None
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}

    assert walked == in_order


def test_the_walk_goes_on_though_the_row_that_the_cursor_names_was_archived(api: ApiClient, path: str) -> None:
    page = api.get(path, limit=2).json
    assert page is not None

    api.delete(f"/v1/sources/{page['data'][-1]['id']}")

    assert _names(api.get(path, limit=2, cursor=page["next_cursor"]).json) == ["c", "b"]


def test_the_walk_goes_on_where_a_row_was_that_is_deleted_meanwhile(
    api: ApiClient, context: Context, path: str
) -> None:
    page = api.get(path, limit=2).json
    assert page is not None

    _delete(context, "sources", page["data"][-1]["id"])

    assert _names(api.get(path, limit=2, cursor=page["next_cursor"]).json) == ["c", "b"]


def test_a_walk_from_the_oldest_row_on_does_too(api: ApiClient, context: Context, alice: Tenant) -> None:
    path = f"/v1/projects/{alice.project_id}/environments"
    for name in "abc":
        api.made(path, {"name": name})
    page = api.get(path, limit=2).json
    assert page is not None
    assert _names(page)[-1] == "a"

    _delete(context, "environments", page["data"][-1]["id"])

    assert _names(api.get(path, limit=2, cursor=page["next_cursor"]).json) == ["b", "c"]


def test_rows_of_the_same_moment_as_one_that_is_deleted_are_not_left_out(
    api: ApiClient, context: Context, alice: Tenant, path: str
) -> None:
    execute(
        context,
        "UPDATE sources SET created_at = '2026-01-01Z'"
        " WHERE environment_id = (SELECT environment_id FROM sources WHERE id = :id)",
        id=alice.source_row,
    )
    page = api.get(path, limit=2).json
    assert page is not None
    assert _names(page) == ["e", "d"]

    _delete(context, "sources", page["data"][-1]["id"])

    assert _names(api.get(path, cursor=page["next_cursor"]).json) == ["e", "c", "b", "a", "checkout"]


def test_a_list_without_a_limit_shows_fifty(api: ApiClient, alice: Tenant) -> None:
    for n in range(51):
        api.made(f"/v1/projects/{alice.project_id}/environments", {"name": f"e{n}"})

    page = api.get(f"/v1/projects/{alice.project_id}/environments").json

    assert len(_names(page)) == 50
    assert len(api.all_of(f"/v1/projects/{alice.project_id}/environments", limit=200)) == 52


@pytest.mark.parametrize(
    "limit", ["0", "-1", "201", "1000", "9" * 5_000, "", " 5", "+5", "1_0", "5.0", "1e2", "٣", "null", "\0"]
)
def test_a_limit_that_is_not_a_number_from_1_to_200_is_refused(api: ApiClient, limit: str) -> None:
    refused = api.get("/v1/projects", limit=limit)

    assert refused.status_code == 422
    assert pointers_of(refused) == {"/limit"}


class TestCursor:
    @pytest.fixture(name="cursor")
    def _cursor(self, api: ApiClient, path: str) -> str:
        page = api.get(path, limit=2).json
        assert page is not None
        return str(page["next_cursor"])

    def _refused(self, api: ApiClient, path: str, cursor: str, **query: str) -> bool:
        response = api.get(path, cursor=cursor, **query)
        assert response.status_code in (200, 422)
        return response.status_code == 422 and pointers_of(response) == {"/cursor"}

    def test_it_opens_the_list_it_came_from(self, api: ApiClient, bob: ApiClient, path: str, cursor: str) -> None:
        assert not self._refused(api, path, cursor)
        assert not self._refused(bob, path, cursor)

    def test_it_opens_no_other_list(self, api: ApiClient, alice: Tenant, path: str, cursor: str) -> None:
        others = ["/v1/projects", "/v1/sources", f"/v1/projects/{alice.project_id}/environments"]

        assert all(self._refused(api, other, cursor) for other in others)

    def test_it_opens_no_list_with_other_filters(self, api: ApiClient, path: str) -> None:
        page = api.get("/v1/sources", limit=1, type="erp").json
        assert page is not None
        cursor = page["next_cursor"]

        assert not self._refused(api, "/v1/sources", cursor, type="erp")
        assert self._refused(api, "/v1/sources", cursor)
        assert self._refused(api, "/v1/sources", cursor, type="erp", status="enabled")

    def test_it_opens_nothing_in_another_workspace(self, stranger: ApiClient, api: ApiClient, path: str) -> None:
        page = api.get("/v1/sources", limit=1).json
        assert page is not None

        assert self._refused(stranger, "/v1/sources", page["next_cursor"])

    @pytest.mark.parametrize("forged", ["", "x", "\0", "é", "a" * 10_000, "WyJzcmMiXQ.x", ".eJw.x.y", "null"])
    def test_a_forged_one_is_refused(self, api: ApiClient, path: str, forged: str) -> None:
        assert self._refused(api, path, forged)

    def test_a_changed_one_is_refused(self, api: ApiClient, path: str, cursor: str) -> None:
        payload, _, signature = cursor.rpartition(".")

        assert self._refused(api, path, f"{payload[:-1]}.{signature}")
        assert self._refused(api, path, f"{payload}.{signature[:-2]}")
        assert self._refused(api, path, payload)

    def test_it_shows_nothing_of_the_last_row_but_what_the_page_does(
        self, api: ApiClient, path: str, cursor: str
    ) -> None:
        page = api.get(path, limit=2).json
        assert page is not None
        last = page["data"][-1]

        created_at, public_id = URLSafeSerializer("").load_payload(cursor.rpartition(".")[0].encode())
        assert (datetime.fromisoformat(created_at), public_id) == (
            datetime.fromisoformat(last["created_at"]),
            last["id"],
        )
        assert len(cursor) < 150


class TestRotation:
    @pytest.fixture(name="rotated")
    def _rotated(self, settings: Settings) -> Iterator[Flask]:
        """The application after a new secret was put in front of the old one."""
        secrets = ("a newer secret that is long enough to be taken", SECRET_KEY)
        app = create_app(replace(settings, secret_key=secrets), credentials=Credentials(secrets, argon2_runs_max=2))
        yield app
        close(app.extensions[EXTENSION].database)

    def test_a_cursor_signed_with_an_older_secret_still_opens_its_list(
        self, rotated: Flask, api: ApiClient, alice: Tenant, path: str
    ) -> None:
        old = api.get(path, limit=2).json
        assert old is not None
        newer = ApiClient(rotated.test_client(), alice.token)

        page = newer.get(path, limit=2, cursor=old["next_cursor"])

        assert _names(page.json) == ["c", "b"]
        assert page.json is not None
        assert api.get(path, limit=2, cursor=page.json["next_cursor"]).status_code == 422
