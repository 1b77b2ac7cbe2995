"""An attempt on its way to be stored, and whom to tell."""

import time
from collections.abc import Callable
from typing import Any

import structlog

from app.credentials import Identity
from app.errors import OutcomeUnknown, StorageUnavailable
from app.ingest.envelope import Attempt
from app.ingest.storage import Verdict

_log = structlog.get_logger()

Decision = Verdict | Exception
"""What became of an attempt: the verdict, or why there is none (a Refusal, or a fault of ours)."""


class Ticket:
    """One attempt and its caller. Settled once: by whoever decides it, or by its deadline."""

    __slots__ = ("_callbacks", "attempt", "deadline", "identity", "is_taken", "payload_bytes", "unanswered")

    def __init__(
        self, identity: Identity, attempt: Attempt, deadline: float, settle: Callable[[Decision], None]
    ) -> None:
        self.identity = identity
        self.attempt = attempt
        self.deadline = deadline
        """In time.monotonic() seconds."""
        self.payload_bytes = len(attempt.envelope.payload)
        self.is_taken = False
        """Whether PostgreSQL may know of it; set before it can."""
        self.unanswered: OutcomeUnknown | None = None
        """Set once a commit of it went unanswered: it may be stored."""
        self._callbacks = [settle]

    @property
    def is_settled(self) -> bool:
        return not self._callbacks

    @property
    def remaining_seconds(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def idempotency_claim(self) -> Any:
        """What no two tickets of a group may share, or None."""
        key = self.attempt.idempotency_key
        return None if key is None else (self.identity.workspace_id, self.attempt.envelope.source_id, key)

    @property
    def event_claim(self) -> Any:
        return (self.identity.workspace_id, self.attempt.envelope.source_id, 0, self.attempt.event_id)

    def settle(self, decision: Decision) -> None:
        """Tell the caller; whoever comes second is not heard."""
        if (callback := self._take_callback()) is not None:
            _tell(callback, decision)

    def expire(self) -> None:
        """Tell the caller, if nobody has, that its time is up."""
        if (callback := self._take_callback()) is not None:
            _tell(callback, OutcomeUnknown() if self.is_taken else StorageUnavailable())

    def _take_callback(self) -> Callable[[Decision], None] | None:
        try:
            # Atomic, unlike a look and a step: the committer and the time keeper may come at once.
            return self._callbacks.pop()
        except IndexError:
            return None


def _tell(callback: Callable[[Decision], None], decision: Decision) -> None:
    try:
        callback(decision)
    except Exception:  # noqa: BLE001 - whatever it is, the others are told
        # A caller that cannot be told must not keep the others from being told.
        _log.exception("answer_crashed")
