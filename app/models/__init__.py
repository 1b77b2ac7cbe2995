"""The tables, one (or one tight family) per file. A child imports its parent, never the reverse.

Control tables have a bigint `id`, a `public_id` and a `workspace_id`, and refer to each other by composite keys that
hold the workspace, so that no row can point into another workspace. Hot tables (events, event_ledger,
idempotency_records, usage_outbox, usage_hours) have `project_id` first in every key, hold the `workspace_id` that row
security asks for, and have no foreign keys: an insert locks no parent row. Nor have the counts of reads (read_hours),
which begin with the workspace.
"""

from app.models.audit_entry import AuditEntry
from app.models.base import Base
from app.models.cell import Cell
from app.models.consumer import Consumer
from app.models.environment import Environment
from app.models.event import Event, EventLedger
from app.models.event_index import EventDay, EventHour, EventSegment
from app.models.export import Export
from app.models.idempotency_record import IdempotencyRecord
from app.models.maintenance_task import MaintenanceTask
from app.models.management_request import ManagementRequest
from app.models.management_token import ManagementToken
from app.models.project import Project
from app.models.read_usage import ReadFlush, ReadHour
from app.models.replay import Replay
from app.models.source import Source, SourceType, TimestampPolicy
from app.models.source_key import SourceKey
from app.models.usage import UsageHour, UsageOutbox
from app.models.workspace import Workspace, WorkspaceStatus

__all__ = [
    "AuditEntry",
    "Base",
    "Cell",
    "Consumer",
    "Environment",
    "Event",
    "EventDay",
    "EventHour",
    "EventLedger",
    "EventSegment",
    "Export",
    "IdempotencyRecord",
    "MaintenanceTask",
    "ManagementRequest",
    "ManagementToken",
    "Project",
    "ReadFlush",
    "ReadHour",
    "Replay",
    "Source",
    "SourceKey",
    "SourceType",
    "TimestampPolicy",
    "UsageHour",
    "UsageOutbox",
    "Workspace",
    "WorkspaceStatus",
]
