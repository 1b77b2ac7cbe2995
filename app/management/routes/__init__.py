"""The HTTP face of the control plane: every blueprint is a ManagementBlueprint, opened by a management token.

Each file holds one resource: its shapes, and its views of five beats (parse, authenticate, act, hand over,
answer).
"""

from typing import Final

from app.management.routes import audit, environments, keys, projects, sources, tokens, usage, workspace
from app.management.routes.blueprint import ManagementBlueprint

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
