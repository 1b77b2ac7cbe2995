"""`flask --app wsgi cell …`, and where a workspace is made: what an operator who has several cells does."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from click.testing import Result
from flask import Flask

from app.config import Settings
from app.factory import create_app, create_shell
from tests.support.cells import Cell, cells
from tests.support.people import rows

Shell = Callable[..., Result]


@pytest.fixture(name="pair", scope="module")
def _pair(server_url: str, migrated: Settings) -> Iterator[list[Cell]]:
    with cells(server_url, migrated, "eu1", "us1") as pair:
        yield pair


@pytest.fixture(name="all_settings")
def _all_settings(pair: list[Cell]) -> tuple[Settings, ...]:
    return tuple(each.settings for each in pair)


@pytest.fixture(name="shell")
def _shell(all_settings: tuple[Settings, ...]) -> Shell:
    return _shell_of(create_shell("LARIBA_CELLS names several cells", all_settings))


def _shell_of(app: Flask) -> Shell:
    return lambda *arguments: app.test_cli_runner().invoke(args=arguments)


def _said(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()]


def _refused(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return line


def _away(settings: Settings) -> Settings:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    return replace(settings, database_url=nowhere, admin_database_url=nowhere)


def test_list_shows_each_cell_with_its_state_and_its_size(shell: Shell) -> None:
    lines = _said(shell("cell", "list"))

    assert [line[:2] for line in lines] == [["eu1", "open"], ["us1", "open"]]
    assert all(line[2].endswith(" workspaces") and line[3].endswith(" MiB") for line in lines)


def test_one_that_is_away_does_not_hide_the_others(all_settings: tuple[Settings, ...]) -> None:
    eu1, us1 = all_settings
    shell = _shell_of(create_shell("", (_away(eu1), us1)))

    assert [line[:2] for line in _said(shell("cell", "list"))] == [["eu1", "unreadable"], ["us1", "open"]]
    assert "refused" in _refused(shell("cell", "status", "eu1"))
    made = shell("workspace", "create", "Acme", "--json")
    assert json.loads(made.stdout)["cell"] == "us1"
    assert made.stderr.startswith("Note: eu1 cannot be read")


def test_a_url_that_stands_under_another_cells_name_is_noticed(all_settings: tuple[Settings, ...]) -> None:
    eu1, us1 = all_settings
    mixed_up = replace(eu1, database_url=us1.database_url, admin_database_url=us1.admin_database_url)
    shell = _shell_of(create_shell("", (mixed_up, us1)))

    said = "the database is that of the cell us1, and LARIBA_CELLS says eu1"
    assert _said(shell("cell", "list"))[0] == ["eu1", "unreadable", said]
    for command in (("cell", "add", "us1"), ("cell", "drain", "us1"), ("workspace", "create", "Acme", "--cell", "eu1")):
        assert said in _refused(shell(*command))


def test_a_cell_that_drains_takes_no_new_workspace_unless_it_is_named(shell: Shell, pair: list[Cell]) -> None:
    try:
        _said(shell("cell", "drain", "us1"))
        assert [line[:2] for line in _said(shell("cell", "list"))] == [["eu1", "open"], ["us1", "draining"]]
        assert _said(shell("cell", "status", "us1"))[0][1] == "draining"
        assert [row.is_draining for row in rows(pair[0].context, "SELECT * FROM cells WHERE name = 'us1'")] == [True]
        assert _made(shell) == "eu1"
        assert _made(shell, "--cell", "us1") == "us1"
        _said(shell("cell", "drain", "eu1"))
        assert "No cell takes new workspaces" in _refused(shell("workspace", "create", "Acme"))
    finally:
        for name in ("eu1", "us1"):
            _said(shell("cell", "drain", name, "--undo"))
    assert [line[1] for line in _said(shell("cell", "list"))] == ["open", "open"]


def _made(shell: Shell, *options: str) -> str:
    return str(json.loads(shell("workspace", "create", "Acme", "--json", *options).stdout)["cell"])


def test_a_new_workspace_goes_where_least_is_stored(shell: Shell, pair: list[Cell]) -> None:
    with pair[0].context.database.engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1")
    sizes = {line[0]: int(line[3].split()[0]) for line in _said(shell("cell", "list"))}

    assert _made(shell) in {name for name, size in sizes.items() if size == min(sizes.values())}


def test_its_token_opens_it_in_its_cell(shell: Shell, pair: list[Cell]) -> None:
    made = json.loads(shell("workspace", "create", "Acme", "--json", "--cell", "us1").stdout)
    headers = {"Authorization": f"Bearer {made['management_token']}"}

    assert made["management_token"].startswith("lrb_mt_us1")
    assert [each.app.test_client().get("/v1/projects", headers=headers).status_code for each in pair] == [421, 200]


def test_what_is_about_one_cell_asks_for_its_name(shell: Shell) -> None:
    assert "LARIBA_CELLS names several cells" in _refused(shell("workspace", "list"))


@pytest.mark.parametrize("command", [("cell", "status", "xy9"), ("workspace", "create", "Acme", "--cell", "xy9")])
def test_a_cell_that_is_not_named_is_refused(shell: Shell, command: tuple[str, ...]) -> None:
    assert "LARIBA_CELLS does not name xy9: it has eu1, us1" in _refused(shell(*command))


@pytest.mark.parametrize("command", [("cell", "list"), ("workspace", "create", "Acme", "--cell", "eu1")])
def test_an_installation_without_a_name_has_no_cells(app: Flask, command: tuple[str, ...]) -> None:
    assert "LARIBA_CELLS names no cell" in _refused(_shell_of(app)(*command))


def test_in_the_shell_of_one_cell_a_workspace_is_made_there(pair: list[Cell]) -> None:
    shell = _shell_of(pair[1].app)

    assert _made(shell) == "us1"
    assert "does not name eu1" in _refused(shell("workspace", "create", "Acme", "--cell", "eu1"))


@pytest.mark.parametrize(("form", "line"), [("nginx", "default eu1;"), ("haproxy", "lrb_ eu1")])
def test_map_prints_what_a_proxy_reads(shell: Shell, form: str, line: str) -> None:
    said = [line for (line,) in _said(shell("cell", "map", "--format", form))]

    assert said[:2] == [f"# Made by `flask --app wsgi cell map --format {form}`.", line]


def test_map_prints_nothing_if_a_cell_is_away(all_settings: tuple[Settings, ...]) -> None:
    """A file without its exceptions would send its keys elsewhere."""
    shell = _shell_of(create_shell("", (all_settings[0], _away(all_settings[1]))))

    assert "refused" in _refused(shell("cell", "map"))


def test_add_lets_a_new_cell_and_the_others_know_of_each_other(server_url: str, migrated: Settings) -> None:
    with cells(server_url, migrated, "eu1") as (one,), cells(server_url, migrated, "us1") as (other,):
        shell = _shell_of(create_shell("", (one.settings, other.settings)))
        for _ in range(2):
            _said(shell("cell", "add", "us1"))
            known = [
                {row.name: row.is_own for row in rows(each.context, "SELECT * FROM cells")} for each in (one, other)
            ]
            assert known == [{"eu1": True, "us1": False}, {"us1": True, "eu1": False}]


def test_the_shell_reads_each_cells_settings_under_its_name(all_settings: tuple[Settings, ...]) -> None:
    eu1, us1 = all_settings
    environment = {
        "LARIBA_CELLS": "eu1,us1",
        "LARIBA_SECRET_KEY": eu1.secret_key[0],
        "LARIBA_BROKER_URL": "redis://broker",
        "LARIBA_DATABASE_URL": us1.database_url,
        "LARIBA_EU1_DATABASE_URL": eu1.database_url,
        "LARIBA_US1_BROKER_URL": "redis://of-us1",
    }

    read = Settings.of_cells(environment)

    assert [each.cell for each in read] == ["eu1", "us1"]
    assert [each.database_url for each in read] == [eu1.database_url, us1.database_url]
    assert [each.broker_url for each in read] == ["redis://broker", "redis://of-us1"]
    assert create_app(read[0]).name == "lariba"


def test_without_cells_the_setting_that_is_wrong_is_named() -> None:
    assert _refused(_shell_of(create_shell("LARIBA_BROKER_URL is missing"))("cell", "list")) == (
        "Error: LARIBA_BROKER_URL is missing"
    )
