"""Rotation: a source key gets a successor with the same rights, and both work until the old one's grace is over."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from app.audit.entries import expiry, record
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.errors import Conflict
from app.management.common.etags import Target, etag_of
from app.management.common.idempotency import changing
from app.management.common.lookup import find, find_parent, find_to_withhold
from app.management.common.minting import mint_for
from app.management.common.mutations import ABSENT, Absent, moment, update
from app.management.common.operators import Operator
from app.management.keys.domain import IssuedKey, NewKey, add_key, shown_keys
from app.management.sources.domain import live_sources
from app.models import Source, SourceKey

GRACE_SECONDS_MAX: Final = 30 * 86_400
GRACE_SECONDS_DEFAULT: Final = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """What can be chosen for one."""

    grace_seconds: int = GRACE_SECONDS_DEFAULT
    """For how long the old key works beside its successor; 0: once the rotation has answered, it never stores again."""
    expires_at: datetime | Absent | None = ABSENT
    """The successor's; if it is not chosen, the end that the old key had. None: it lives until it is revoked."""


def rotate_key(
    database: Database, credentials: Credentials, operator: Operator, target: Target, rotation: Rotation
) -> IssuedKey:
    """The successor of a key, with its label, end, rate and policies.

    Raises Conflict for a key that has a successor already, is revoked or has expired.
    """

    def require_rotatable(session: Session) -> None:
        old, _, _, replaced_by, now = find(session, shown_keys(operator), SourceKey, target.public_id)
        if target.condition.is_met_by(etag_of(old.public_id, old.updated_at)):
            _require_rotatable(old, replaced_by, now)

    minted = mint_for(database, credentials, operator, "sk", require_rotatable)
    with changing(database, operator) as session:
        keys = shown_keys(operator)
        # The parents before the key, as whoever restores a source takes them.
        _, source_id, *_ = find(session, keys, SourceKey, target.public_id)
        source, *_ = find_parent(session, operator, live_sources(operator), Source, source_id)
        old, _, _, replaced_by, _ = find_to_withhold(session, operator, keys, SourceKey, target)
        now = moment(session)
        _require_rotatable(old, replaced_by, now)
        successor = add_key(session, minted, operator, source, _like(old, rotation), replaces=old)
        ends = now + timedelta(seconds=rotation.grace_seconds)
        values = {"expires_at": ends if old.expires_at is None else min(old.expires_at, ends)}
        marked_before = old.expired_at
        if not rotation.grace_seconds:
            # The mark that the worker would set within a minute (app/maintenance/key_life.py). Until then the old key
            # would work again if PostgreSQL's clock were set back, as by a failover to a server whose clock is behind.
            values["expired_at"] = ends
        update(session, operator, old, "source_key.rotate", values, told={"replaced_by": successor.id})
        if not rotation.grace_seconds:
            # The worker writes no entry for a key that is marked already.
            ended = expiry(
                "source_key", old.public_id, old.project_id, marked_before=marked_before, expired_at=old.expired_at
            )
            record(session, operator.author, ended)
        return successor


def _require_rotatable(old: SourceKey, replaced_by: str | None, now: datetime) -> None:
    if replaced_by is not None:
        raise Conflict(f"This key was rotated before: its successor is {replaced_by}. Rotate that one.")
    if old.revoked_at is not None:
        raise Conflict("This key is revoked. Issue a new one.")
    if old.expires_at is not None and old.expires_at <= now:
        raise Conflict("This key has expired. Issue a new one, or give this one another expires_at first.")


def _like(old: SourceKey, rotation: Rotation) -> NewKey:
    return NewKey(
        label=old.label,
        expires_at=old.expires_at if rotation.expires_at is ABSENT else rotation.expires_at,
        events_per_second=old.events_per_second,
        allowed_event_types=old.allowed_event_types,
        allowed_origins=old.allowed_origins,
        allowed_networks=old.allowed_networks,
    )
