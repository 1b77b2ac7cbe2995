"""The HTTP face of the control plane: every blueprint is a ManagementBlueprint, opened by a management token.

Each file holds one resource: its shapes, and its views of five beats (parse, authenticate, act, hand over,
answer).
"""

from typing import Final

from app.management.audit import routes as audit
from app.management.common.blueprint import ManagementBlueprint
from app.management.environments import routes as environments
from app.management.keys import routes as keys
from app.management.projects import routes as projects
from app.management.sources import routes as sources
from app.management.tokens import routes as tokens
from app.management.usage import routes as usage
from app.management.workspace import routes as workspace

BLUEPRINTS: Final[tuple[ManagementBlueprint, ...]] = (
    workspace.blueprint,
    projects.blueprint,
    environments.blueprint,
    sources.blueprint,
    keys.blueprint,
    usage.blueprint,
    tokens.blueprint,
    audit.blueprint,
)
