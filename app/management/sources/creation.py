"""A new source, and its first key with it if its creator wants one: both or neither."""

from dataclasses import asdict, dataclass, field

from sqlalchemy.orm import Session

from app.credentials.verification import Credentials
from app.database.engine import Database
from app.management.common.idempotency import changing
from app.management.common.lookup import find, find_parent
from app.management.common.minting import mint_for
from app.management.common.operators import Operator
from app.management.environments.domain import live_environments
from app.management.keys.domain import IssuedKey, NewKey, add_key, require_event_types
from app.management.sources.domain import NewSource, SourceFacts, add_source, facts_of
from app.models import Environment


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedSource(SourceFacts):
    """A source in the answer that creates it."""

    key: IssuedKey | None = field(repr=False)


def create_source(
    database: Database,
    credentials: Credentials,
    operator: Operator,
    environment_id: str,
    new: NewSource,
    new_key: NewKey | None,
) -> CreatedSource:
    """A new source in an environment. Raises Conflict if the name is taken, and what issue_key() raises."""
    if new_key is not None:
        require_event_types(new_key.allowed_event_types, new_key.allowed_origins)

    def require_environment(session: Session) -> None:
        find(session, live_environments(operator), Environment, environment_id)

    minted = None if new_key is None else mint_for(database, credentials, operator, "sk", require_environment)
    with changing(database, operator) as session:
        live = live_environments(operator)
        environment, project_id = find_parent(session, operator, live, Environment, environment_id)
        source = add_source(session, operator, environment, new)
        key = add_key(session, minted, operator, source, new_key) if minted and new_key else None
        return CreatedSource(**asdict(facts_of(source, project_id, environment_id)), key=key)
