"""What readers see of a replay, and the queries for those within a caller's reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select

from app.events.ranges import TimeRange
from app.management.common.operators import Operator
from app.management.common.views import View, view_of
from app.models import Project, Replay, Source, SourceKey
from app.models.job import JobState


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayView(View):
    project_id: str
    target_source_id: str
    key_id: str
    query: Mapping[str, Any]
    rate: int
    state: JobState
    count: int | None
    events: int
    stored: int
    duplicates: int
    refused: Mapping[str, int]
    progress: float
    """0 to 1."""
    requested_by: str
    started_at: datetime | None
    ended_at: datetime | None
    failure: str | None


def replays_within(operator: Operator) -> Select[Any]:
    """Replays whose two projects the caller reaches, each with the public ids of its project, source and key."""
    return (
        Replay.within(operator.workspace_id)
        .join(Project, Project.id == Replay.project_id)
        .join(Source, Source.id == Replay.target_source_id)
        .join(SourceKey, SourceKey.id == Replay.source_key_id)
        .where(operator.reaches(Replay.project_id), operator.reaches(Replay.target_project_id))
        .add_columns(Project.public_id, Source.public_id, SourceKey.public_id)
    )


def view_of_replay(row: Replay, project_id: str, source_id: str, key_id: str) -> ReplayView:
    """A row of replays_within(), spread out."""
    return view_of(
        ReplayView,
        row,
        project_id=project_id,
        target_source_id=source_id,
        key_id=key_id,
        query=described(row.q, TimeRange(row.begins_at, row.ends_at)),
        state=JobState(row.state),
        progress=_progress(row),
    )


def _progress(row: Replay) -> float:
    if row.state == JobState.COMPLETED:
        return 1.0
    if row.count:
        return min(1.0, round(row.events / row.count, 4))
    if row.reached_at is None:
        return 0.0
    return round((row.reached_at - row.begins_at) / (row.ends_at - row.begins_at), 4)


def described(normalized: str, received: TimeRange) -> Mapping[str, Any]:
    """How a query was understood."""
    return {"normalized": normalized, "from": received.begin, "to": received.end}
