"""The blueprints of the control plane; a management token is required for every operation of theirs."""

from typing import Final

from app.management.audit import routes as audit
from app.management.common.blueprint import ManagementBlueprint
from app.management.environments import routes as environments
from app.management.keys import routes as keys
from app.management.projects import routes as projects
from app.management.sources import routes as sources
from app.management.tokens import routes as tokens
from app.management.usage import routes as usage
from app.management.usage.reads import routes as reads
from app.management.workspace import routes as workspace

BLUEPRINTS: Final[tuple[ManagementBlueprint, ...]] = (
    workspace.blueprint,
    projects.blueprint,
    environments.blueprint,
    sources.blueprint,
    keys.blueprint,
    usage.blueprint,
    reads.blueprint,
    tokens.blueprint,
    audit.blueprint,
)
