"""Search, export and feed against a model: events of one moment and of shared positions, whatever happens meanwhile."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from sqlalchemy import event

from app.context import Context
from app.database.conninfo import conninfo_of
from app.events import export, kinds, search, segments, walk
from app.events.feed import domain as feed
from app.events.feed.cursors import BEGIN, Place
from app.events.feed.domain import Feed
from app.events.query.evaluation import matches
from app.events.query.identity import shown_id
from app.events.query.parsing import parse
from app.events.query.words import read_payload
from app.events.view import PAGE_BYTES, ShownEvent
from app.management.common.authentication import authenticate
from tests.events.query.strategies import combined
from tests.support.databases import SECRET_KEY
from tests.support.examples import examples
from tests.support.past_days import MARK_CLOSED_DAYS
from tests.support.people import issue_key, make_tenant, source_of

_DAYS: Final = 30
_LONG: Final = "x" * 400
_PAGES_MAX: Final = 400
# As a group of ingest stores it, but for the positions, which are drawn.
_INSERT: Final = """
    INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,
        event_id, event_type, severity, occurred_at, payload, position)
    VALUES (%(project)s, %(at)s, %(uid)s, %(workspace)s,
        (SELECT environment_id FROM sources WHERE id = %(source)s), %(source)s, %(key)s, %(id)s, %(type)s, %(severity)s,
        %(at)s, %(payload)s, %(position)s)
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as it is drawn."""

    moment: int
    group: int
    """What it shares a position with."""
    key: int = 0
    type: str = "a"
    severity: str = "info"
    word: str = "red"
    is_neighbours: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What happens before a statement of a search."""

    at: int
    is_build: bool
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """How much a search does at once."""

    limit: int = 10
    page_bytes: int = PAGE_BYTES
    seconds: int = 10_000
    """By a clock that gets on by one each time it is looked at."""
    most_segments: int = 500
    unsegmented: int = 50_000
    first_rows: int = 1
    page_max: int = 1
    kind_rows: int = 4_000
    segment_events: int = 1_000


class World:
    """A project and its neighbour in the workspace, which share positions; no dataclass: hypothesis would print it."""

    def __init__(self, context: Context, owner: psycopg.Connection[Any]) -> None:
        self.context = context
        self.owner = owner
        self.tenant, self.neighbour = make_tenant(context), make_tenant(context)
        second = issue_key(context, source_of(context, self.tenant))
        self.keys = [(self.tenant.key_row, self.tenant.key_id), second[:2]]
        self.operator = authenticate(f"Bearer {self.tenant.token}", context.credentials, context.database)
        self.events: dict[str, Any] = {}
        self.places: dict[str, Place] = {}

    def __repr__(self) -> str:
        return self.tenant.project_id

    def begin_with(self, sent: Sequence[Sent], hours: int, builds: Sequence[int] = ()) -> None:
        """Events so many hours apart by their moments, and segments of them."""
        self.clear()
        first = self.owner.execute(
            "SELECT setval('event_positions', nextval('event_positions') + 100) - 100"
        ).fetchone()
        assert first is not None
        begin = datetime.combine(datetime.now(UTC).date() - timedelta(days=_DAYS - 1), time.min, UTC)
        rows = [self._row(n, it, begin + timedelta(hours=it.moment * hours), first[0]) for n, it in enumerate(sent)]
        with self.owner.cursor() as cursor:
            cursor.executemany(_INSERT, rows)
        own = [row for row in rows if row["project"] == self.tenant.project_row]
        self.events = {row["id"]: self._shown(row) for row in own}
        self.places = {row["id"]: Place(row["position"], row["uid"]) for row in own}
        self.owner.execute(MARK_CLOSED_DAYS)
        for size in builds:
            self.build(size)

    def clear(self) -> None:
        for table in ("events", "event_segments"):
            projects = [self.tenant.project_row, self.neighbour.project_row]
            self.owner.execute(f"DELETE FROM {table} WHERE project_id = ANY (%s)", [projects])

    def _row(self, n: int, sent: Sent, at: datetime, position: int) -> dict[str, Any]:
        tenant = self.neighbour if sent.is_neighbours else self.tenant
        return {
            "project": tenant.project_row,
            "at": at,
            "uid": UUID(int=(n * 7919 % 251) << 90 | 0x8 << 76 | 0x2 << 62 | n),
            "workspace": self.tenant.workspace_row,
            "source": tenant.source_row,
            "key": self.keys[sent.key][0],
            "id": f"{'n' if sent.is_neighbours else 'e'}{n}",
            "type": sent.type,
            "severity": sent.severity,
            "payload": Jsonb({"w": sent.word, "n": n}),
            "position": position + sent.group,
        }

    def _shown(self, row: dict[str, Any]) -> Any:
        payload: Any = read_payload(json.dumps(row["payload"].obj))
        return ShownEvent(
            id=shown_id(row["at"], row["uid"]),
            event_id=row["id"],
            project_id=self.tenant.project_id,
            source_id=self.tenant.source_id,
            environment="production",
            environment_id=self.tenant.environment_id,
            key_id=dict(self.keys)[row["key"]],
            event_type=row["type"],
            severity=row["severity"],
            timestamp=row["at"],
            received_at=row["at"],
            payload=payload,
        )

    def named(self, q: str) -> str:
        """The query with the ids of keys for K0 and K1, and ours of the events e3 and e5 for E3 and E5."""
        named = {f"K{n}": key_id for n, (_, key_id) in enumerate(self.keys)}
        named |= {each.upper(): getattr(self.events.get(each), "id", "none") for each in ("e3", "e5")}
        for name, meant in named.items():
            q = q.replace(name, meant)
        return q

    def build(self, size: int) -> None:
        self.owner.execute("SELECT build_event_segment(%s, %s)", [self.tenant.project_row, size])

    def change(self, change: Change) -> None:
        if change.is_build:
            self.build(change.number)
        elif self.events:
            gone = sorted(self.events)[change.number * 31 % len(self.events)]
            of = [self.tenant.project_row, gone]
            self.owner.execute("DELETE FROM events WHERE project_id = %s AND event_id = %s", of)
            del self.events[gone]

    def expected(self, q: str) -> list[str]:
        found = [shown for shown in self.events.values() if matches(parse(q), shown)]
        return [shown.event_id for shown in sorted(found, key=lambda shown: shown.id, reverse=True)]

    def exported(self, q: str) -> list[str]:
        request = export.ExportRequest(project_id=self.tenant.project_id, q=q, begin=timedelta(days=_DAYS + 5))
        chunks = export.export_events(self.context.reading, self.operator, request)
        return [shown.event_id for chunk in chunks for shown in chunk]

    def followed(self, q: str, limit: int) -> list[str]:
        """From the beginning to the end of the feed."""
        followed, place = Feed(self.tenant.project_id, parse(q)), BEGIN
        found: list[str] = []
        for _ in range(_PAGES_MAX):
            page = followed.page(self.context.reading, self.operator, place, limit)
            found += [shown.event_id for shown in page.data]
            place = page.reached
            if page.is_last:
                return found
        raise AssertionError("the pages do not end")

    def pages(self, q: str, steps: Steps, changes: Sequence[Change] = ()) -> list[search.SearchPage]:
        """All of them; the changes come before the statements with their numbers."""
        statements, due = count(), sorted(changes, key=lambda change: change.at)

        def change(*_: Any) -> None:
            number = next(statements)
            while due and due[0].at <= number:
                self.change(due.pop(0))

        event.listen(self.context.reading.engine, "before_cursor_execute", change)
        try:
            with _in(steps):
                return list(self._pages(q, steps.limit))
        finally:
            event.remove(self.context.reading.engine, "before_cursor_execute", change)

    def _pages(self, q: str, limit: int) -> Iterator[search.SearchPage]:
        cursor = None
        for _ in range(_PAGES_MAX):
            request = search.SearchRequest(
                project_id=self.tenant.project_id,
                q=q,
                begin=timedelta(days=_DAYS + 5),
                limit=limit,
                cursor=cursor,
                secret_keys=(SECRET_KEY,),
            )
            page = search.search(self.context.reading, self.operator, request)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return
        raise AssertionError("the pages do not end")


def _in(steps: Steps) -> ExitStack:
    clock = SimpleNamespace(monotonic=partial(next, count(0.0)))
    stack = ExitStack()
    rows: dict[str, Any] = {"_FIRST_ROWS": steps.first_rows, "_FIRST_ROWS_BY_KIND": steps.first_rows, "_NEAR_ROWS": 10}
    rows |= {"_CHUNK_ROWS": 3, "_CHUNK_ROWS_MAX": 7, "_UNSEGMENTED_ROWS_MAX": steps.unsegmented}
    sizes: dict[str, Any] = {"PAGE_BYTES": steps.page_bytes, "SEGMENT_EVENTS": steps.segment_events}
    stack.enter_context(patch.multiple(walk, time=clock, **rows, **sizes))
    stack.enter_context(patch.multiple(segments, SEGMENTS_MAX=steps.most_segments, _BATCH=2))
    stack.enter_context(patch.multiple(kinds, _PAGE_MAX=steps.page_max, _ROWS=steps.kind_rows))
    stack.enter_context(patch.multiple(search, time=clock, _SECONDS_MAX=float(steps.seconds)))
    return stack


@pytest.fixture(scope="module", name="world")
def _world(context: Context) -> Iterator[World]:
    with psycopg.connect(**conninfo_of(context.settings.admin_database_url), autocommit=True) as owner:
        owner.execute("SET timezone = 'UTC'")
        owner.execute("SELECT make_event_partitions(%s, %s)", [datetime.now(UTC).date() - timedelta(days=_DAYS), _DAYS])
        world = World(context, owner)
        yield world
        world.clear()
        owner.execute("DELETE FROM event_days")  # or later tests find marks of days in which they store events


_SENT = st.builds(
    Sent,
    moment=st.integers(0, 40),
    group=st.integers(0, 40),
    key=st.integers(0, 1),
    type=st.sampled_from(["a", "a.b", "c"]),
    severity=st.sampled_from(["info", "error", "critical"]),
    word=st.sampled_from(["red", "green", "blue", _LONG]),
    is_neighbours=st.sampled_from([False, False, False, True]),
)
_STEPS = st.builds(
    Steps,
    limit=st.sampled_from([1, 2, 3, 7, 50]),
    page_bytes=st.sampled_from([450, 500, 1_000, PAGE_BYTES]),
    seconds=st.sampled_from([0, 3, 4, 5, 6, 8, 10, 15, 25, 10_000]),
    most_segments=st.sampled_from([0, 2, 500]),
    unsegmented=st.sampled_from([3, 50_000]),
    first_rows=st.sampled_from([1, 2, 5]),
    page_max=st.sampled_from([1, 2, 64]),
    kind_rows=st.sampled_from([1, 5, 4_000]),
    segment_events=st.sampled_from([1, 5, 1_000]),
)
_CHANGES = st.lists(
    st.builds(Change, at=st.integers(0, 60), is_build=st.booleans(), number=st.integers(1, 12)), max_size=4
)
_ATOMS = st.sampled_from([
    *("type:a", "type:a.*", "type:[a.b, c]", "type:none", "severity:critical", "severity>=error", "-severity:info"),
    *("key:K0", "key:K1", "payload.w:red", "red", "green", "has:payload.w", "has:payload.none", "nowhere"),
    *("payload.n<10", "payload.n:7", "id:e3", "id:E3", "id:[e4, E5]"),
])  # fmt: skip
_QUERIES = combined(_ATOMS, max_leaves=4)


@settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    sent=st.lists(_SENT, min_size=1, max_size=60),
    laid_out=st.tuples(st.sampled_from([0, 1, 7, 17]), st.lists(st.integers(1, 12), max_size=6)),
    changes=_CHANGES,
    q=_QUERIES,
    steps=_STEPS,
)
def test_all_pages_show_each_match_once_and_in_order_whatever_happens_meanwhile(
    world: World, sent: list[Sent], laid_out: tuple[int, list[int]], changes: list[Change], q: str, steps: Steps
) -> None:
    world.begin_with(sent, *laid_out)
    q = world.named(q)
    before = world.expected(q)

    pages = world.pages(q, steps, changes)

    found = [shown.event_id for page in pages for shown in page.data]
    left = set(world.expected(q))
    assert found == [each for each in before if each in found]
    assert left <= set(found)
    for page in pages[:-1]:
        size = sum(len(bytes(shown.payload)) for shown in page.data) + len(_LONG) + 30  # of what was not shown any more
        assert page.searched_from or len(page.data) == steps.limit or size >= steps.page_bytes


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    sent=st.lists(_SENT, min_size=1, max_size=60),
    laid_out=st.tuples(st.sampled_from([0, 1, 7, 17]), st.lists(st.integers(1, 12), max_size=6)),
    q=_QUERIES,
    steps=_STEPS,
    sizes=st.tuples(st.sampled_from([1, 7, 1_000]), st.sampled_from([1, 5, 5_000])),
)
def test_an_export_has_the_same_and_a_feed_in_the_order_of_positions(
    world: World, sent: list[Sent], laid_out: tuple[int, list[int]], q: str, steps: Steps, sizes: tuple[int, int]
) -> None:
    world.begin_with(sent, *laid_out)
    q = world.named(q)
    expected, (chunk, scanned) = world.expected(q), sizes

    with _in(steps), patch.object(export, "CHUNK_EVENTS", chunk):
        exported = world.exported(q)
    with patch.multiple(feed, SCANNED_MAX=scanned, _SCANNED_MIN=1, PAGE_BYTES=steps.page_bytes):
        followed = world.followed(q, steps.limit)

    assert exported == expected
    assert followed == sorted(expected, key=world.places.__getitem__)


@pytest.mark.parametrize("q", ["type:a", "has:payload.w -type:c"])
def test_a_page_that_ends_before_what_may_be_newer_is_read_says_so(world: World, q: str) -> None:
    """A page's worth of bytes is found in one segment, and time is over before another one, which reaches above it."""
    others = [Sent(20, 20, type="c"), Sent(10, 1, type="c"), Sent(5, 5, type="c")]
    sent = [*others, Sent(3, 2, word=_LONG), Sent(3, 3, word=_LONG), Sent(8, 4), Sent(2, 6)]
    for seconds in range(12):
        world.begin_with(sent, hours=1, builds=[3, 3])

        pages = world.pages(q, Steps(page_bytes=450, seconds=seconds))

        assert [shown.event_id for page in pages for shown in page.data] == world.expected(q)
        assert all(page.data or page.searched_from for page in pages[:-1])


@pytest.mark.parametrize("q", ["id:E3", "id:[E3, e3]", "id:E3 OR id:e4", "id:E3 type:a", "id:[E3, E5] -type:c"])
@pytest.mark.parametrize("built", [0, 3])
def test_an_event_that_is_named_by_our_id_is_found_once(world: World, q: str, built: int) -> None:
    world.begin_with([Sent(n, n) for n in range(12)], hours=1, builds=[3] * built)
    q = world.named(q)

    pages = world.pages(q, Steps(limit=50))

    assert [shown.event_id for page in pages for shown in page.data] == world.expected(q) != []


@pytest.mark.parametrize("q", ["type:a", "payload.w:red"])
def test_a_segment_that_is_built_between_two_statements_neither_repeats_nor_hides_its_events(
    world: World, q: str
) -> None:
    sent = [Sent(n, n) if n % 2 else Sent(n, n, type="c", word="green") for n in range(12)]
    for at in range(24):
        world.begin_with(sent, hours=7, builds=[3])

        pages = world.pages(q, Steps(limit=50), [Change(at, is_build=True, number=3)])

        assert [shown.event_id for page in pages for shown in page.data] == world.expected(q)
