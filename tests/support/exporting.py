"""Exports as a POST leaves them behind, and the turns of a worker for a single one."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app.config import Settings
from app.context import Context
from app.database.engine import TenantScope
from app.database.owner import Owner
from app.events.export import Format
from app.events.exports.files import file_path, part_path
from app.identifiers import new_public_id
from app.jobs.kinds import KINDS
from app.jobs.turns import Turn, give_turn
from app.maintenance.task import TaskContext
from app.models import Export
from tests.support.people import Tenant


def add_export(context: Context, tenant: Tenant, **values: Any) -> int:
    """The row of a new export of a day in 2026, queued unless `values` say otherwise."""
    usual = {
        "requested_by": tenant.token_id,
        "names": {},
        "begins_at": datetime(2026, 6, 1, tzinfo=UTC),
        "ends_at": datetime(2026, 6, 2, tzinfo=UTC),
        "format": "ndjson",
    }
    row = Export(
        public_id=new_public_id("exp"),
        workspace_id=tenant.workspace_row,
        project_id=tenant.project_row,
        **usual | values,
    )
    with context.database.transaction(tenant.workspace_row) as session:
        session.add(row)
        session.flush()
    return row.id


def export_of(context: Context, row: int) -> Export:
    with context.database.transaction(TenantScope.ALL) as session:
        export = session.get_one(Export, row)
        session.expunge(export)
        return export


def row_of(context: Context, public_id: str) -> int:
    with context.database.transaction(TenantScope.ALL) as session:
        found = session.execute(text("SELECT id FROM exports WHERE public_id = :id"), {"id": public_id})
        return int(found.scalar_one())


def turn_of(
    context: Context, row: int, *, seconds: float = 60.0, settings: Settings | None = None, attempts: int = 1
) -> Turn:
    """A turn of that job, as run_jobs() gives it; with no seconds it ends after one step."""
    with context.database.transaction(TenantScope.ALL) as session:
        running = "UPDATE exports SET state = 'running', started_at = now() WHERE id = :id AND state = 'queued'"
        session.execute(text(running), {"id": row})
    used = settings or context.settings
    owner = Owner(used.admin_database_url)
    task_context = TaskContext(database=context.database, owner=owner, settings=used, now=datetime.now(UTC))
    export = export_of(context, row)
    return Turn(task_context, export.workspace_id, row, time.monotonic() + seconds, export.due_at, attempts)


def give_export_turn(context: Context, row: int, **of_turn: Any) -> Export:
    """Give it, and see what the export is then."""
    give_turn(KINDS[0], turn_of(context, row, **of_turn))
    return export_of(context, row)


def work_off(context: Context, public_id: str) -> Export:
    """Give an export turns of one step each, until it ends."""
    row = row_of(context, public_id)
    for _ in range(1_000):
        export = give_export_turn(context, row, seconds=0.0)
        if export.ended_at is not None:
            return export
    raise AssertionError("it does not end")


def part_of(context: Context, export: Export) -> Path:
    return part_path(Path(context.settings.download_dir), export.public_id, export.restarts)


def file_of(context: Context, export: Export) -> Path:
    return file_path(Path(context.settings.download_dir), export.public_id, Format(export.format))
