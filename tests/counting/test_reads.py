"""Counts of reads on their way to PostgreSQL: none lost, none twice, and never more than memory should hold."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.config import Settings
from app.context import Context
from app.counting.reads import ANSWERED, Read, Reads
from app.database.engine import Database, TenantScope
from app.errors import OutcomeUnknown
from app.identifiers import new_public_id
from app.models.read_usage import NO_PROJECT
from tests.support.counted_reads import Amounts, token_identity, written_reads
from tests.support.live import LiveServer, live_server
from tests.support.logged import logged_by
from tests.support.lossy_commits import LossyCommits
from tests.support.people import Tenant, execute, rows
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.wiring

_SEARCH = ("searchEvents", ANSWERED)
_WAITING_FOR_A_TRANSACTION = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'transactionid' AND NOT granted"
_AWAY = "postgresql://absent@127.0.0.1:1/nothing"


@pytest.fixture(name="reads")
def _reads(context: Context) -> Reads:
    """A process's own that is flushed when the test says so."""
    return Reads(context.database, flush_seconds=None)


@pytest.fixture(name="read")
def _read(context: Context, alice: Tenant) -> Read:
    """A search of Alice's."""
    return Read(token_identity(context, alice), alice.project_id, *_SEARCH)


def _count(reads: Reads, read: Read) -> None:
    reads.count(read, requests=1, events=20, body_bytes=300)


class TestFlush:
    def test_adds_to_the_hour_of_token_project_operation_and_outcome(
        self, reads: Reads, read: Read, context: Context, alice: Tenant
    ) -> None:
        before = datetime.now(UTC)
        for _ in range(3):
            _count(reads, read)
            _count(reads, read._replace(outcome="query_too_broad"))
            reads.flush()

        assert written_reads(context, alice) == {
            ("searchEvents", ANSWERED): Amounts(3, 60, 900),
            ("searchEvents", "query_too_broad"): Amounts(3, 60, 900),
        }
        found = rows(context, "SELECT * FROM read_hours WHERE workspace_id = :id", id=alice.workspace_row)
        assert {(row.token_id, row.project_id, row.operation) for row in found} == {
            (read.identity.row_id, alice.project_row, "searchEvents")
        }
        assert all((row.hour.minute, row.hour.second) == (0, 0) for row in found)
        assert all(before - timedelta(hours=1) < row.hour <= datetime.now(UTC) for row in found)

    def test_a_second_flush_adds_nothing_more(self, reads: Reads, read: Read, context: Context, alice: Tenant) -> None:
        _count(reads, read)
        for _ in range(3):
            reads.flush()

        assert written_reads(context, alice) == {_SEARCH: Amounts(1, 20, 300)}

    def test_a_row_that_belongs_to_another_token_after_a_restore_is_not_charged(
        self, reads: Reads, read: Read, context: Context, alice: Tenant
    ) -> None:
        _count(reads, read._replace(identity=replace(read.identity, public_id="tok_of_before")))
        reads.flush()

        assert written_reads(context, alice) == {}

    @pytest.mark.parametrize("project", ["none", "of nobody", "of a stranger"])
    def test_a_project_that_is_not_the_workspaces_counts_as_none(
        self, reads: Reads, read: Read, context: Context, alice: Tenant, charlie: Tenant, project: str
    ) -> None:
        project_id = {"none": None, "of nobody": new_public_id("prj"), "of a stranger": charlie.project_id}[project]
        _count(reads, read._replace(project_id=project_id))
        reads.flush()

        assert written_reads(context, alice, project_id=NO_PROJECT) == {_SEARCH: Amounts(1, 20, 300)}
        assert written_reads(context, charlie) == {}

    def test_threads_that_count_at_once_beside_flushes_lose_none(
        self, reads: Reads, read: Read, context: Context, alice: Tenant
    ) -> None:
        def work(n: int) -> None:
            for _ in range(200):
                _count(reads, read)
            if n % 2:
                reads.flush()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        reads.flush()

        assert written_reads(context, alice) == {_SEARCH: Amounts(1_600, 32_000, 480_000)}

    def test_many_processes_that_flush_the_same_rows_wait_for_each_other_and_lose_none(
        self, read: Read, context: Context, alice: Tenant
    ) -> None:
        def work(order: int) -> None:
            reads = Reads(context.database, flush_seconds=None)
            for _ in range(10):
                for name in sorted("abcdefgh", reverse=bool(order % 2)):
                    _count(reads, read._replace(operation=name))
                reads.flush()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

        assert written_reads(context, alice) == {(name, ANSWERED): Amounts(80, 1_600, 24_000) for name in "abcdefgh"}


class TestFaults:
    def test_while_the_database_is_away_counts_wait_in_memory(
        self, reads: Reads, read: Read, context: Context, alice: Tenant
    ) -> None:
        reads._database = Database(_AWAY, pool_size=1)  # noqa: SLF001 - the server goes and comes back
        for _ in range(2):
            _count(reads, read)
            reads.flush()
        reads._database = context.database  # noqa: SLF001
        reads.flush()

        assert written_reads(context, alice) == {_SEARCH: Amounts(2, 40, 600)}

    def test_while_its_disk_is_full_they_wait_too(
        self, reads: Reads, read: Read, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OperationalError("INSERT", {}, psycopg.errors.DiskFull("could not extend file"))

        _count(reads, read)
        with monkeypatch.context() as patch:
            patch.setattr("sqlalchemy.orm.Session.execute", full)
            reads.flush()
        reads.flush()

        assert written_reads(context, alice) == {_SEARCH: Amounts(1, 20, 300)}

    @pytest.mark.parametrize("plan", [["after"], ["before"], ["after", "before", "after"], ["before", "before"]])
    def test_a_flush_whose_answer_was_lost_is_neither_lost_nor_counted_twice(
        self, reads: Reads, read: Read, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch,
        plan: list[str],
    ) -> None:  # fmt: skip
        """`after`: it was committed; `before`: it was not."""
        _count(reads, read)
        commits = LossyCommits(monkeypatch, *plan)
        while commits.plan:
            reads.flush()
        _count(reads, read)
        reads.flush()

        assert written_reads(context, alice) == {_SEARCH: Amounts(2, 40, 600)}

    @pytest.mark.parametrize("number", ["first", "second"])
    @pytest.mark.parametrize("fate", ["commit", "rollback"])
    def test_a_flush_that_is_still_being_committed_is_waited_for(
        self, reads: Reads, read: Read, context: Context, alice: Tenant, number: str, fate: str
    ) -> None:  # fmt: skip
        """Of a process's first one there is no row yet."""
        if number == "second":
            reads.count(read)
            reads.flush()
        _count(reads, read)
        running = _Unanswered(reads, context.database)
        reads.flush()
        with ThreadPoolExecutor(1) as pool:
            repeated = pool.submit(reads.flush)
            wait_until(lambda: rows(context, _WAITING_FOR_A_TRANSACTION))
            running.end(fate)
            repeated.result()

        assert written_reads(context, alice) == {_SEARCH: Amounts(1, 20, 300)}

    def test_a_repetition_for_which_the_database_is_away_is_repeated_again(
        self, reads: Reads, read: Read, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _count(reads, read)
        LossyCommits(monkeypatch, "after")
        reads.flush()
        reads._database = Database(_AWAY, pool_size=1)  # noqa: SLF001
        reads.flush()
        reads._database = context.database  # noqa: SLF001
        reads.flush()

        assert written_reads(context, alice) == {_SEARCH: Amounts(1, 20, 300)}

    def test_a_flush_that_stays_unanswered_is_given_up_and_named(
        self, read: Read, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads = Reads(context.database, flush_seconds=None, repeat_seconds=0.0)
        _count(reads, read)
        LossyCommits(monkeypatch, "before")
        reads.flush()
        with logged_by("app.counting.flushed") as said:
            reads.flush()

        assert written_reads(context, alice) == {}
        amounts = {"requests": 1, "events": 20, "body_bytes": 300}
        assert said == [{"event": "reads_perhaps_not_counted", "log_level": "warning"} | amounts]

    def test_memory_is_bounded_and_what_is_too_much_is_said_once_by_the_flush(
        self, read: Read, context: Context, alice: Tenant
    ) -> None:
        reads = Reads(context.database, flush_seconds=None, counts_max=2)
        for name in "abcabd":
            _count(reads, read._replace(operation=name))
        with logged_by("app.counting.flushed") as said:
            for _ in range(2):
                reads.flush()

        assert {name for name, _ in written_reads(context, alice)} == {"a", "b"}
        assert said == [
            {"event": "reads_not_counted", "log_level": "warning", "requests": 2, "events": 40, "body_bytes": 600}
        ]


class TestProcess:
    def test_a_process_flushes_by_itself(self, read: Read, context: Context, alice: Tenant) -> None:
        reads = Reads(context.database)
        _count(reads, read)

        assert wait_until(lambda: written_reads(context, alice) == {_SEARCH: Amounts(1, 20, 300)})

    def test_a_forked_child_leaves_its_parents_counts_to_the_parent_and_has_a_row_of_its_own(
        self, reads: Reads, read: Read, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a flush of the child would let its parent's repetition add once more."""
        _count(reads, read)
        reads.flush()
        _count(reads, read)
        LossyCommits(monkeypatch, "after")
        reads.flush()
        child = os.fork()
        if child == 0:  # pragma: no cover - in another process
            reads.flush()
            _count(reads, read._replace(operation="child"))
            reads.flush()
            os._exit(0)
        os.waitpid(child, 0)
        reads.flush()

        assert written_reads(context, alice) == {_SEARCH: Amounts(2, 40, 600), ("child", ANSWERED): Amounts(1, 20, 300)}

    @pytest.fixture(name="server")
    def _server(self, settings: Settings, checkout: Path) -> Iterator[LiveServer]:
        with live_server(replace(settings, database_pool_size=4), checkout) as server:
            yield server

    def test_an_orderly_end_loses_none(self, server: LiveServer, context: Context, alice: Tenant) -> None:
        for _ in range(20):
            path = f"/v1/events?project_id={alice.project_id}"
            assert server.request("GET", path, headers=alice.bearer).status == 200
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=20)

        assert written_reads(context, alice, project_id=alice.project_row)[_SEARCH][:2] == (20, 0)

    def test_what_ended_processes_have_left_is_deleted_after_a_day(
        self, reads: Reads, read: Read, context: Context, alice: Tenant
    ) -> None:
        execute(
            context,
            "INSERT INTO read_flushes SELECT gen_random_uuid(), CAST(uid AS uuid), clock_timestamp() - back"
            " FROM (VALUES (:old, interval '25 hours'), (:young, interval '23 hours')) AS it (uid, back)",
            old=_uid(1),
            young=_uid(2),
        )
        _count(reads, read)
        reads.flush()

        left = rows(context, "SELECT flush_uid::text AS uid FROM read_flushes")
        assert {row.uid for row in left} & {_uid(1), _uid(2)} == {_uid(2)}
        execute(context, "DELETE FROM read_flushes WHERE flush_uid = CAST(:young AS uuid)", young=_uid(2))


def _uid(n: int) -> str:
    return f"0190a000-0000-7000-8000-00000000000{n}"


class _Unanswered:
    """The next flush executes its statement and gets no answer; its transaction goes on until the test ends it."""

    def __init__(self, reads: Reads, database: Database) -> None:
        self._open = database.transaction(TenantScope.ALL, deadline_seconds=60)
        session = self._open.__enter__()
        written: Any = reads._write  # noqa: SLF001

        def write(_: Session, flush: Any) -> None:
            reads._write = written  # type: ignore[method-assign]  # noqa: SLF001
            written(session, flush)
            raise OutcomeUnknown

        reads._write = write  # type: ignore[method-assign, assignment]  # noqa: SLF001
        self._session = session

    def end(self, fate: str) -> None:
        if fate == "rollback":
            self._session.rollback()
        self._open.__exit__(None, None, None)
