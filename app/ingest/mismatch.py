"""Says in words what a refusal is about: which source the key belongs to, or what above it is out of use.

The statement that writes says only that they differ, or that something is out of use. What it is called is asked after
it, for the few events that are refused so; and it is told only where the key may be used at all.
"""

from typing import Final

from app.credentials.verification import Identity
from app.errors import EnvironmentMismatch, Refusal, SourceDisabled, SourceMismatch
from app.ingest.storage import Execute, Outcome

NAMED: Final = frozenset((Outcome.SOURCE_MISMATCH, Outcome.ENVIRONMENT_MISMATCH, Outcome.SOURCE_DISABLED))

# By primary keys. The statement judges source and environment before the place, so that has to be judged here.
_OWN: Final = """
    SELECT source.public_id, environment.name,
        CASE WHEN project.archived_at IS NOT NULL THEN 'project'
            WHEN environment.archived_at IS NOT NULL THEN 'environment'
            WHEN source.archived_at IS NOT NULL THEN 'source' END,
        CASE WHEN project.archived_at IS NOT NULL THEN project.public_id
            WHEN environment.archived_at IS NOT NULL THEN environment.public_id
            ELSE source.public_id END
    FROM source_keys AS key
    JOIN sources AS source ON source.id = key.source_id
    JOIN environments AS environment ON environment.id = source.environment_id
    JOIN projects AS project ON project.id = source.project_id
    WHERE key.id = %s AND refuse_place(key.allowed_origins, key.allowed_networks, %s, %s) IS NULL
"""


def named_refusals(execute: Execute, identity: Identity, *, address: str, origin: str | None) -> dict[Outcome, Refusal]:
    """By outcome, the refusal that names what it is about; none for a place that the key is not for.

    Raises what `execute` raises.
    """
    rows = execute(_OWN, (identity.row_id, address or None, origin))
    if not rows:
        return {}
    ((source, environment, archived, out_of_use),) = rows
    return {
        Outcome.SOURCE_MISMATCH: SourceMismatch(
            f"source_id is not the source that this key belongs to: send {source}, or the key of the other source."
        ),
        Outcome.ENVIRONMENT_MISMATCH: EnvironmentMismatch(
            f"environment is not the environment of this key's source: leave it out, or send {environment}."
        ),
        Outcome.SOURCE_DISABLED: _disabled(archived, out_of_use),
    }


def _disabled(archived: str | None, public_id: str) -> SourceDisabled:
    if archived is None:
        return SourceDisabled(
            f"This key's source is disabled. Enable it over the management API: POST /v1/sources/{public_id}/enable."
        )
    what = "This key's source" if archived == "source" else f"The {archived} of this key's source"
    return SourceDisabled(
        f"{what} is archived. Restore it over the management API (POST /v1/{archived}s/{public_id}/restore), and issue"
        " a new key: this one is revoked then."
    )
