"""A database of a test's own, for what looks at all partitions or all rows at once."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from app.config import Settings
from app.context import Context
from app.database.engine import Database
from app.database.owner import Owner
from app.maintenance.task import TaskContext
from tests.support.people import Tenant, execute, make_tenant, rows


@dataclass(frozen=True)
class Installation:
    """A database with its owner and its app's role, as a worker sees it."""

    context: Context
    owner: Owner

    @property
    def database(self) -> Database:
        return self.context.database

    @property
    def settings(self) -> Settings:
        return self.context.settings

    def tenant(self) -> Tenant:
        """A new workspace with one of everything."""
        return make_tenant(self.context)

    def task_context(self, now: datetime) -> TaskContext:
        return TaskContext(database=self.database, owner=self.owner, settings=self.settings, now=now)

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run as the owner, to whom a partition can be named."""
        with self.owner.connection() as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def days(self) -> list[date]:
        """The days that have a partition."""
        names = self.sql("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass")
        found = [name for (name,) in names if name != "events_default"]
        return sorted(datetime.strptime(name, "events_%Y%m%d").replace(tzinfo=UTC).date() for name in found)

    def make_days(self, first: date, days: int) -> None:
        execute(self.context, "SELECT make_event_partitions(:first, :days)", first=first, days=days)

    def store(self, tenant: Tenant, at: datetime, count: int = 1, payload: str = "{}") -> None:
        """Events of a tenant that were received at one moment."""
        execute(
            self.context,
            "INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id,"
            " source_key_id, event_id, event_type, severity, occurred_at, payload)"
            " SELECT :project, :at, gen_random_uuid(), :workspace, (SELECT id FROM environments WHERE project_id ="
            " :project LIMIT 1), :source, :key, gen_random_uuid()::text, 'a.b', 'info', :at, CAST(:payload AS jsonb)"
            " FROM generate_series(1, :count)",
            project=tenant.project_row,
            workspace=tenant.workspace_row,
            source=tenant.source_row,
            key=tenant.key_row,
            at=at,
            count=count,
            payload=payload,
        )

    def stored_on(self, day: date) -> int:
        """How many events `events` shows of that day."""
        begin = noon(day) - timedelta(hours=12)
        (row,) = rows(
            self.context,
            "SELECT count(*) AS events FROM events WHERE received_at >= :begin AND received_at < :end",
            begin=begin,
            end=begin + timedelta(days=1),
        )
        return int(row.events)


def noon(day: date) -> datetime:
    """The middle of a day in UTC."""
    return datetime.combine(day, time(12), UTC)
