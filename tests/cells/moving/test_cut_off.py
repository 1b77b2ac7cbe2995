"""A move that is cut off at any statement: the workspace is never in both cells, and the next try ends it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from app.cells.moving import move as moving
from app.cells.moving.move import Move
from app.cells.moving.stages import MoveError
from app.database.owner import Owner
from app.maintenance.usage import fold_usage
from tests.support.cells import Cell
from tests.support.people import Tenant, make_tenant, rows
from tests.support.sending import event_for, send

_EVENTS = 5


class _Killed(BaseException):
    """As kill -9: nothing that comes behind it reaches PostgreSQL."""


class _Process:
    """The statements of a move, of which the one with a certain number is not sent any more."""

    def __init__(self, kill_at: int | None = None) -> None:
        self._kill_at = kill_at
        self.statements = 0

    def step(self) -> None:
        if self._kill_at is not None and self.statements >= self._kill_at:
            raise _Killed
        self.statements += 1


class _Connection:
    """One of the process. Whatever ends it, PostgreSQL hears no COMMIT."""

    def __init__(self, connection: Any, process: _Process) -> None:
        self._connection = connection
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, *arguments: Any) -> Any:
        self._process.step()
        return self._connection.execute(*arguments)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
            self._process.step()  # before the commit
        except _Killed:
            self._connection.close()
            raise
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        self._process.step()  # behind it


def _run(move: Move, process: _Process) -> None:
    connect = Owner.connection

    @contextmanager
    def connection(owner: Owner) -> Iterator[_Connection]:
        with connect(owner) as opened:
            try:
                yield _Connection(opened, process)
            except _Killed:
                opened.close()
                raise

    with patch.object(Owner, "connection", connection), patch.object(moving, "_ROUND_SECONDS_ENOUGH", 60.0):
        move.run()


def _filled(cell: Cell) -> Tenant:
    tenant = make_tenant(cell.context)
    for number in range(_EVENTS):
        body = event_for(tenant, event_id=f"e{number}")
        assert send(cell.app.test_client(), tenant, body, idempotency_key=f"k{number}").status_code == 201
        if number == 2:
            fold_usage(cell.context.database)
    return tenant


def _move(pair: list[Cell], tenant: Tenant) -> Move:
    return Move(pair[0].settings, pair[1].settings, tenant.workspace_id)


def _stored(cell: Cell, tenant: Tenant) -> list[str]:
    found = rows(cell.context, "SELECT event_id FROM events WHERE workspace_id = :id", id=tenant.workspace_row)
    return sorted(row.event_id for row in found)


def _lives_in(cell: Cell, tenant: Tenant) -> bool:
    found = rows(cell.context, "SELECT 1 FROM workspaces WHERE id = :id AND home IS NULL", id=tenant.workspace_row)
    return bool(found)


def _has_begun(cell: Cell, tenant: Tenant) -> bool:
    found = rows(cell.context, "SELECT 1 FROM workspaces WHERE id = :id AND moving_to = 'us1'", id=tenant.workspace_row)
    return bool(found)


def _statements(pair: list[Cell]) -> int:
    process = _Process()
    _run(_move(pair, _filled(pair[0])), process)
    return process.statements


def _is_ended_by_the_next_try(pair: list[Cell], kill_at: int) -> None:
    tenant = _filled(pair[0])
    with pytest.raises(_Killed):
        _run(_move(pair, tenant), _Process(kill_at))

    answers = [send(cell.app.test_client(), tenant, event_for(tenant, event_id=f"x{kill_at}")) for cell in pair]
    taken = [answer.status_code == 201 for answer in answers]
    assert taken.count(True) <= 1, [answer.json for answer in answers]
    assert all(answer.status_code in (201, 401, 421, 503) for answer in answers)

    _run(_move(pair, tenant), _Process())
    expected = sorted([f"e{number}" for number in range(_EVENTS)] + [f"x{kill_at}"] * any(taken))
    assert [_stored(cell, tenant) for cell in pair] == [[], expected]
    assert send(pair[1].app.test_client(), tenant).status_code == 201
    assert send(pair[0].app.test_client(), tenant).headers["Lariba-Cell"] == "us1"


def test_wherever_it_is_cut_off_it_is_in_one_cell_and_the_next_try_ends_it(pair: list[Cell]) -> None:
    statements = _statements(pair)

    for kill_at in range(1, statements, 23):
        _is_ended_by_the_next_try(pair, kill_at)


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(7))
def test_at_each_statement_too(pair: list[Cell], offset: int) -> None:
    for kill_at in range(offset + 1, _statements(pair), 7):
        _is_ended_by_the_next_try(pair, kill_at)


def test_wherever_it_is_cut_off_before_its_end_it_can_be_taken_back(pair: list[Cell]) -> None:
    statements = _statements(pair)

    for kill_at in range(1, statements, 17):
        tenant = _filled(pair[0])
        with pytest.raises(_Killed):
            _run(_move(pair, tenant), _Process(kill_at))
        if _lives_in(pair[1], tenant):
            with pytest.raises(MoveError, match="it lives in us1 already"):
                _move(pair, tenant).take_back()
            continue
        if _has_begun(pair[0], tenant):
            _move(pair, tenant).take_back()
        assert send(pair[0].app.test_client(), tenant, event_for(tenant, event_id="on")).status_code == 201
        assert _stored(pair[1], tenant) == []
        assert len(_stored(pair[0], tenant)) == _EVENTS + 1
