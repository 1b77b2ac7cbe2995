"""Source keys: issued once, shown once, revoked for good."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.credentials import Credentials
from app.database import Database
from app.errors import Conflict, Fault
from app.locks import exclude_workspace
from app.management.changes import ABSENT, Absent, insert, mentioned, moment, update
from app.management.lookup import find, find_parent, find_to_change
from app.management.operators import Operator
from app.management.pages import Listing, Page, PageRequest
from app.management.revisions import Facts, Target
from app.management.sources import live_sources
from app.models import Environment, Project, Source, SourceKey

_STAYS_REVOKED = "This key is revoked, and a revoked key never lives again. Issue a new one."


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFacts(Facts):
    """A key as its readers see it: never its secret."""

    source_id: str
    label: str
    expires_at: datetime | None
    events_per_second: int | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class IssuedKey(KeyFacts):
    """A key in the one moment in which its plain text is known."""

    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """What can be chosen for one."""

    label: str = ""
    expires_at: datetime | None = None
    events_per_second: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyChange:
    """What can be changed of one.

    An `expires_at` of None lets it live until it is revoked, an `events_per_second` of None gives it the default.
    """

    label: str | Absent = ABSENT
    expires_at: datetime | Absent | None = ABSENT
    events_per_second: int | Absent | None = ABSENT


def live_keys(workspace_id: int) -> Select[Any]:
    """Keys whose source is not archived, nor anything above it, revoked and expired keys among them.

    Each with its source's public id.
    """
    return (
        SourceKey.within(workspace_id)
        .join(Source, Source.id == SourceKey.source_id)
        .join(Environment, Environment.id == Source.environment_id)
        .join(Project, Project.id == Source.project_id)
        .where(Source.archived_at.is_(None), Environment.archived_at.is_(None), Project.archived_at.is_(None))
        .add_columns(Source.public_id)
    )


def issue_key(
    database: Database, credentials: Credentials, operator: Operator, source_id: str, new: NewKey
) -> IssuedKey:
    """A new key of a source; the answer carries its plain text, and nobody can ask for it again."""
    with database.transaction() as session:
        source, *_ = find_parent(session, live_sources(operator.workspace_id), Source, source_id)
        return add_key(session, credentials, operator, source, new)


def add_key(session: Session, credentials: Credentials, operator: Operator, source: Source, new: NewKey) -> IssuedKey:
    """As issue_key(), as a part of something larger."""
    key_id, plain_text, secret_hash = credentials.mint("sk")
    row = SourceKey(
        public_id=f"key_{key_id}",
        workspace_id=operator.workspace_id,
        project_id=source.project_id,
        source_id=source.id,
        label=new.label,
        expires_at=new.expires_at,
        events_per_second=new.events_per_second,
        secret_hash=secret_hash,
    )
    shown = {
        "source_id": source.public_id,
        "label": new.label,
        "expires_at": new.expires_at,
        "events_per_second": new.events_per_second,
    }
    insert(session, operator, row, "source_key.issue", shown)
    return IssuedKey(**_columns(row), source_id=source.public_id, key=plain_text)


def list_keys(database: Database, operator: Operator, source_id: str, request: PageRequest) -> Page[KeyFacts]:
    """A source's keys."""
    workspace_id = operator.workspace_id
    with database.transaction() as session:
        source, *_ = find(session, live_sources(workspace_id), Source, source_id)
        below = live_keys(workspace_id).where(SourceKey.source_id == source.id)
        return Listing(SourceKey, workspace_id, f"keys of {source_id}", below, _facts).page(session, request)


def read_key(database: Database, operator: Operator, key_id: str) -> KeyFacts:
    """One key."""
    with database.transaction() as session:
        return _facts(*find(session, live_keys(operator.workspace_id), SourceKey, key_id))


def change_key(database: Database, operator: Operator, target: Target, change: KeyChange) -> KeyFacts:
    """Change what `change` mentions. Raises Conflict for a new expiry of a revoked key."""
    with database.transaction() as session:
        if change.expires_at is not ABSENT:
            # It may be an earlier one, which takes a right away; whether it is shows only after the lock.
            exclude_workspace(session, operator.workspace_id)
        row, source_id = find_to_change(session, live_keys(operator.workspace_id), SourceKey, target)
        if row.revoked_at is not None and change.expires_at is not ABSENT:
            raise Conflict(_STAYS_REVOKED, faults=(Fault("/expires_at", "The key is revoked."),))
        update(session, operator, row, "source_key.update", mentioned(change))
        return _facts(row, source_id)


def revoke_key(database: Database, operator: Operator, target: Target) -> KeyFacts:
    """End a key: after this has returned, it never stores again; does nothing to a revoked one."""
    with database.transaction() as session:
        exclude_workspace(session, operator.workspace_id)
        row, source_id = find_to_change(session, live_keys(operator.workspace_id), SourceKey, target)
        update(session, operator, row, "source_key.revoke", {"revoked_at": row.revoked_at or moment(session)})
        return _facts(row, source_id)


def _facts(row: SourceKey, source_id: str) -> KeyFacts:
    return KeyFacts(**_columns(row), source_id=source_id)


def _columns(row: SourceKey) -> dict[str, Any]:
    return {
        "id": row.public_id,
        "label": row.label,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "expires_at": row.expires_at,
        "events_per_second": row.events_per_second,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
    }
