"""The caller: a typed value that every mutation and every query of the control plane takes."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, true

from app.audit.entries import Author
from app.errors import InsufficientScope

# The actor of the operator's shell in the audit log.
SHELL: Final = "cli"


class Role(StrEnum):
    """What a token may do; each role may do what those before it may."""

    AUDITOR = "auditor"
    """Reads everything and changes nothing."""
    DEVELOPER = "developer"
    """Sources and keys, and new environments for them."""
    ADMIN = "admin"
    """Projects, tokens up to its own role, and the workspace itself."""
    OWNER = "owner"
    """Everything, further owners included."""

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what `other` may."""
        order = tuple(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, kw_only=True, slots=True)
class IdempotentRequest:
    """The Idempotency-Key of a request, and the fingerprint of its content."""

    key: str
    fingerprint: bytes = field(repr=False)
    """Of method, path and body."""
    ttl_seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """An authenticated caller; everything it can see or change lies in its workspace."""

    token_public_id: str | None
    """None at the operator's shell."""
    workspace_id: int
    role: Role
    project_rows: frozenset[int] | None = None
    """The projects that it reaches; None: all of the workspace, and what belongs to the workspace as a whole."""
    expires_at: datetime | None = None
    """When the caller's token ends."""
    request_id: str | None = None
    address: str | None = None
    request: IdempotentRequest | None = None

    @property
    def actor(self) -> str:
        return self.token_public_id or SHELL

    @property
    def author(self) -> Author:
        """The caller as the audit log names it."""
        return Author(
            workspace_id=self.workspace_id, actor=self.actor, request_id=self.request_id, address=self.address
        )

    def reaches(self, project_row: Any) -> ColumnElement[bool]:
        """The condition that a column with the inner id of a project names one within the caller's reach."""
        if self.project_rows is None:
            return true()
        condition: ColumnElement[bool] = project_row.in_(sorted(self.project_rows))
        return condition

    def require(self, role: Role, *, whole_workspace: bool = False) -> None:
        """Raises InsufficientScope if the caller's role is less than `role`, or its reach less than the workspace."""
        if not self.role.includes(role):
            raise InsufficientScope(
                f"This takes a management token with the role {role} or more; yours is {self.role}."
            )
        if whole_workspace and self.project_rows is not None:
            raise InsufficientScope(
                "This concerns the whole workspace, and your management token is limited to some of its projects."
            )


def at_the_shell(workspace_id: int) -> Operator:
    """The operator's shell, acting on one workspace."""
    return Operator(token_public_id=None, workspace_id=workspace_id, role=Role.OWNER)
