"""What operators and the worker meet while a workspace moves, and of what is left of it in its old cell."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest
from click.testing import Result
from sqlalchemy import text

from app.cells.moving import copying
from app.cells.moving.move import Move
from app.cells.moving.stages import MoveError
from app.cells.moving.tables import Connection, Scope
from app.database.advisory_locks import share_residence
from app.database.owner import Owner
from app.maintenance.event_counts import Difference, correct_counts
from app.maintenance.key_life import mark_expired_keys
from app.maintenance.partitions import attached_partitions
from app.monitoring.health_issues import health_issues_of
from app.monitoring.system_status import read_system_status
from tests.support.cells import Cell
from tests.support.operating import api_of
from tests.support.people import Tenant, execute, issue_key, make_tenant, rows, source_of
from tests.support.sending import error_of, event_for, send
from tests.support.waiting import wait_until

_EVENTS = 3


@pytest.fixture(name="erin")
def _erin(old: Cell) -> Tenant:
    tenant = make_tenant(old.context)
    for number in range(_EVENTS):
        assert send(old.app.test_client(), tenant, event_for(tenant, event_id=f"e{number}")).status_code == 201
    return tenant


@pytest.fixture(name="moved")
def _moved(old: Cell, new: Cell, erin: Tenant) -> Tenant:
    _move(old, new, erin).run()
    return erin


@pytest.fixture(name="frozen")
def _frozen(old: Cell, erin: Tenant) -> Iterator[Tenant]:
    """Its move was cut off in its last part, two minutes ago."""
    frozen = "UPDATE workspaces SET moving_to = 'us1', frozen_at = now() - interval '2 minutes' WHERE id = :id"
    execute(old.context, frozen, id=erin.workspace_row)
    yield erin
    execute(
        old.context, "UPDATE workspaces SET moving_to = NULL, frozen_at = NULL WHERE id = :id", id=erin.workspace_row
    )


def _move(old: Cell, new: Cell, tenant: Tenant) -> Move:
    return Move(old.settings, new.settings, tenant.workspace_id)


def _shell(cell: Cell, *arguments: str) -> Result:
    return cell.app.test_cli_runner().invoke(args=arguments)


@pytest.mark.parametrize(
    "command",
    [
        "workspace suspend {workspace_id}",
        "workspace limit {workspace_id} --events-per-second 10",
        "token issue {workspace_id}",
        "token revoke {token_id}",
        "key revoke {key_id}",
    ],
)
def test_what_the_shell_would_change_in_the_old_cell_names_the_new_one(old: Cell, moved: Tenant, command: str) -> None:
    named = {"workspace_id": moved.workspace_id, "token_id": moved.token_id, "key_id": moved.key_id}
    result = _shell(old, *command.format(**named).split())

    assert (result.exit_code, result.stdout) == (1, "")
    assert "of the cell us1: send the request there" in result.stderr


def test_the_list_of_workspaces_says_where_it_lives(old: Cell, new: Cell, moved: Tenant) -> None:
    shown = [
        dict(line.split("\t")[:2] for line in _shell(each, "workspace", "list").stdout.splitlines())
        for each in (old, new)
    ]

    assert [each[moved.workspace_id] for each in shown] == ["in us1", "active"]


def test_the_report_of_stale_keys_names_its_keys_in_the_new_cell_alone(old: Cell, new: Cell, erin: Tenant) -> None:
    _, key_id, _ = issue_key(
        old.context, source_of(old.context, erin), expires_at=datetime.now(UTC) + timedelta(days=1)
    )
    _move(old, new, erin).run()

    reports = [_shell(each, "key", "report", "--json").stdout for each in (old, new)]
    assert [key_id in each for each in reports] == [False, True]


def test_an_expiry_is_marked_in_the_new_cell_alone(old: Cell, new: Cell, erin: Tenant) -> None:
    row, key_id, _ = issue_key(old.context, source_of(old.context, erin), expires_at=datetime.now(UTC))
    _move(old, new, erin).run()

    for each in (old, new):
        mark_expired_keys(each.context.database, now=datetime.now(UTC))
    marked = "SELECT 1 FROM source_keys WHERE id = :id AND expired_at IS NOT NULL"
    assert [len(rows(each.context, marked, id=row)) for each in (old, new)] == [0, 1]
    written = "SELECT 1 FROM audit_entries WHERE object_id = :id AND action = 'source_key.expire'"
    assert [len(rows(each.context, written, id=key_id)) for each in (old, new)] == [0, 1]


def test_the_worker_of_the_new_cell_corrects_no_counts_of_what_is_there_in_part(
    old: Cell, new: Cell, erin: Tenant
) -> None:
    with patch.object(Move, "_cut_over", side_effect=MoveError("cut off")), pytest.raises(MoveError, match="cut off"):
        _move(old, new, erin).run()

    execute(old.context, "UPDATE workspaces SET moving_to = NULL WHERE id = :id", id=erin.workspace_row)
    there = "SELECT 1 FROM events WHERE workspace_id = :id"
    assert len(rows(new.context, there, id=erin.workspace_row)) == _EVENTS
    with Owner(new.settings.admin_database_url).connection() as connection:
        for partition in attached_partitions(connection):
            assert correct_counts(connection, partition) == Difference(0, 0, 0)


def test_a_change_that_is_about_to_commit_is_waited_for_and_moves_too(old: Cell, new: Cell, erin: Tenant) -> None:
    mover = threading.Thread(target=_move(old, new, erin).run)
    with old.context.database.transaction(erin.workspace_row) as session:
        share_residence(session, erin.workspace_row)
        mover.start()
        waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ExclusiveLock'"
        wait_until(lambda: bool(rows(old.context, waits)))
        assert rows(
            old.context, "SELECT 1 FROM workspaces WHERE id = :id AND frozen_at IS NOT NULL", id=erin.workspace_row
        )
        session.execute(text("UPDATE projects SET name = 'late' WHERE id = :id"), {"id": erin.project_row})
    mover.join()

    assert rows(new.context, "SELECT name FROM projects WHERE id = :id", id=erin.project_row) == [("late",)]


def test_a_change_of_the_workspace_that_waits_for_the_last_part_does_not_keep_it_from_its_end(
    old: Cell, new: Cell, erin: Tenant
) -> None:
    answers: list[int] = []

    def change() -> None:
        answers.append(api_of(old.app, erin).patch("/v1/workspace", {"name": "later"}).status_code)

    changer = threading.Thread(target=change)
    copy_rest = copying.Copier.rest

    def let_change_wait(copier: copying.Copier, snapshot: Connection, scope: Scope) -> datetime:
        changer.start()
        waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ShareLock'"
        wait_until(lambda: bool(rows(old.context, waits)))
        return copy_rest(copier, snapshot, scope)

    with patch.object(copying.Copier, "rest", let_change_wait):
        _move(old, new, erin).run()
    changer.join()
    assert answers in ([421], [503])
    assert send(new.app.test_client(), erin).status_code == 201


def test_a_clock_that_is_set_back_meanwhile_lets_it_stay_and_the_next_try_end_it(
    old: Cell, new: Cell, erin: Tenant
) -> None:
    set_back = "SELECT clock_timestamp() - interval '1 hour'"
    with patch.object(copying, "_CLOCK", set_back), pytest.raises(MoveError, match="clock was set back"):
        _move(old, new, erin).run()
    assert send(old.app.test_client(), erin).status_code == 201

    _move(old, new, erin).run()
    assert send(new.app.test_client(), erin).status_code == 201


def test_while_it_waits_nothing_is_stored_or_changed_and_all_can_be_read(old: Cell, frozen: Tenant) -> None:
    api = api_of(old.app, frozen)
    for refused in (
        send(old.app.test_client(), frozen),
        api.post("/v1/projects", {"name": "another"}),
        api.post(f"/v1/keys/{frozen.key_id}/revoke"),
    ):
        assert (refused.status_code, error_of(refused)["code"]) == (503, "storage_unavailable")
        assert "moving to another cell" in error_of(refused)["message"]
        assert "Retry-After" in refused.headers
    assert "moving to another cell" in _shell(old, "workspace", "suspend", frozen.workspace_id).stderr
    found = api.get("/v1/events", project_id=frozen.project_id).json or {}
    assert len(found["data"]) == _EVENTS


def test_one_that_waits_for_long_is_a_health_issue(old: Cell, frozen: Tenant) -> None:
    system = read_system_status(old.context.database)

    assert 120 <= system.frozen_seconds < 180
    (issue,) = [each for each in health_issues_of(system, old.settings) if each.alert == "LaribaMoveCutOff"]
    assert "its move" in issue.message
    well = replace(system, frozen_seconds=2.0)
    assert "LaribaMoveCutOff" not in {each.alert for each in health_issues_of(well, old.settings)}


def test_it_goes_on_in_the_old_cell_while_the_next_try_copies_anew(old: Cell, new: Cell, frozen: Tenant) -> None:
    answers = []
    copy_round = copying.Copier.round

    def send_and_copy(copier: copying.Copier, scope: Scope) -> None:
        answers.append(send(old.app.test_client(), frozen).status_code)
        copy_round(copier, scope)

    with patch.object(copying.Copier, "round", send_and_copy):
        _move(old, new, frozen).run()
    assert set(answers) == {201}
