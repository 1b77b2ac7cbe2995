"""What a route of the control plane declares, once: its guard, its documentation and the tests read it here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from app.errors import PreconditionFailed, PreconditionRequired, Refusal
from app.management.common.operators import Role

GUARD: Final = "managementToken"
"""The security scheme of every operation in the OpenAPI document, and the `guard` of every guarded view."""


class Declared(TypedDict, total=False):
    """What an operation may declare beside its method, rule and role; Operation says what it means."""

    is_for_whole_workspace: bool
    refuses: Sequence[type[Refusal]]
    is_urgent: bool
    is_query: bool
    shown_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What a view takes and refuses, beside its schemas."""

    method: str
    rule: str
    role: Role
    """The least role that may call it."""
    is_for_whole_workspace: bool = False
    """Whether it refuses a token that is limited to some projects."""
    refuses: Sequence[type[Refusal]] = ()
    """Beside what all operations refuse."""
    is_urgent: bool = False
    """Whether it bypasses the queues that other requests of its workspace fill: it ends what a stolen token can do."""
    is_query: bool = False
    """Whether it is a POST that changes nothing: its body is a query, and it takes no Idempotency-Key."""
    shown_by: str | None = None
    """The view that shows what a POST has made or changed, for a retry with the same Idempotency-Key."""

    @property
    def is_change(self) -> bool:
        """Whether it changes something."""
        return self.method != "GET" and not self.is_query

    @property
    def takes_condition(self) -> bool:
        """Whether it reads If-Match."""
        return PreconditionFailed in self.refuses

    @property
    def needs_condition(self) -> bool:
        """Whether it refuses a request without If-Match."""
        return PreconditionRequired in self.refuses
