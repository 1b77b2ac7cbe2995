"""One move, from its beginning or from wherever an earlier try was cut off, to its end (docs/decisions/0027)."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import errors, sql

from app.cells.moving.copying import ClockSetError, Copier, Durations, StillDifferentError
from app.cells.moving.positions import pass_positions_of, widen_days, widen_days_since
from app.cells.moving.stages import Cells, MoveError, Stage, read_stage, require_fit, require_pair
from app.cells.moving.tables import (
    CONTROL,
    HISTORIES,
    LEFT_BEHIND,
    Connection,
    Scope,
    columns_of,
    copy_rows,
    delete_rows,
    delete_some,
    digest,
)
from app.config import Settings
from app.database.advisory_locks import residence_lock, workspace_lock
from app.database.owner import Owner
from app.errors import StorageUnavailable
from app.maintenance.partitions import attached_partitions
from app.maintenance.purge import BATCH_ROWS, RESTS

_PROJECTS: Final = "SELECT id FROM projects WHERE workspace_id = %s ORDER BY id"
# By the cell's name too: two cells may be schemas of one database. The lock is the connection's that writes, so who has
# it knows that no commit of an earlier try is still under way.
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended('move ' || %s || ' ' || %s, 0))"
# The last part waits for the other cell in open transactions.
_MAY_IDLE: Final = "SET idle_in_transaction_session_timeout = 0"
_BEGIN: Final = """
    UPDATE workspaces SET moving_to = %(to)s, move_id = CASE WHEN moving_to = %(to)s THEN move_id ELSE %(id)s END
    WHERE id = %(row)s RETURNING move_id
"""
_FREEZE: Final = "UPDATE workspaces SET frozen_at = coalesce(frozen_at, clock_timestamp()) WHERE id = %s"
_THAW: Final = "UPDATE workspaces SET frozen_at = NULL WHERE id = %s AND home IS NULL"
_LEAVE: Final = """
    UPDATE workspaces SET home = moving_to, moving_to = NULL, frozen_at = NULL WHERE id = %s AND moving_to = %s
"""
_STAY: Final = "UPDATE workspaces SET moving_to = NULL, frozen_at = NULL WHERE id = %s"
# What was left by an earlier move away from the new cell is kept, and says now that the workspace lives in the old one.
_ANNOUNCE: Final = """
    INSERT INTO workspaces (id, public_id, name, home, move_id) VALUES (%s, %s, '', %s, %s)
    ON CONFLICT (id) DO UPDATE SET home = excluded.home, move_id = excluded.move_id WHERE workspaces.home IS NOT NULL
"""
_ARRIVE: Final = "UPDATE workspaces SET home = NULL, moving_to = NULL, frozen_at = NULL WHERE id = %s"
_HOLD_ARRIVAL: Final = "SELECT home FROM workspaces WHERE id = %s FOR UPDATE"
# Unless it tells, since an earlier move, whose keys and tokens went where.
_UNANNOUNCE: Final = """
    DELETE FROM workspaces WHERE id = %s AND home IS NOT NULL
        AND NOT EXISTS (SELECT FROM projects WHERE workspace_id = workspaces.id)
"""
# The barrier of ingest: held until the end, so that events wait and are not refused. Then each mutation that has looked
# whether the workspace is frozen before it was.
_EXCLUDE_INGEST: Final = "SELECT set_config('lock_timeout', '8s', true), pg_advisory_xact_lock(%s)"
_EXCLUDE_MUTATIONS: Final = "SELECT pg_advisory_xact_lock(%s)"
# What a former default partition holds is no part of `events` until it has been moved to where it belongs.
_DEFAULT: Final = "SELECT to_regclass('events_default_former') IS NULL, 'events_default'::regclass::oid"
# An export's file lies on the machines of the old cell.
_FORGET_FILES: Final = """
    UPDATE exports SET state = 'failed', failure = 'moved', ended_at = coalesce(ended_at, clock_timestamp())
    WHERE workspace_id = %s AND (ended_at IS NULL OR state = 'completed')
"""
# Rounds are worth it as long as each leaves the last part much less to do.
_ROUNDS_MAX: Final = 10
_ROUND_SECONDS_ENOUGH: Final = 0.3
_ROUND_SHARE_ENOUGH: Final = 0.7
# PostgreSQL needs a moment to notice that the process of an earlier try is gone.
_LOCK_SECONDS_MAX: Final = 5.0
_LOCK_PAUSE_SECONDS: Final = 0.1
# A request that came before the workspace had left may read on, each transaction for ten seconds at the most
# (app/database/engine.py): it must not find a part of the rows, and show a cursor behind them.
_READS_END_SECONDS: Final = 30.0
_IS_EMPTIED: Final = "{} is moving events out of its default partition: run it again in some minutes"
# Each waits for two seconds (app/database/owner.py), and those that may have locked the row for eight at the most.
_TRIES: Final = 6


class Moved(NamedTuple):
    """What a move has done."""

    rows: int
    """Copied by this try."""
    frozen_seconds: float
    """How long the workspace waited."""


class Move:
    """Of one workspace, between two cells."""

    def __init__(
        self, source: Settings, target: Settings, public_id: str, say: Callable[[str], object] = lambda _: None
    ) -> None:
        self._cells = Cells(source.cell, target.cell)
        self._owners = Owner(source.admin_database_url), Owner(target.admin_database_url)
        self._settings = source, target
        self._durations = Durations(
            records=timedelta(seconds=source.idempotency_ttl_seconds),
            event_ids=timedelta(days=source.event_id_days),
            batch=timedelta(seconds=source.storage_deadline_seconds),
        )
        self._public_id = public_id
        self._say = say

    def run(self) -> Moved:
        """Go on to the end. Raises MoveError, StorageUnavailable and psycopg.Error: then it can be run again."""
        require_fit(*self._settings)
        with self._connected() as (source, target):
            row, stage = read_stage(source, target, self._cells, self._public_id)
            copier = Copier(source, target, self._durations)
            frozen_seconds = 0.0
            if stage in (Stage.NOT_BEGUN, Stage.COPYING, Stage.FROZEN):
                source.execute(_THAW, [row])  # its rounds begin anew, and take longer than anyone would wait
                default = self._default_partition(source)
                self._copy_history(source, target, row, copier)
                frozen_seconds = self._cut_over(source, target, row, copier, default)
            elif stage is Stage.ARRIVED:
                self._leave(source, row)
            self._say(f"it lives in {self._cells.new}, and waited for {frozen_seconds:.2f} s")
            self._clean_up(source, row)
            return Moved(copier.rows, frozen_seconds)

    def take_back(self) -> None:
        """Let it stay where it is. Raises MoveError once it lives in the new cell, and as run() does."""
        with self._connected() as (source, target):
            row, stage = read_stage(source, target, self._cells, self._public_id)
            if stage in (Stage.ARRIVED, Stage.LEFT):
                raise MoveError(f"it lives in {self._cells.new} already: move it back from there")
            if stage is Stage.NOT_BEGUN:
                raise MoveError(f"no move to {self._cells.new} has begun")
            self._delete(target, self._scope(source, row), _parts_of_histories(target))
            target.execute(_UNANNOUNCE, [row])
            source.execute(_STAY, [row])

    @contextmanager
    def _connected(self) -> Iterator[tuple[Connection, Connection]]:
        """Both cells, with the lock of this workspace's moves in each."""
        with self._owners[0].connection() as source, self._owners[1].connection() as target:
            require_pair(source, target, self._cells)
            for name, connection in sorted(zip(self._cells, (source, target), strict=True), key=lambda each: each[0]):
                self._lock(connection, name)
                connection.execute(_MAY_IDLE)
            yield source, target

    def _lock(self, connection: Connection, name: str) -> None:
        give_up = time.monotonic() + _LOCK_SECONDS_MAX
        while connection.execute(_TRY_LOCK, [name, self._public_id]).fetchone() != (True,):
            if time.monotonic() > give_up:
                raise MoveError("another move of it is under way")
            time.sleep(_LOCK_PAUSE_SECONDS)

    def _copy_history(self, source: Connection, target: Connection, row: int, copier: Copier) -> None:
        """Until little is left."""
        begun = {"to": self._cells.new, "id": secrets.token_hex(8), "row": row}
        ((move_id,),) = source.execute(_BEGIN, begun).fetchall()
        target.execute(_ANNOUNCE, [row, self._public_id, self._cells.old, move_id])
        seconds = float("inf")
        for number in range(1, _ROUNDS_MAX + 1):
            began, before, last = time.monotonic(), copier.rows, seconds
            try:
                copier.round(self._scope(source, row))
            except StillDifferentError as error:
                raise MoveError(f"its rows differ, however often they are copied: {error}") from error
            seconds = time.monotonic() - began
            widen_days(target, self._scope(source, row))
            self._say(f"round {number}: {copier.rows - before} rows in {seconds:.1f} s")
            if number > 1 and (seconds < _ROUND_SECONDS_ENOUGH or seconds > _ROUND_SHARE_ENOUGH * last):
                break

    def _cut_over(self, source: Connection, target: Connection, row: int, copier: Copier, default: int) -> float:
        """Copy the last part while it waits, and let it live in the new cell; how many seconds that took."""
        try:
            with self._owners[0].connection() as holder:
                holder.execute(_MAY_IDLE)
                with holder.transaction():
                    holder.execute(_EXCLUDE_INGEST, [workspace_lock(row)])
                    began = time.monotonic()
                    # Fails within two seconds if a change has locked the row, and may wait for the barrier itself.
                    source.execute(_FREEZE, [row])
                    holder.execute(_EXCLUDE_MUTATIONS, [residence_lock(row)])
                    with source.transaction(), target.transaction():
                        source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                        self._copy_rest(source, target, row, copier, default)
        except BaseException:
            self._thaw(source, row)
            raise
        # Not before the locks are free: a change that waits for one of them may have locked the workspace's row.
        self._leave(source, row)
        return time.monotonic() - began

    def _copy_rest(self, source: Connection, target: Connection, row: int, copier: Copier, default: int) -> None:
        """All that the snapshot of `source` has and the new cell has not; with the commit it lives there."""
        if source.execute(_DEFAULT).fetchone() != (True, default):
            raise MoveError(_IS_EMPTIED.format(self._cells.old))
        if target.execute(_HOLD_ARRIVAL, [row]).fetchone() != (self._cells.old,):
            raise MoveError("its row in the new cell has been changed meanwhile: run the move again")
        scope = self._scope(source, row)
        try:
            since = copier.rest(source, scope)
        except StillDifferentError as error:
            raise MoveError(f"the last part differs: {error}") from error
        except ClockSetError as error:
            raise MoveError("PostgreSQL's clock was set back meanwhile: run the move again") from error
        self._copy_control(source, target, scope, copier)
        widen_days_since(target, scope, since)
        pass_positions_of(source, target)
        target.execute(_ARRIVE, [row])

    def _default_partition(self, source: Connection) -> int:
        """Its oid: another one in the last part means that events have left `events`, or come back, meanwhile."""
        ((is_whole, oid),) = source.execute(_DEFAULT).fetchall()
        if not is_whole:
            raise MoveError(_IS_EMPTIED.format(self._cells.old))
        return int(oid)

    def _leave(self, source: Connection, row: int) -> None:
        if _patiently(lambda: source.execute(_LEAVE, [row, self._cells.new])).rowcount != 1:
            raise MoveError("its row in the old cell has been changed meanwhile: run the move again")

    def _thaw(self, source: Connection, row: int) -> None:
        """Let it go on in the old cell, if the new one says, behind the lock of its row, that it does not live there.

        If that cannot be asked it goes on waiting, and the next try decides.
        """
        with suppress(StorageUnavailable, psycopg.Error), self._owners[1].connection() as target, target.transaction():
            if target.execute(_HOLD_ARRIVAL, [row]).fetchone() == (self._cells.old,):
                _patiently(lambda: source.execute(_THAW, [row]))

    def _copy_control(self, source: Connection, target: Connection, scope: Scope, copier: Copier) -> None:
        delete_rows(target, scope, reversed(CONTROL))
        for table in CONTROL:
            copier.rows += copy_rows(source, target, scope, table)
        for table in CONTROL:
            if digest(source, scope, table) != digest(target, scope, table):
                raise MoveError(f"the last part differs: {table}")
        columns, row = columns_of(source, "workspaces"), sql.Literal(scope.workspace)
        (values,) = source.execute(sql.SQL("SELECT {} FROM workspaces WHERE id = {}").format(columns, row)).fetchall()
        placeholders = sql.SQL(", ").join(sql.Placeholder() * len(values))
        update = sql.SQL("UPDATE workspaces SET ({}) = ROW ({}) WHERE id = {}").format(columns, placeholders, row)
        target.execute(update, values)
        target.execute(_FORGET_FILES, [scope.workspace])

    def _clean_up(self, source: Connection, row: int) -> None:
        """Delete what is left in the old cell, but for what tells whose keys and tokens went where."""
        self._say(f"what is left of it in {self._cells.old} is deleted")
        time.sleep(_READS_END_SECONDS)
        # With the usage that waits before the hours that it would be folded into.
        control = [each for each in reversed(CONTROL) if each not in LEFT_BEHIND]
        self._delete(source, self._scope(source, row), [*control, *_parts_of_histories(source)])

    def _delete(self, connection: Connection, scope: Scope, tables: Iterable[str]) -> None:
        """In batches, with the rests of a purge."""
        for table in tables:
            while True:
                began = time.monotonic()
                with suppress(errors.UndefinedTable):  # a day that was dropped meanwhile
                    if delete_some(connection, scope, table, BATCH_ROWS):
                        time.sleep(RESTS * (time.monotonic() - began))
                        continue
                break

    def _scope(self, source: Connection, row: int) -> Scope:
        return Scope(row, tuple(project for (project,) in source.execute(_PROJECTS, [row]).fetchall()))


def _patiently(update: Callable[[], psycopg.Cursor[Any]]) -> psycopg.Cursor[Any]:
    """An update of the workspace's row: a change that has locked it ends within seconds, by its own time-out."""
    for _ in range(_TRIES - 1):
        with suppress(errors.LockNotAvailable):
            return update()
    return update()


def _parts_of_histories(connection: Connection) -> list[str]:
    """The tables in which rows are deleted: of a partitioned one its partitions, because a ctid is of one table."""
    days = [each.name for each in attached_partitions(connection)]
    return ["events_default", *days, *(each.name for each in HISTORIES if each.name != "events")]
