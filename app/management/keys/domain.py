"""Source keys: issued, shown once, changed, rotated and revoked."""

from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, aliased

from app.audit.entries import expiry, record
from app.credentials.verification import Credentials, Minted
from app.database.engine import Database
from app.errors import Conflict, Fault, PreconditionFailed, SchemaValidationFailed
from app.management.common.etags import Target, etag_of
from app.management.common.hierarchy import live_sources
from app.management.common.lifetimes import CredentialState, state_at
from app.management.common.lookup import find, find_behind_barrier, find_parent, find_to_change
from app.management.common.minting import mint_for
from app.management.common.mutations import Change, insert, moment, mutation, update
from app.management.common.operators import Operator
from app.management.common.views import View, copy_of, view_of
from app.models import Environment, Project, Source, SourceKey

GRACE_SECONDS_MAX: Final = 30 * 86_400
GRACE_SECONDS_DEFAULT: Final = 86_400
NO_EVENT_TYPES: Final = "A key with allowed_origins is read by everybody who visits: say which event types it may send."
_STAYS_REVOKED: Final = "This key is revoked, and a revoked key never lives again. Issue a new one."
# A change of these takes no right away; a change of anything else may.
_NO_RIGHTS: Final = frozenset({"label", "events_per_second"})


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPolicy:
    """What limits a key while it lives; None limits nothing. Its fields are columns of source_keys."""

    events_per_second: int | None = None
    """None: the workspace's default for its keys."""
    allowed_event_types: list[str] | None = None
    allowed_origins: list[str] | None = None
    """Not None makes it a browser key: every visitor of those pages can read it."""
    allowed_networks: list[str] | None = None

    @property
    def lacks_event_types(self) -> bool:
        """Whether it lets a browser key send everything."""
        return self.allowed_origins is not None and self.allowed_event_types is None


@dataclass(frozen=True, slots=True)
class AddressSeen:
    address: str
    last_seen_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyView(View):
    """A key as its readers see it: never its secret."""

    source_id: str
    label: str
    state: CredentialState
    expires_at: datetime | None
    policy: KeyPolicy
    replaces: str | None
    """The key that it was rotated from."""
    replaced_by: str | None
    revoked_at: datetime | None
    first_used_at: datetime | None
    last_used_at: datetime | None
    last_addresses: tuple[AddressSeen, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class IssuedKey(KeyView):
    """A key with its plain text, which is known when it is issued and never again."""

    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    label: str = ""
    expires_at: datetime | None = None
    policy: KeyPolicy = KeyPolicy()

    @property
    def columns(self) -> dict[str, Any]:
        """What is chosen, by the names of its columns."""
        return {"label": self.label, "expires_at": self.expires_at, **asdict(self.policy)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    grace_seconds: int = GRACE_SECONDS_DEFAULT
    """For how long the old key works beside its successor; 0: once the rotation has returned, it never stores again."""
    successor: Change = field(default_factory=Change)
    """What differs from the old key."""


def live_keys(operator: Operator) -> Select[Any]:
    """Keys whose source is not archived, nor anything above it, revoked and expired keys among them.

    Each with the public ids of its source, of the key that it replaces and of the one that replaces it, and with
    the moment of the query, by which its state is judged.
    """
    before, after = aliased(SourceKey), aliased(SourceKey)
    return (
        SourceKey.within(operator.workspace_id)
        .join(Source, Source.id == SourceKey.source_id)
        .join(Environment, Environment.id == Source.environment_id)
        .join(Project, Project.id == Source.project_id)
        .outerjoin(before, before.id == SourceKey.replaces_id)
        .outerjoin(after, after.replaces_id == SourceKey.id)
        .where(Source.archived_at.is_(None), Environment.archived_at.is_(None), Project.archived_at.is_(None))
        .where(operator.reaches(Project.id))
        .add_columns(Source.public_id, before.public_id, after.public_id, func.now())
    )


def has_successor() -> ColumnElement[bool]:
    """Whether the key of a query was rotated."""
    after = aliased(SourceKey)
    return select(after.id).where(after.replaces_id == SourceKey.id).exists()


def issue_key(
    database: Database, credentials: Credentials, operator: Operator, source_id: str, new: NewKey
) -> IssuedKey:
    """A new key of a source; the result alone carries its plain text. Raises what add_key() raises."""

    def require_source(session: Session) -> None:
        find(session, live_sources(operator), source_id)

    minted = mint_for(database, credentials, operator, "sk", require_source)
    with mutation(database, operator) as session:
        source, *_ = find_parent(session, operator, live_sources(operator), source_id)
        return add_key(session, minted, operator, source, new)


def add_key(
    session: Session,
    minted: Minted,
    operator: Operator,
    source: Source,
    new: NewKey,
    replaces: SourceKey | None = None,
) -> IssuedKey:
    """As issue_key(), within a transaction of the caller.

    Raises SchemaValidationFailed for a browser key without event types.
    """
    _require_event_types(new.policy)
    row = SourceKey(
        public_id=f"key_{minted.key_id}",
        workspace_id=operator.workspace_id,
        project_id=source.project_id,
        source_id=source.id,
        replaces_id=None if replaces is None else replaces.id,
        secret_hash=minted.secret_hash,
        secret_digest=minted.secret_digest,
        **new.columns,
    )
    named = {"source_id": source.public_id, "replaces": None if replaces is None else replaces.public_id}
    insert(session, operator, row, "source_key.issue", named | new.columns)
    view = view_of_key(row, source.public_id, named["replaces"], None, row.created_at)
    return copy_of(IssuedKey, view, key=minted.text)


def read_key(database: Database, operator: Operator, key_id: str) -> KeyView:
    with database.transaction(operator.workspace_id) as session:
        return view_of_key(*find(session, live_keys(operator), key_id))


def change_key(database: Database, operator: Operator, target: Target, change: Change) -> KeyView:
    """Change what `change` mentions: after this has returned, nothing is stored that its new policy does not allow.

    Raises Conflict for what would let a revoked or rotated key live on, and SchemaValidationFailed for a browser key
    without event types.
    """
    find_it = find_to_change if change.values.keys() <= _NO_RIGHTS else find_behind_barrier
    with mutation(database, operator) as session:
        row, *others = find_it(session, operator, live_keys(operator), target)
        _, _, replaced_by, _ = others
        values = dict(change.values)
        if "expires_at" in values:
            _require_movable_end(row, replaced_by, values["expires_at"])
        _require_event_types(change.applied_to(copy_of(KeyPolicy, row)))
        if values.get("expires_at", row.expires_at) != row.expires_at:
            values["expired_at"] = None  # if the worker has marked the old expiry; the new one is still to come
        update(session, operator, row, "source_key.update", values)
        return view_of_key(row, *others)


def revoke_key(database: Database, operator: Operator, target: Target) -> KeyView:
    """End a key: after this has returned, it never stores again; does nothing to a revoked one."""
    with mutation(database, operator) as session:
        row, *others = find_behind_barrier(session, operator, live_keys(operator), target)
        update(session, operator, row, "source_key.revoke", {"revoked_at": row.revoked_at or moment(session)})
        return view_of_key(row, *others)


def rotate_key(
    database: Database, credentials: Credentials, operator: Operator, target: Target, rotation: Rotation
) -> IssuedKey:
    """Issue the successor of a key, with its label, expiry and policy. Both work until the old key's grace is over.

    Raises Conflict for a key that has a successor already, is revoked or has expired.
    """

    def require_rotatable(session: Session) -> None:
        old, _, _, replaced_by, now = find(session, live_keys(operator), target.public_id)
        if not target.condition.is_met_by(etag_of(old.public_id, old.updated_at)):
            raise PreconditionFailed
        _require_rotatable(old, replaced_by, now)

    minted = mint_for(database, credentials, operator, "sk", require_rotatable)
    with mutation(database, operator) as session:
        keys = live_keys(operator)
        # The parents' lock before the key's, in the order of a restoration of its source.
        _, source_id, *_ = find(session, keys, target.public_id)
        source, *_ = find_parent(session, operator, live_sources(operator), source_id)
        old, _, _, replaced_by, _ = find_behind_barrier(session, operator, keys, target)
        now = moment(session)
        _require_rotatable(old, replaced_by, now)
        like_old = copy_of(NewKey, old, policy=copy_of(KeyPolicy, old))
        successor = add_key(session, minted, operator, source, rotation.successor.applied_to(like_old), replaces=old)
        ends = now + timedelta(seconds=rotation.grace_seconds)
        values = {"expires_at": ends if old.expires_at is None else min(old.expires_at, ends)}
        marked_before = old.expired_at
        if not rotation.grace_seconds:
            # The mark that the worker would set within a minute (app/maintenance/key_life.py). Until then the old key
            # would work again if PostgreSQL's clock were set back, as by a failover to a server whose clock is behind.
            values["expired_at"] = ends
        update(session, operator, old, "source_key.rotate", values, {"replaced_by": successor.id})
        if not rotation.grace_seconds:
            # The worker writes no entry for a key that is marked already.
            ended = expiry(
                "source_key", old.public_id, old.project_id, marked_before=marked_before, expired_at=old.expired_at
            )
            record(session, operator.author, ended)
        return successor


def _require_movable_end(row: SourceKey, replaced_by: str | None, expires_at: datetime | None) -> None:
    """Nothing revives a key, nor lets one that has a successor outlive its grace. Raises Conflict."""
    if row.revoked_at is not None:
        raise Conflict(_STAYS_REVOKED, faults=(Fault("/expires_at", "The key is revoked."),))
    if replaced_by is None or row.expires_at is None:
        return
    if expires_at is None or expires_at > row.expires_at:
        message = f"This key was rotated: its end may come sooner but not later. Use its successor, {replaced_by}."
        raise Conflict(message, faults=(Fault("/expires_at", "Later than the end of the key's grace."),))


def _require_rotatable(old: SourceKey, replaced_by: str | None, now: datetime) -> None:
    if replaced_by is not None:
        raise Conflict(f"This key was rotated before: its successor is {replaced_by}. Rotate that one.")
    state = state_at(now, expires_at=old.expires_at, revoked_at=old.revoked_at)
    if state is CredentialState.REVOKED:
        raise Conflict("This key is revoked. Issue a new one.")
    if state is CredentialState.EXPIRED:
        raise Conflict("This key has expired. Issue a new one, or give this one another expires_at first.")


def _require_event_types(policy: KeyPolicy) -> None:
    if policy.lacks_event_types:
        raise SchemaValidationFailed(faults=(Fault("/allowed_event_types", NO_EVENT_TYPES),))


def view_of_key(
    row: SourceKey, source_id: str, replaces: str | None, replaced_by: str | None, asked_at: datetime
) -> KeyView:
    """What a reader may know of a key: a row of live_keys(), spread out."""
    addresses = ((seen["address"], datetime.fromisoformat(seen["last_seen_at"])) for seen in row.last_addresses)
    return view_of(
        KeyView,
        row,
        source_id=source_id,
        state=state_at(asked_at, expires_at=row.expires_at, revoked_at=row.revoked_at),
        policy=copy_of(KeyPolicy, row),
        replaces=replaces,
        replaced_by=replaced_by,
        last_addresses=tuple(AddressSeen(*seen) for seen in addresses),
    )
