"""Names the source and the environment of a key, for an event that names others.

The statement that writes says only that they differ. What they are called is asked after it, for the few events that
are refused so; and it is told only where the key may be used at all.
"""

from typing import Final

from app.credentials import Identity
from app.errors import EnvironmentMismatch, Refusal, SourceMismatch
from app.ingest.storage import Execute, Outcome

MISMATCHES: Final = frozenset((Outcome.SOURCE_MISMATCH, Outcome.ENVIRONMENT_MISMATCH))

# By primary keys. The statement judges source and environment before the place, so that has to be judged here.
_OWN: Final = """
    SELECT source.public_id, environment.name
    FROM source_keys AS key
    JOIN sources AS source ON source.id = key.source_id
    JOIN environments AS environment ON environment.id = source.environment_id
    WHERE key.id = %s AND refuse_place(key.allowed_origins, key.allowed_networks, %s, %s) IS NULL
"""


def named_refusals(execute: Execute, identity: Identity, *, address: str, origin: str | None) -> dict[Outcome, Refusal]:
    """By outcome, the refusal that names what the event should have named; none for a place that the key is not for.

    Raises what `execute` raises.
    """
    rows = execute(_OWN, (identity.row_id, address or None, origin))
    if not rows:
        return {}
    ((source, environment),) = rows
    return {
        Outcome.SOURCE_MISMATCH: SourceMismatch(
            f"source_id is not the source that this key belongs to: send {source}, or the key of the other source."
        ),
        Outcome.ENVIRONMENT_MISMATCH: EnvironmentMismatch(
            f"environment is not the environment of this key's source: leave it out, or send {environment}."
        ),
    }
