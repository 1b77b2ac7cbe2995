"""What an operation of the control plane declares of itself, once: its guard, its documents and tests read it here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from app.errors import PreconditionFailed, PreconditionRequired, Refusal
from app.management.common.operators import Role


class Declared(TypedDict, total=False):
    """What an operation may declare beside its method, rule and role; Operation says what it means."""

    is_for_whole_workspace: bool
    refuses: Sequence[type[Refusal]]
    is_urgent: bool
    shown_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What a view takes and says, beside its schemas."""

    method: str
    rule: str
    role: Role
    """The least role that may call it."""
    is_for_whole_workspace: bool = False
    """Whether a token that is limited to some projects may not."""
    refuses: Sequence[type[Refusal]] = ()
    """Beside what all operations refuse."""
    is_urgent: bool = False
    """Whether nothing that others of its workspace do may keep it waiting, for it ends what a thief can do."""
    shown_by: str | None = None
    """The view that shows what a POST has made or changed, for a retry with the same Idempotency-Key."""

    @property
    def takes_condition(self) -> bool:
        """Whether it looks at If-Match."""
        return PreconditionFailed in self.refuses

    @property
    def needs_condition(self) -> bool:
        """Whether it refuses to go without If-Match."""
        return PreconditionRequired in self.refuses
