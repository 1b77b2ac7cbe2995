"""Each documented filter is found by an index, as the app's role: a search looks at few of the rows that there are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from unittest.mock import patch

import psycopg
import pytest
from sqlalchemy import event, text

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.conninfo import conninfo_of
from app.database.engine import TenantScope
from app.database.migrate import migrate
from app.database.owner import Owner
from app.events import search as search_module
from app.events import walk
from app.events.query.identity import shown_id
from app.events.search import SearchRequest, search
from app.factory import create_app
from app.maintenance.partitions import make_event_partitions
from app.maintenance.search_indexes import index_closed_partitions
from app.management.common.authentication import authenticate
from tests.events.counts_world import index_events
from tests.support.databases import SECRET_KEY, close, fresh_database
from tests.support.past_days import MARK_CLOSED_DAYS
from tests.support.people import Tenant, execute, make_tenant, rows

_DAYS: Final = 6
_EVENTS: Final = 60_000
# Of two projects in turns. Of 200 one is critical, and of a thousand one of a rare type; each has an order of its own.
_FILL: Final = """
    INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,
        event_id, event_type, severity, occurred_at, payload, position)
    SELECT source.project_id, at, gen_random_uuid(), source.workspace_id, environment_id, source.id, key.id, 'e' || n,
        CASE WHEN n % 2000 < 2 THEN 'payment.disputed' ELSE 'order.created' END,
        CASE WHEN n % 400 < 2 THEN 'critical' WHEN n % 10 < 2 THEN 'error' ELSE 'info' END,
        at, jsonb_build_object('n', n % 7, 'order', 'o' || n, 'text', 'took ' || n || ' ms', 'is_new', n % 400 < 2), n
    FROM generate_series(1, :number) AS n
    JOIN sources AS source ON source.id = CASE WHEN n % 2 = 0 THEN :mine ELSE :others END
    JOIN source_keys AS key ON key.source_id = source.id,
    LATERAL (SELECT :begin + n * (:span * interval '1 second' / :number) AS at) AS moment
"""
_PARTITION: Final = re.compile(r"events_([0-9]{8}|default)")
# A page of fifty or some segments, what no segment holds, and what a walk looks at in order before it asks.
_FEW: Final = 3_000
_FEW_BY_WORDS: Final = 8_000
_FEW_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class _Stored:
    context: Context
    tenant: Tenant

    def own_id(self, event_id: str) -> str:
        """Ours of an event."""
        of_event = "SELECT received_at, event_uid FROM events WHERE event_id = :id AND project_id = :project"
        (row,) = rows(self.context, of_event, id=event_id, project=self.tenant.project_row)
        return shown_id(row.received_at, row.event_uid)

    def rows_for(self, q: str) -> tuple[int, list[int]]:
        """How many events are found, and how many rows each statement held in hand for them."""
        operator = authenticate(f"Bearer {self.tenant.token}", self.context.credentials, self.context.database)
        looked_at: list[int] = []

        def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if "readable_events" in statement and not statement.startswith("EXPLAIN"):
                cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters)
                looked_at.append(_looked_at(cursor.fetchone()[0][0]["Plan"]))

        event.listen(self.context.reading.engine, "before_cursor_execute", explain)
        try:
            request = SearchRequest(
                project_id=self.tenant.project_id,
                q=q,
                begin=timedelta(days=_DAYS),
                limit=50,
                secret_keys=(SECRET_KEY,),
            )
            # Explained, on a busy machine, a search may take more time than it has.
            with patch.object(search_module, "_SECONDS_MAX", 600.0):
                page = search(self.context.reading, operator, request)
        finally:
            event.remove(self.context.reading.engine, "before_cursor_execute", explain)
        assert page.searched_from is None
        return len(page.data), looked_at


def _looked_at(node: dict[str, Any]) -> int:
    """The rows of events that a plan's scans have held in their hands."""
    own = 0.0
    if _PARTITION.fullmatch(node.get("Relation Name", "")):
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        own = node["Actual Loops"] * (node["Actual Rows"] + removed)
    return int(own) + sum(map(_looked_at, node.get("Plans", ())))


@pytest.fixture(scope="module", name="stored")
def _stored(server_url: str, credentials: Credentials) -> Iterator[_Stored]:
    """A project's events among those of a neighbour, of six days, the last one open, in a database of their own."""
    with fresh_database(server_url) as settings:
        yield from _filled(settings, credentials)


def _filled(settings: Settings, credentials: Credentials) -> Iterator[_Stored]:
    migrate(settings)
    context = create_app(settings, credentials=credentials).extensions[EXTENSION]
    mine, neighbour = make_tenant(context), make_tenant(context)
    now = datetime.now(UTC)
    begin = now - timedelta(days=_DAYS - 1)
    make_event_partitions(context.database, first_day=begin.date(), days=_DAYS)
    fill = {"mine": mine.source_row, "others": neighbour.source_row, "number": _EVENTS}
    execute(context, _FILL, **fill, begin=begin, span=(now - begin).total_seconds())
    with psycopg.connect(**conninfo_of(settings.admin_database_url), autocommit=True) as owner:
        owner.execute(MARK_CLOSED_DAYS)
        owner.execute("SELECT setval('event_positions', %s)", [_EVENTS + 1])
        owner.execute("ANALYZE events")
    for tenant in (mine, neighbour):
        index_events(context, tenant, size=1_000)
    index_closed_partitions(Owner(settings.admin_database_url), now=now)
    yield _Stored(context, mine)
    close(context.database)
    close(context.reading)


def test_no_reader_scans_a_table_in_order_and_whoever_writes_may(stored: _Stored) -> None:
    """Of the skip index the planner would, with twenty million events, as soon as a part of it is not sorted yet."""
    allowed = {}
    for name, database in (("reading", stored.context.reading), ("writing", stored.context.database)):
        with database.transaction(TenantScope.NONE) as session:
            allowed[name] = session.execute(text("SHOW enable_seqscan")).scalar_one()

    assert allowed == {"reading": "off", "writing": "on"}


@pytest.mark.parametrize("q", ["", "type:order.created", "severity>=error", "severity:info", "payload.n:3", "took"])
def test_what_is_frequent_is_found_among_the_newest(stored: _Stored, q: str) -> None:
    found, looked_at = stored.rows_for(q)

    assert found == 50
    assert sum(looked_at) <= 1_000


@pytest.mark.parametrize(
    ("q", "there"),
    [
        ("severity:critical", 50),
        ("type:payment.disputed", 30),
        ("type:payment.*", 30),
        ("severity:critical -type:payment.disputed", 50),
        ("-severity:[info, error]", 50),
        ("source:{source}", 50),
        ("key:{key} severity:critical", 50),
        ("severity:debug..debug", 0),
        ("env:production type:payment.disputed", 30),
        ("type:order.created payload.order:o20002", 1),
        ("severity:critical payload.is_new:false", 0),
        ("type:none", 0),
        ("type:none.*", 0),
        ("severity:debug", 0),
        ("-type:[payment.disputed, order.created]", 0),
    ],
)
def test_by_kind_hardly_more_than_what_is_found_is_looked_at(stored: _Stored, q: str, there: int) -> None:
    found, looked_at = stored.rows_for(q.format(source=stored.tenant.source_id, key=stored.tenant.key_id))

    assert found == there
    assert sum(looked_at) <= _FEW


@pytest.mark.parametrize(
    ("q", "there"),
    [
        ("payload.order:o20000", 1),
        ("payload.order:[o20000, o20002]", 2),
        ('"took 20000 ms"', 1),
        ("20000", 1),
        ("id:e20000", 1),
        ("id:none", 0),
        ("id:{own}", 1),
        ("id:{own} -severity:debug", 1),
        ("id:{own} type:none", 0),
        ("nowhere", 0),
        ("payload.order:none", 0),
        ("has:payload.none", 0),
        ("payload.none>3", 0),
        ("payload.n:none", 0),
        # As words they are in each segment.
        ("payload.n:300", 0),
        ("payload.text:300", 0),
        ("payload.is_new:null", 0),
    ],
)
def test_what_is_rare_or_nowhere_is_found_by_the_skip_index(stored: _Stored, q: str, there: int) -> None:
    found, looked_at = stored.rows_for(q.format(own=stored.own_id("e20000")))

    assert found == there
    assert sum(looked_at) <= _FEW_BY_WORDS


@pytest.mark.parametrize(
    "q",
    [
        "timestamp>=2999-01-01T00:00:00Z",
        "id:none*",
        "payload.order:none*",
        "payload.n>1000",
        "payload.n:1000..2000",
        "-took",
    ],
)
def test_what_no_index_knows_is_read_in_order_by_short_statements(stored: _Stored, q: str) -> None:
    found, looked_at = stored.rows_for(q)

    assert found == 0
    assert max(looked_at) <= 2 * walk._CHUNK_ROWS_MAX  # noqa: SLF001 - each row is looked at, and then judged


@pytest.mark.parametrize("q", ["severity:info payload.n>6", "-type:none has:payload.order payload.n>6"])
def test_no_statement_looks_at_many_rows_of_a_frequent_kind(stored: _Stored, q: str) -> None:
    """One that reads some ten thousand from a disk, or through long payloads, would take longer than it may."""
    found, looked_at = stored.rows_for(q)

    assert found == 0
    assert sum(looked_at) > 20_000
    assert max(looked_at) <= _FEW_AT_ONCE
