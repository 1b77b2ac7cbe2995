"""A move that cannot be what was meant is refused, and nothing is deleted or brought to life for it."""

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import psycopg
import pytest

from app.cells.moving import move as moving
from app.cells.moving.move import Move
from app.cells.moving.stages import MoveError
from app.database.owner import Owner
from app.maintenance import retention
from tests.support.cells import Cell
from tests.support.people import Tenant, execute, make_tenant, rows
from tests.support.sending import event_for, send

_EVENTS = 3


@pytest.fixture(name="erin")
def _erin(old: Cell) -> Tenant:
    return _with_events(old)


@pytest.fixture(name="copied")
def _copied(old: Cell, new: Cell, erin: Tenant) -> Iterator[Tenant]:
    """Its move was cut off before the last part."""
    with patch.object(Move, "_cut_over", side_effect=MoveError("cut off")), pytest.raises(MoveError, match="cut off"):
        _move(old, new, erin).run()
    yield erin
    execute(old.context, "UPDATE workspaces SET moving_to = NULL WHERE id = :id", id=erin.workspace_row)


def _with_events(cell: Cell) -> Tenant:
    tenant = make_tenant(cell.context)
    for number in range(_EVENTS):
        assert send(cell.app.test_client(), tenant, event_for(tenant, event_id=f"e{number}")).status_code == 201
    return tenant


def _move(old: Cell, new: Cell, tenant: Tenant) -> Move:
    return Move(old.settings, new.settings, tenant.workspace_id)


def _stored(cell: Cell, tenant: Tenant) -> int:
    return len(rows(cell.context, "SELECT 1 FROM events WHERE workspace_id = :id", id=tenant.workspace_row))


def _set(cell: Cell, tenant: Tenant, **columns: str | int | None) -> None:
    changes = ", ".join(f"{name} = :{name}" for name in columns)
    execute(cell.context, f"UPDATE workspaces SET {changes} WHERE id = :id", id=tenant.workspace_row, **columns)


def test_a_url_of_the_new_cell_that_leads_to_the_old_one_is_noticed(old: Cell, new: Cell, erin: Tenant) -> None:
    mixed_up = replace(new.settings, admin_database_url=old.settings.admin_database_url)

    with pytest.raises(MoveError, match="the database of us1 is that of eu1"):
        Move(old.settings, mixed_up, erin.workspace_id).run()
    assert _stored(old, erin) == _EVENTS


@pytest.mark.parametrize("locked", range(2))
def test_one_move_of_it_at_a_time_whichever_way_it_goes(pair: list[Cell], erin: Tenant, locked: int) -> None:
    cell = pair[locked]
    with psycopg.connect(cell.settings.admin_database_url) as other:
        other.execute(moving._TRY_LOCK, [cell.name, erin.workspace_id])  # noqa: SLF001
        with patch.object(moving, "_LOCK_SECONDS_MAX", 0.2), pytest.raises(MoveError, match="another move"):
            _move(pair[0], pair[1], erin).run()


def test_an_old_cell_that_was_restored_with_it_loses_nothing(old: Cell, new: Cell, erin: Tenant) -> None:
    _move(old, new, erin).run()
    _set(old, erin, home=None)

    for act in (_move(old, new, erin).run, _move(new, old, erin).run, _move(old, new, erin).take_back):
        with pytest.raises(MoveError, match=r"it lives in (eu1 and in us1|us1 and in eu1)"):
            act()
    assert _stored(new, erin) == _EVENTS


def test_a_new_cell_that_was_restored_without_it_leaves_the_old_one_as_it_is(
    old: Cell, new: Cell, erin: Tenant
) -> None:
    with patch.object(Move, "_clean_up"):
        _move(old, new, erin).run()
    _set(new, erin, home="eu1")

    with pytest.raises(MoveError, match="where it does not: was one restored"):
        _move(old, new, erin).run()
    assert _stored(old, erin) == _EVENTS


def test_a_move_to_another_cell_is_neither_gone_on_with_nor_taken_back(old: Cell, new: Cell, erin: Tenant) -> None:
    execute(
        old.context, "UPDATE workspaces SET moving_to = 'ap1', frozen_at = now() WHERE id = :id", id=erin.workspace_row
    )

    for act in (_move(old, new, erin).run, _move(old, new, erin).take_back):
        with pytest.raises(MoveError, match="moving to the cell ap1"):
            act()
    assert send(old.app.test_client(), erin).status_code == 503


def test_what_has_not_begun_cannot_be_taken_back(old: Cell, new: Cell, erin: Tenant) -> None:
    with pytest.raises(MoveError, match="no move to us1 has begun"):
        _move(old, new, erin).take_back()


def test_what_is_taken_back_leaves_the_neighbours_in_the_new_cell_alone(old: Cell, new: Cell, copied: Tenant) -> None:
    neighbour = _with_events(new)
    assert _stored(new, copied) == _EVENTS

    _move(old, new, copied).take_back()
    assert [_stored(new, each) for each in (copied, neighbour)] == [0, _EVENTS]
    assert rows(new.context, "SELECT 1 FROM workspaces WHERE id = :id", id=copied.workspace_row) == []
    assert send(old.app.test_client(), copied).status_code == 201


def test_what_an_earlier_move_has_left_survives_one_that_is_taken_back(old: Cell, new: Cell, erin: Tenant) -> None:
    _move(old, new, erin).run()
    _move(new, old, erin).run()
    with patch.object(Move, "_cut_over", side_effect=MoveError("cut off")), pytest.raises(MoveError, match="cut off"):
        _move(old, new, erin).run()

    _move(old, new, erin).take_back()
    assert send(new.app.test_client(), erin).headers["Lariba-Cell"] == "eu1"


def test_a_new_cell_that_was_restored_to_an_earlier_residence_is_not_taken_for_the_end_of_this_move(
    old: Cell, new: Cell, copied: Tenant
) -> None:
    execute(old.context, "UPDATE workspaces SET frozen_at = now() WHERE id = :id", id=copied.workspace_row)
    _set(new, copied, home=None, move_id="an earlier one")

    with pytest.raises(MoveError, match="it lives in eu1 and in us1: was one restored"):
        _move(old, new, copied).run()
    assert _stored(old, copied) == _EVENTS
    execute(old.context, "UPDATE workspaces SET frozen_at = NULL WHERE id = :id", id=copied.workspace_row)


@pytest.mark.parametrize("days", [30, None])
def test_a_new_cell_that_keeps_events_for_a_shorter_time_is_refused(
    old: Cell, new: Cell, erin: Tenant, days: int | None
) -> None:
    longer, shorter = replace(old.settings, retention_days=days), replace(new.settings, retention_days=7)

    with pytest.raises(MoveError, match=f"LARIBA_RETENTION_DAYS is 7 in us1, and {days or 'for ever'} in eu1"):
        Move(longer, shorter, erin.workspace_id).run()


def test_events_that_have_left_the_default_partition_meanwhile_end_the_try(old: Cell, new: Cell, erin: Tenant) -> None:
    with (
        patch.object(Move, "_default_partition", return_value=0),
        pytest.raises(MoveError, match="out of its default partition"),
    ):
        _move(old, new, erin).run()
    assert send(old.app.test_client(), erin).status_code == 201


def test_the_retention_that_a_workspace_had_when_it_left_deletes_nothing(old: Cell, new: Cell, erin: Tenant) -> None:
    _set(old, erin, retention_days=1)
    with Owner(old.settings.admin_database_url).connection() as owner:
        assert owner.execute(retention._SHORT_LIVED, [7]).fetchone() == ([erin.project_row],)  # noqa: SLF001
        _move(old, new, erin).run()
        assert owner.execute(retention._SHORT_LIVED, [7]).fetchone() == ([],)  # noqa: SLF001
