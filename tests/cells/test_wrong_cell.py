"""A key or token that has come to another cell than its own: 421, and where to go."""

from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.cells.directory import OtherCells
from app.cells.names import read_name, row_ids
from app.config import Settings
from app.database.engine import Database
from app.errors import InvalidSourceKey, StorageUnavailable, WrongCell
from tests.support.cells import Cell, cells
from tests.support.people import Tenant, make_tenant, rows
from tests.support.sending import PATH, error_of, event_for, send


@pytest.fixture(name="pair", scope="module")
def _pair(server_url: str, migrated: Settings) -> Iterator[list[Cell]]:
    with cells(server_url, migrated, "eu1", "us1") as pair:
        yield pair


@pytest.fixture(name="here")
def _here(pair: list[Cell]) -> Cell:
    return pair[0]


@pytest.fixture(name="stranger")
def _stranger(pair: list[Cell]) -> Tenant:
    """Of the other cell."""
    return make_tenant(pair[1].context)


def _batch(client: FlaskClient, tenant: Tenant) -> TestResponse:
    return client.post(f"{PATH}/batch", json={"events": [event_for(tenant)]}, headers={"X-API-Key": tenant.key})


def _receipt(client: FlaskClient, tenant: Tenant) -> TestResponse:
    return client.get(f"{PATH}/some-event", headers={"X-API-Key": tenant.key})


def _manage(client: FlaskClient, tenant: Tenant) -> TestResponse:
    return client.get("/v1/projects", headers=tenant.bearer)


@pytest.mark.parametrize("call", [send, _batch, _receipt, _manage])
def test_the_answer_names_its_cell_and_nothing_is_stored(
    here: Cell, stranger: Tenant, call: Callable[[FlaskClient, Tenant], TestResponse]
) -> None:
    response = call(here.app.test_client(), stranger)

    assert response.status_code == 421
    assert error_of(response)["code"] == "wrong_cell"
    assert "the cell us1" in error_of(response)["message"]
    assert response.headers["Lariba-Cell"] == "us1"
    assert rows(here.context, "SELECT 1 FROM events") == []


def test_in_its_own_cell_it_is_let_in(pair: list[Cell], stranger: Tenant) -> None:
    assert send(pair[1].app.test_client(), stranger).status_code == 201
    assert _manage(pair[1].app.test_client(), stranger).status_code == 200


@pytest.mark.parametrize("name", ["eu1", "xy9"])
def test_an_unknown_key_of_this_cell_or_of_none_is_an_unknown_key(here: Cell, stranger: Tenant, name: str) -> None:
    read_name(name)
    response = send(here.app.test_client(), stranger, key=stranger.key.replace("lrb_sk_us1", f"lrb_sk_{name}"))

    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_source_key")


def test_a_forged_key_learns_what_its_own_letters_say_and_costs_no_query(here: Cell, stranger: Tenant) -> None:
    client = here.app.test_client()
    assert send(client, stranger).status_code == 421  # the other cells have been read

    with patch.object(Database, "transaction", side_effect=AssertionError):
        response = send(client, stranger, key=f"{stranger.key[:-1]}{'a' if stranger.key[-1] != 'a' else 'b'}")
    assert response.headers["Lariba-Cell"] == "us1"


class TestOtherCells:
    """What a process knows of them."""

    def _refused(self, others: OtherCells, key: str = "lrb_sk_us1aaaaaaaaaaaaa_x") -> type[Exception]:
        with pytest.raises((InvalidSourceKey, WrongCell)) as refusal, others.naming_theirs(key):
            raise InvalidSourceKey
        return refusal.type

    def test_a_new_one_is_known_within_ten_seconds(self, here: Cell) -> None:
        now = 100.0
        others = OtherCells(here.context.database, lambda: now)
        with patch.object(OtherCells, "_read", return_value=frozenset()):
            assert self._refused(others) is InvalidSourceKey

        now += 9.9
        assert self._refused(others) is InvalidSourceKey
        now += 0.2
        assert self._refused(others) is WrongCell

    def test_while_the_database_is_away_those_of_before_are_known(self, here: Cell) -> None:
        now = 100.0
        others = OtherCells(here.context.database, lambda: now)
        assert self._refused(others) is WrongCell

        now += 60
        with patch.object(OtherCells, "_read", side_effect=StorageUnavailable):
            assert self._refused(others) is WrongCell

    def test_no_credential_is_of_no_cell(self, here: Cell) -> None:
        assert here.app.test_client().post(PATH, json={}).status_code == 401
        assert self._refused(OtherCells(here.context.database), "") is InvalidSourceKey


def test_ids_of_keys_and_tokens_begin_with_the_cell_and_rows_have_its_numbers(pair: list[Cell]) -> None:
    for cell in pair:
        tenant = make_tenant(cell.context)
        assert tenant.key_id.startswith(f"key_{cell.name}")
        assert tenant.token.startswith(f"lrb_mt_{cell.name}")
        ids = (tenant.workspace_row, tenant.project_row, tenant.source_row, tenant.key_row)
        assert all(each in row_ids(cell.name) for each in ids)
