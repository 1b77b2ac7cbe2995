"""Fills a database with events that were stored over a month, as ingest and the worker would have left them.

Skewed over 50 projects of one workspace (the largest has 27 per cent), over types, severities and sources; the texts
and ids in the payloads differ. Rows are written in the order of receipt, each day by itself, several days at once.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import accumulate
from typing import Any, Final

import psycopg

from app.config import Settings
from app.context import Context
from app.database.engine import TenantScope
from app.database.owner import Owner
from app.maintenance.search_indexes import index_closed_partitions
from app.models import Environment, Project, Source, SourceKey, Workspace
from app.models.event_index import SEGMENT_EVENTS

PROJECTS: Final = 50
SOURCES: Final = 4
_LARGEST: Final = 0.27
_DAYS: Final = 30
_AT_ONCE: Final = 2
_PARTITIONS: Final = "SELECT make_event_partitions(%s, %s)"
# `shares` are the cumulated ones of the projects: a random number falls between two. One event of 200 is of a rare
# type.
_FILL: Final = """
    WITH drawn AS MATERIALIZED (
        SELECT n, random() AS kind, random() AS who, floor(random() * %(sources)s) AS number,
            (%(projects)s::bigint[])[1 + width_bucket(random(), %(shares)s::float8[])] AS project_id
        FROM generate_series(1, %(events)s) AS n
    )
    INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,
        event_id, event_type, severity, occurred_at, payload, position)
    SELECT drawn.project_id, received, gen_random_uuid(), %(workspace)s, source.environment_id, source.id,
        source.key_id, 'evt_' || md5(n || %(day)s::text), type, severity, received - interval '80 milliseconds',
        jsonb_build_object('order_id', 'ord_' || substr(md5('o' || n || %(day)s::text), 1, 12),
            'customer_id', 'cus_' || substr(md5('c' || (n %% 100000)), 1, 10),
            'amount', round((kind * 1000)::numeric, 2), 'currency', (ARRAY['EUR', 'USD', 'GBP'])[1 + n %% 3],
            'reason', (ARRAY['card_declined', 'insufficient_funds', 'timeout', 'fraud', 'ok'])[1 + n %% 5],
            'attempt', n %% 4, 'is_live', kind > 0.1,
            'message', 'Order ' || n || ' of customer ' || n %% 100000 || ' took ' || (kind * 5000)::integer
                || ' ms; the processor answered "' || substr(md5('m' || n), 1, 8) || '"'),
        %(position)s + n / 8
    FROM drawn
    CROSS JOIN LATERAL (SELECT %(begin)s + (n - 1) * (%(span)s::interval / %(events)s) AS received) AS moment
    JOIN bench_sources AS source ON source.project_id = drawn.project_id AND source.number = drawn.number
    CROSS JOIN LATERAL (SELECT
        CASE WHEN kind < 0.005 THEN 'payment.disputed' ELSE (ARRAY['order.created', 'order.shipped', 'payment.failed',
            'payment.captured', 'user.signed_in', 'cart.updated', 'mail.sent', 'job.finished']
            )[1 + floor(who * 8)::integer]
        END AS type,
        CASE WHEN kind < 0.002 THEN 'critical' WHEN kind < 0.03 THEN 'error' WHEN kind < 0.15 THEN 'warning'
            WHEN kind < 0.2 THEN 'debug' ELSE 'info' END AS severity) AS kinds
    ORDER BY received
"""
_SOURCES: Final = """
    CREATE TABLE bench_sources (project_id bigint, number integer, id bigint, key_id bigint, environment_id bigint)
"""
_COUNT_HOURS: Final = """
    INSERT INTO event_hours
    SELECT project_id, date_trunc('hour', received_at, 'UTC'), source_key_id, event_type, severity, workspace_id,
        environment_id, source_id, count(*)
    FROM events WHERE received_at >= %(begin)s AND received_at < %(end)s GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""
_BUILD_SEGMENT: Final = "SELECT build_event_segment(%s, %s)"
_MARK: Final = "INSERT INTO event_days VALUES (%(day)s, %(first)s, %(last)s)"
_LEDGER: Final = """
    INSERT INTO event_ledger SELECT project_id, source_id, workspace_id, event_id, event_uid, '\\x00', received_at
    FROM events WHERE received_at >= %(begin)s AND received_at < %(end)s
"""


def is_loaded(settings: Settings) -> bool:
    """Whether an earlier run has filled the database to the end."""
    with psycopg.connect(settings.admin_database_url) as owner:
        return owner.execute("SELECT to_regclass('bench_loaded')").fetchone() != (None,)


def load(context: Context, settings: Settings, *, events: int, today_events: int) -> None:
    """Fill the last days with `events`, `today_events` of them today, and index them as the worker does."""
    workspace, projects, sources = _make_sources(context)
    now = datetime.now(UTC)
    today = now.date()
    with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
        owner.execute(_PARTITIONS, [today - timedelta(days=_DAYS - 1), _DAYS + 1])
        owner.execute(_SOURCES)
        with owner.cursor().copy("COPY bench_sources FROM STDIN") as copy:
            for row in sources:
                copy.write_row(row)
    common = {
        "workspace": workspace,
        "projects": [row for row, _ in projects],
        "shares": list(accumulate(_weights()))[:-1],
        "sources": SOURCES,
    }
    a_day = (events - today_events) // (_DAYS - 1)
    days = [(today - timedelta(days=ago), a_day if ago else today_events) for ago in range(_DAYS - 1, -1, -1)]
    fill_day = partial(_fill_day, settings=settings, common=common, now=now)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(fill_day, days, range(_DAYS)))
    with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
        owner.execute("SELECT setval('event_positions', %s)", [(_DAYS + 1) * _positions_of(max(a_day, today_events))])
        owner.execute("VACUUM ANALYZE event_hours")
        owner.execute("ANALYZE events")
    _build_segments(settings, [row for row, _ in projects])
    with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
        owner.execute("VACUUM ANALYZE event_segments")  # as autovacuum does
    index_closed_partitions(Owner(settings.admin_database_url), now=now)
    with psycopg.connect(settings.admin_database_url) as owner:
        owner.execute("CREATE TABLE bench_loaded ()")


def _positions_of(events: int) -> int:
    return events // 8 + 10


def _weights() -> list[float]:
    rest = [1 / (n + 1.5) for n in range(PROJECTS - 1)]
    scale = (1 - _LARGEST) / sum(rest)
    return [_LARGEST, *(weight * scale for weight in rest)]


def _make_sources(context: Context) -> tuple[int, list[tuple[int, str]], list[tuple[int, int, int, int, int]]]:
    """The workspace, the projects with inner and public id, and the rows of bench_sources."""
    projects, sources = [], []
    with context.database.transaction(TenantScope.ALL, deadline_seconds=60) as session:

        def add(row: Any) -> Any:
            session.add(row)
            session.flush()
            return row

        workspace = add(Workspace(public_id="ws_bench", name="bench"))
        for n in range(PROJECTS):
            inside = {"workspace_id": workspace.id}
            project = add(Project(public_id=f"prj_bench{n}", name=f"project {n}", **inside))
            projects.append((project.id, project.public_id))
            inside["project_id"] = project.id
            environments = [
                add(Environment(public_id=f"env_bench{n}_{name}", name=name, **inside))
                for name in ("production", "staging")
            ]
            for number in range(SOURCES):
                inside["environment_id"] = environments[number == SOURCES - 1].id
                name = f"bench{n}_{number}"
                source = add(Source(public_id=f"src_{name}", name=name, type="backend", **inside))
                key = SourceKey(public_id=f"key_{name}", source_id=source.id, label="one", secret_hash="none")
                key.workspace_id, key.project_id = workspace.id, project.id
                sources.append((project.id, number, source.id, add(key).id, source.environment_id))
            del inside["environment_id"]
    return workspace.id, projects, sources


def _fill_day(
    filled: tuple[date, int], number: int, *, settings: Settings, common: dict[str, Any], now: datetime
) -> None:
    day, events = filled
    begin = datetime.combine(day, datetime.min.time(), UTC)
    end = min(begin + timedelta(days=1), now)
    first = 10 + number * _positions_of(events)
    values = common | {
        "begin": begin,
        "end": end,
        "span": end - begin,
        "events": events,
        "day": day,
        "position": first,
        "first": first,
        "last": first + events // 8,
    }
    with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
        owner.execute("SET synchronous_commit = off; SET jit = off")
        owner.execute(_FILL, values)
        owner.execute(_COUNT_HOURS, values)
        owner.execute(_LEDGER, values)
        if day != now.date():
            owner.execute(_MARK, values)


def _build_segments(settings: Settings, projects: list[int]) -> None:
    """As the owner, whose statements are not bounded: the index grows beyond PostgreSQL's buffers."""

    def build_all(project: int) -> None:
        with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
            while owner.execute(_BUILD_SEGMENT, [project, SEGMENT_EVENTS]).fetchone() != (0,):
                pass

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(build_all, projects))
