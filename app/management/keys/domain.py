"""Source keys: issued once, shown once, revoked for good. What each may send, and from where, are its policies."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, aliased

from app.credentials.verification import Credentials, Minted
from app.database.engine import Database
from app.errors import Conflict, Fault, SchemaValidationFailed
from app.management.common.etags import Facts, Target
from app.management.common.idempotency import changing
from app.management.common.lifetimes import CredentialState, state_at
from app.management.common.lookup import find, find_parent, find_to_change, find_to_withhold
from app.management.common.minting import mint_for
from app.management.common.mutations import ABSENT, Absent, insert, mentioned, moment, update
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.sources.domain import live_sources
from app.models import Environment, Project, Source, SourceKey

NO_EVENT_TYPES: Final = "A key with allowed_origins is read by everybody who visits: say which event types it may send."
_STAYS_REVOKED: Final = "This key is revoked, and a revoked key never lives again. Issue a new one."


@dataclass(frozen=True, slots=True)
class AddressSeen:
    """Where a key was used from, and when last."""

    address: str
    last_seen_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFacts(Facts):
    """A key as its readers see it: never its secret."""

    source_id: str
    label: str
    state: CredentialState
    expires_at: datetime | None
    events_per_second: int | None
    allowed_event_types: list[str] | None
    allowed_origins: list[str] | None
    allowed_networks: list[str] | None
    replaces: str | None
    """The key that it was rotated from."""
    replaced_by: str | None
    revoked_at: datetime | None
    first_used_at: datetime | None
    last_used_at: datetime | None
    last_addresses: tuple[AddressSeen, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class IssuedKey(KeyFacts):
    """A key in the one moment in which its plain text is known."""

    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """What can be chosen for one; policies as policies.py and client_address.py write them."""

    label: str = ""
    expires_at: datetime | None = None
    events_per_second: int | None = None
    allowed_event_types: list[str] | None = None
    allowed_origins: list[str] | None = None
    allowed_networks: list[str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyChange:
    """What can be changed of one.

    An `expires_at` of None lets it live until it is revoked, an `events_per_second` of None gives it the default, and
    a policy of None limits nothing.
    """

    label: str | Absent = ABSENT
    expires_at: datetime | Absent | None = ABSENT
    events_per_second: int | Absent | None = ABSENT
    allowed_event_types: list[str] | Absent | None = ABSENT
    allowed_origins: list[str] | Absent | None = ABSENT
    allowed_networks: list[str] | Absent | None = ABSENT

    @property
    def takes_rights_away(self) -> bool:
        """Whether it may; whether it does shows only behind the barrier."""
        may = {"expires_at", "allowed_event_types", "allowed_origins", "allowed_networks"}
        return not may.isdisjoint(mentioned(self))


def live_keys(operator: Operator) -> Select[Any]:
    """Keys whose source is not archived, nor anything above it, revoked and expired keys among them.

    Each with its source's public id.
    """
    return (
        SourceKey.within(operator.workspace_id)
        .join(Source, Source.id == SourceKey.source_id)
        .join(Environment, Environment.id == Source.environment_id)
        .join(Project, Project.id == Source.project_id)
        .where(Source.archived_at.is_(None), Environment.archived_at.is_(None), Project.archived_at.is_(None))
        .where(operator.reaches(Project.id))
        .add_columns(Source.public_id)
    )


def shown_keys(operator: Operator) -> Select[Any]:
    """As live_keys(), each with the public ids of the key that it replaces and of the one that replaces it too.

    And with the moment of asking, by which its state is judged.
    """
    before, after = aliased(SourceKey), aliased(SourceKey)
    return (
        live_keys(operator)
        .outerjoin(before, before.id == SourceKey.replaces_id)
        .outerjoin(after, after.replaces_id == SourceKey.id)
        .add_columns(before.public_id, after.public_id, func.now())
    )


def has_successor() -> ColumnElement[bool]:
    """Whether the key of a query was rotated."""
    after = aliased(SourceKey)
    return select(after.id).where(after.replaces_id == SourceKey.id).exists()


def issue_key(
    database: Database, credentials: Credentials, operator: Operator, source_id: str, new: NewKey
) -> IssuedKey:
    """A new key of a source; the answer carries its plain text, and nobody can ask for it again."""
    require_event_types(new.allowed_event_types, new.allowed_origins)

    def require_source(session: Session) -> None:
        find(session, live_sources(operator), Source, source_id)

    minted = mint_for(database, credentials, operator, "sk", require_source)
    with changing(database, operator) as session:
        source, *_ = find_parent(session, operator, live_sources(operator), Source, source_id)
        return add_key(session, minted, operator, source, new)


def add_key(
    session: Session,
    minted: Minted,
    operator: Operator,
    source: Source,
    new: NewKey,
    replaces: SourceKey | None = None,
) -> IssuedKey:
    """As issue_key(), as a part of something larger."""
    require_event_types(new.allowed_event_types, new.allowed_origins)
    row = SourceKey(
        public_id=f"key_{minted.key_id}",
        workspace_id=operator.workspace_id,
        project_id=source.project_id,
        source_id=source.id,
        replaces_id=None if replaces is None else replaces.id,
        secret_hash=minted.secret_hash,
        secret_digest=minted.secret_digest,
        **asdict(new),
    )
    named = {"source_id": source.public_id, "replaces": None if replaces is None else replaces.public_id}
    insert(session, operator, row, "source_key.issue", named | asdict(new))
    facts = facts_of(row, source.public_id, named["replaces"], None, row.created_at)
    return IssuedKey(**asdict(facts), key=minted.text)


def list_keys(database: Database, operator: Operator, source_id: str, request: PageRequest) -> Page[KeyFacts]:
    """A source's keys."""
    workspace_id = operator.workspace_id
    with database.transaction(operator.workspace_id) as session:
        source, *_ = find(session, live_sources(operator), Source, source_id)
        below = shown_keys(operator).where(SourceKey.source_id == source.id)
        return Listing(SourceKey, workspace_id, f"keys of {source_id}", below, facts_of).page(session, request)


def read_key(database: Database, operator: Operator, key_id: str) -> KeyFacts:
    """One key."""
    with database.transaction(operator.workspace_id) as session:
        return facts_of(*find(session, shown_keys(operator), SourceKey, key_id))


def change_key(database: Database, operator: Operator, target: Target, change: KeyChange) -> KeyFacts:
    """Change what `change` mentions: after this has returned, nothing is stored that its new policies do not allow.

    Raises Conflict for what would let a revoked or rotated key live on, and SchemaValidationFailed for a browser key
    without event types.
    """
    with changing(database, operator) as session:
        find_it = find_to_withhold if change.takes_rights_away else find_to_change
        row, *others = find_it(session, operator, shown_keys(operator), SourceKey, target)
        _, _, replaced_by, _ = others
        values = mentioned(change)
        if "expires_at" in values:
            _require_movable_end(row, replaced_by, values["expires_at"])
        event_types = values.get("allowed_event_types", row.allowed_event_types)
        require_event_types(event_types, values.get("allowed_origins", row.allowed_origins))
        if values.get("expires_at", row.expires_at) != row.expires_at:
            values["expired_at"] = None  # if the worker has marked the old expiry; the new one is still to come
        update(session, operator, row, "source_key.update", values)
        return facts_of(row, *others)


def revoke_key(database: Database, operator: Operator, target: Target) -> KeyFacts:
    """End a key: after this has returned, it never stores again; does nothing to a revoked one."""
    with changing(database, operator) as session:
        row, *others = find_to_withhold(session, operator, shown_keys(operator), SourceKey, target)
        update(session, operator, row, "source_key.revoke", {"revoked_at": row.revoked_at or moment(session)})
        return facts_of(row, *others)


def _require_movable_end(row: SourceKey, replaced_by: str | None, expires_at: datetime | None) -> None:
    """Nothing revives a key, nor lets one that has a successor outlive its grace. Raises Conflict."""
    if row.revoked_at is not None:
        raise Conflict(_STAYS_REVOKED, faults=(Fault("/expires_at", "The key is revoked."),))
    if replaced_by is None or row.expires_at is None:
        return
    if expires_at is None or expires_at > row.expires_at:
        message = f"This key was rotated: its end may come sooner but not later. Use its successor, {replaced_by}."
        raise Conflict(message, faults=(Fault("/expires_at", "Later than the end of the key's grace."),))


def require_event_types(event_types: list[str] | None, origins: list[str] | None) -> None:
    """A browser key is in everybody's hands: it says what may be sent with it. Raises SchemaValidationFailed."""
    if origins is not None and event_types is None:
        raise SchemaValidationFailed(faults=(Fault("/allowed_event_types", NO_EVENT_TYPES),))


def facts_of(
    row: SourceKey, source_id: str, replaces: str | None, replaced_by: str | None, asked_at: datetime
) -> KeyFacts:
    """What a reader may know of a key: a row of shown_keys(), spread out."""
    state = state_at(asked_at, expires_at=row.expires_at, revoked_at=row.revoked_at)
    return KeyFacts(**_columns(row), source_id=source_id, replaces=replaces, replaced_by=replaced_by, state=state)


def _columns(row: SourceKey) -> dict[str, Any]:
    return {
        "id": row.public_id,
        "label": row.label,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "expires_at": row.expires_at,
        "events_per_second": row.events_per_second,
        "allowed_event_types": row.allowed_event_types,
        "allowed_origins": row.allowed_origins,
        "allowed_networks": row.allowed_networks,
        "revoked_at": row.revoked_at,
        "first_used_at": row.first_used_at,
        "last_used_at": row.last_used_at,
        "last_addresses": tuple(
            AddressSeen(seen["address"], datetime.fromisoformat(seen["last_seen_at"])) for seen in row.last_addresses
        ),
    }
