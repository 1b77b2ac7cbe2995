"""What a verdict that stores nothing means to the producer: one refusal for each outcome.

The storage function says only that a source differs, or that something is out of use. Its name is asked afterwards, for
the few events that are refused so, and only where the key may be used at all.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

from app import errors
from app.cells.directory import MOVING, wrong_cell
from app.credentials.verification import Identity
from app.database.engine import Database
from app.errors import (
    EnvironmentMismatch,
    Fault,
    Refusal,
    SourceDisabled,
    SourceMismatch,
    StorageUnavailable,
    TimestampOutOfRange,
)
from app.ingest.acceptance import Client
from app.ingest.storage import Execute, Outcome, Verdict

REFUSALS: Final[dict[Outcome, type[Refusal]]] = {
    Outcome.INVALID_SOURCE_KEY: errors.InvalidSourceKey,
    Outcome.WRONG_CELL: errors.WrongCell,
    Outcome.WORKSPACE_SUSPENDED: errors.WorkspaceSuspended,
    Outcome.SOURCE_DISABLED: errors.SourceDisabled,
    Outcome.SOURCE_MISMATCH: errors.SourceMismatch,
    Outcome.ENVIRONMENT_MISMATCH: errors.EnvironmentMismatch,
    Outcome.EVENT_TYPE_NOT_ALLOWED: errors.EventTypeNotAllowed,
    Outcome.ORIGIN_NOT_ALLOWED: errors.OriginNotAllowed,
    Outcome.ADDRESS_NOT_ALLOWED: errors.AddressNotAllowed,
    Outcome.IDEMPOTENCY_KEY_REUSED: errors.IdempotencyKeyReused,
    Outcome.DUPLICATE_EVENT: errors.DuplicateEvent,
    Outcome.TIMESTAMP_OUT_OF_RANGE: errors.TimestampOutOfRange,
}
Named = Mapping[Outcome, Refusal]

# Outcomes whose refusal names the source, the environment or what is out of use.
_NAMED: Final = frozenset(
    (Outcome.SOURCE_MISMATCH, Outcome.ENVIRONMENT_MISMATCH, Outcome.SOURCE_DISABLED, Outcome.WRONG_CELL)
)
# A refusal is known already; a name in it is not worth a longer wait.
_NAMING_SECONDS: Final = 1.0
# By primary keys. The storage function judges source and environment before the client's origin, so this
# statement judges the origin.
_NAMES: Final = """
    SELECT source.public_id, environment.name,
        CASE WHEN project.archived_at IS NOT NULL THEN 'project'
            WHEN environment.archived_at IS NOT NULL THEN 'environment'
            WHEN source.archived_at IS NOT NULL THEN 'source' END,
        CASE WHEN project.archived_at IS NOT NULL THEN project.public_id
            WHEN environment.archived_at IS NOT NULL THEN environment.public_id
            ELSE source.public_id END,
        workspace.home
    FROM source_keys AS key
    JOIN sources AS source ON source.id = key.source_id
    JOIN environments AS environment ON environment.id = source.environment_id
    JOIN projects AS project ON project.id = source.project_id
    JOIN workspaces AS workspace ON workspace.id = source.workspace_id
    WHERE key.id = %s AND refuse_client_origin(key.allowed_origins, key.allowed_networks, %s, %s) IS NULL
"""


def look_up_refusal(verdict: Verdict, identity: Identity, client: Client, database: Database) -> Refusal:
    """As refusal_in(), with the names that the database knows; without them, if it is away meanwhile."""
    named: Named = {}
    if verdict.outcome in _NAMED:
        with (
            suppress(StorageUnavailable),
            database.transaction(identity.workspace_id, deadline_seconds=_NAMING_SECONDS) as session,
        ):
            connection = session.connection()
            named = named_refusals(
                (verdict.outcome,),
                lambda statement, parameters: connection.exec_driver_sql(statement, tuple(parameters)).all(),
                identity,
                client,
            )
    return refusal_in(verdict, named)


def refusal_in(verdict: Verdict, named: Named) -> Refusal:
    """The refusal that a verdict without a receipt means, given those that name things."""
    if verdict.outcome in named:
        return named[verdict.outcome]
    if verdict.outcome is Outcome.TIMESTAMP_OUT_OF_RANGE:
        return _timestamp_out_of_range(verdict.detail)
    return refusal_of(verdict.outcome)


def refusal_of(outcome: Outcome) -> Refusal:
    """The refusal that an outcome means, without names."""
    return StorageUnavailable(MOVING) if outcome is Outcome.WORKSPACE_MOVING else REFUSALS[outcome]()


def named_refusals(outcomes: Iterable[Outcome], execute: Execute, identity: Identity, client: Client) -> Named:
    """By outcome, the refusals that name things; none if none of `outcomes` has one, nor for a client origin that the
    key is not for.

    Raises what `execute` raises.
    """
    rows = (
        () if _NAMED.isdisjoint(outcomes) else execute(_NAMES, (identity.row_id, client.address or None, client.origin))
    )
    if not rows:
        return {}
    ((source, environment, archived, out_of_use, home),) = rows
    where = {Outcome.WRONG_CELL: wrong_cell(home)} if home else {}
    return where | {
        Outcome.SOURCE_MISMATCH: SourceMismatch(
            f"source_id is not the source that this key belongs to: send {source}, or the key of the other source."
        ),
        Outcome.ENVIRONMENT_MISMATCH: EnvironmentMismatch(
            f"environment is not the environment of this key's source: leave it out, or send {environment}."
        ),
        Outcome.SOURCE_DISABLED: _out_of_use(archived, out_of_use),
    }


def _out_of_use(archived: str | None, public_id: str) -> SourceDisabled:
    if archived is None:
        return SourceDisabled(
            f"This key's source is disabled. Enable it over the management API: POST /v1/sources/{public_id}/enable."
        )
    what = "This key's source" if archived == "source" else f"The {archived} of this key's source"
    return SourceDisabled(
        f"{what} is archived. Restore it over the management API (POST /v1/{archived}s/{public_id}/restore), and issue"
        " a new key: this one is revoked then."
    )


def _timestamp_out_of_range(detail: str) -> TimestampOutOfRange:
    """`detail`: by how many seconds it is ahead of receipt (negative: behind), and how many the source takes."""
    seconds, seconds_max = (abs(round(float(each))) for each in detail.split())
    side = "behind" if detail.startswith("-") else "ahead of"
    apart, bound = timedelta(seconds=seconds), timedelta(seconds=seconds_max)
    said = f"It is {apart} {side} our clock, and this source takes {bound} at the most."
    return TimestampOutOfRange(faults=(Fault("/timestamp", said),))
