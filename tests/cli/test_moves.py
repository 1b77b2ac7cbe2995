"""`flask --app wsgi workspace move` among three cells: it finds the cell that a workspace lives in, wherever it was."""

from collections.abc import Iterator

import pytest
from click.testing import Result

from app.cells.moving import move
from app.config import Settings
from app.factory import create_shell
from tests.support.cells import Cell, cells
from tests.support.people import Tenant, make_tenant
from tests.support.sending import event_for, send


@pytest.fixture(name="trio", scope="module")
def _trio(server_url: str, migrated: Settings) -> Iterator[list[Cell]]:
    with cells(server_url, migrated, "eu1", "us1", "ap1") as trio:
        yield trio


@pytest.fixture(autouse=True)
def _no_request_reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(move, "_READS_END_SECONDS", 0.0)


@pytest.fixture(name="erin")
def _erin(trio: list[Cell]) -> Tenant:
    return make_tenant(trio[0].context)


def _shell(trio: list[Cell], *arguments: str) -> Result:
    app = create_shell("LARIBA_CELLS names several cells", tuple(each.settings for each in trio))
    return app.test_cli_runner().invoke(args=["workspace", "move", *arguments])


def _answers(trio: list[Cell], tenant: Tenant) -> list[str | int]:
    """By cell: 201, or the cell that it names."""
    sent = [send(each.app.test_client(), tenant, event_for(tenant)) for each in trio]
    return [answer.headers.get("Lariba-Cell", answer.status_code) for answer in sent]


def test_each_cell_that_it_has_left_names_the_one_that_it_lives_in(trio: list[Cell], erin: Tenant) -> None:
    for name, answers in (
        ("us1", ["us1", 201, "eu1"]),
        ("ap1", ["ap1", "ap1", 201]),
        ("us1", ["us1", 201, "us1"]),
        ("eu1", [201, "eu1", "eu1"]),
    ):
        moved = _shell(trio, erin.workspace_id, "--to", name)
        assert (moved.exit_code, moved.stderr) == (0, ""), moved.output
        assert moved.stdout.splitlines()[-1].startswith(f"{erin.workspace_id} lives in {name}: ")
        assert _answers(trio, erin) == answers


def test_one_that_has_moved_already_can_be_named_again(trio: list[Cell], erin: Tenant) -> None:
    for _ in range(2):
        moved = _shell(trio, erin.workspace_id, "--to", "us1")
        assert moved.exit_code == 0, moved.output

    back = _shell(trio, erin.workspace_id, "--to", "us1", "--take-back")
    assert (back.exit_code, back.stdout) == (1, "")
    assert "it lives in us1 already" in back.stderr


@pytest.mark.parametrize("workspace", ["ws_unknown", "'"])
def test_one_that_no_cell_has_is_refused_in_one_line(trio: list[Cell], workspace: str) -> None:
    refused = _shell(trio, workspace, "--to", "us1")

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"No other cell has a workspace {workspace}" in refused.stderr
