"""The HTTP face of the control plane: every blueprint is a ManagementBlueprint, opened by a management token.

Each file holds one resource: its shapes, and its views of five beats (parse, authenticate, act, hand over,
answer).
"""

from typing import Final

from app.management.routes import environments, keys, projects, sources
from app.management.routes.blueprint import ManagementBlueprint

BLUEPRINTS: Final[tuple[ManagementBlueprint, ...]] = (
    projects.blueprint,
    environments.blueprint,
    sources.blueprint,
    keys.blueprint,
)
