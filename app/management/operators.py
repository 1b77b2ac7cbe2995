"""Who is calling: a typed value that every change and every query of the control plane is handed."""

from dataclasses import dataclass
from typing import Final

# The operator's shell, as it stands in the audit trail.
SHELL: Final = "cli"


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """An authenticated caller; everything it can see or change lies in its workspace."""

    token_public_id: str | None
    """None at the operator's shell."""
    workspace_id: int
    request_id: str | None

    @property
    def actor(self) -> str:
        """The caller's name in the audit trail."""
        return self.token_public_id or SHELL


def at_the_shell(workspace_id: int) -> Operator:
    """Whoever may run the CLI, acting on one workspace."""
    return Operator(token_public_id=None, workspace_id=workspace_id, request_id=None)
