"""An attempt on its way to be stored, and the only way in which it gets its result.

An attempt whose commit went unanswered may be stored. From then on "nothing was stored" is a wrong answer to it: right
are its outcome, or that the outcome is unknown. So every result goes through `resolve`, and every exchange with
PostgreSQL through `write_group`, which notes which attempts PostgreSQL may have stored.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import psycopg
import structlog

from app.config import Settings
from app.credentials.verification import Identity
from app.database.dedicated_connection import DedicatedConnection
from app.errors import OutcomeUnknown, SchemaValidationFailed, StorageUnavailable
from app.ingest.envelope import Attempt
from app.ingest.storage import Outcome, Verdict, store

_log = structlog.get_logger()

# Beyond this a larger group makes an event no cheaper, only its neighbours later (docs/performance.md).
GROUP_EVENTS_MAX: Final = 256
GROUP_BYTES_MAX: Final = 4 * 1024 * 1024
# Outcomes that depend on the moment of receipt: they may have become true while an earlier try was still committing.
_BY_THE_CLOCK: Final = frozenset((Outcome.INVALID_SOURCE_KEY, Outcome.TIMESTAMP_OUT_OF_RANGE))

WriteResult = Verdict | Exception
"""What became of an attempt: the verdict, or why there is none (a Refusal, or a fault of ours)."""


class PendingWrite:
    """One attempt and its callback. Resolved once: by its result, or by its deadline."""

    __slots__ = (
        "_callbacks",
        "_is_unanswered",
        "_is_under_way",
        "attempt",
        "deadline",
        "identity",
        "is_queued",
        "payload_bytes",
    )

    def __init__(
        self, identity: Identity, attempt: Attempt, deadline: float, resolved: Callable[[WriteResult], None]
    ) -> None:
        self.identity = identity
        self.attempt = attempt
        self.deadline = deadline
        """In time.monotonic() seconds."""
        self.payload_bytes = len(attempt.envelope.payload)
        self.is_queued = True
        """Whether it counts among those that wait for a group."""
        self._is_under_way = False
        self._is_unanswered = False
        self._callbacks = [resolved]

    @property
    def is_resolved(self) -> bool:
        return not self._callbacks

    @property
    def may_be_stored(self) -> bool:
        """Whether it was sent to PostgreSQL, and no answer is known."""
        # In this order: a try that ends just now sets the second mark before it takes the first one away.
        return self._is_under_way or self._is_unanswered

    @property
    def idempotency_claim(self) -> Any:
        """What no two of a group may share, or None."""
        key = self.attempt.idempotency_key
        return None if key is None else (self.identity.workspace_id, self.attempt.envelope.source_id, key)

    @property
    def event_claim(self) -> Any:
        return (self.identity.workspace_id, self.attempt.envelope.source_id, 0, self.attempt.event_id)

    def begin_try(self) -> bool:
        """Mark it as being sent; False if it is resolved already: then it must not be sent."""
        # In this order: a thread that resolves it at the same moment either sees the mark, or is seen here.
        self._is_under_way = True
        return not self.is_resolved

    def end_try(self, *, is_answered: bool) -> None:
        """Mark the try as over, with PostgreSQL's answer or without."""
        self._is_unanswered |= not is_answered
        self._is_under_way = False

    def resolve(self, result: WriteResult) -> None:
        """Pass the result to the callback, once; later results are dropped. An uncertain result becomes "unknown"."""
        try:
            # Atomic, unlike a look and a step: the committer and the time keeper may come at once.
            callback = self._callbacks.pop()
        except IndexError:
            return
        if self.may_be_stored and not self._is_certain(result):
            unknown = OutcomeUnknown()
            unknown.__cause__ = result if isinstance(result, Exception) else None
            result = unknown
        _call(callback, result)

    def expire(self) -> None:
        """Resolve it because its deadline has passed."""
        self.resolve(StorageUnavailable())

    def _is_certain(self, result: WriteResult) -> bool:
        """Whether `result` is what became of it, although an earlier try of it may have been committed.

        PostgreSQL's verdict is, unless it depends on the clock: that the key has expired or the timestamp is too old
        may have become true while the earlier commit was under way. All other rights are revoked behind the barrier,
        after that commit has ended. And no try can have stored a value that PostgreSQL cannot store.
        """
        if isinstance(result, Verdict):
            return not self._is_unanswered or result.outcome not in _BY_THE_CLOCK
        return isinstance(result, SchemaValidationFailed)


class Undecided(NamedTuple):
    """What PostgreSQL has answered without a result: to be made again."""

    raced: list[PendingWrite]
    """What stood in their way has vanished meanwhile."""
    held: list[PendingWrite]
    """Their workspace is being changed."""


def write_group(
    connection: DedicatedConnection,
    group: Sequence[PendingWrite],
    settings: Settings,
    *,
    lock_wait_seconds: float,
    waits: bool,
) -> Undecided:
    """Send a group to PostgreSQL and resolve what it decides; repeating it is safe, whatever happened before.

    No two of `group` may share an Idempotency-Key. Raises what DedicatedConnection.run raises; then all are undecided.
    """
    those = [write for write in group if write.begin_try()]
    if not those:
        return Undecided([], [])
    # The newest one's: the time keeper answers an attempt with less time left, and the others go on.
    deadline = max(write.deadline for write in those)
    try:
        verdicts = store(
            lambda statement, parameters: connection.run(statement, parameters, deadline),
            [(write.identity, write.attempt) for write in those],
            idempotency_ttl_seconds=settings.idempotency_ttl_seconds,
            lock_wait_seconds=lock_wait_seconds,
            waits=waits,
        )
    except BaseException as error:
        # The server rolled back what it refused, and has not seen what was not sent.
        is_refused = isinstance(error, psycopg.Error) and error.sqlstate is not None
        is_unsent = isinstance(error, StorageUnavailable) and not isinstance(error, OutcomeUnknown)
        for write in those:
            write.end_try(is_answered=is_refused or is_unsent)
        raise
    undecided = Undecided([], [])
    for write, verdict in zip(those, verdicts, strict=True):
        if verdict.outcome is Outcome.RACED:
            undecided.raced.append(write)
        elif verdict.outcome is Outcome.HELD:
            undecided.held.append(write)
        else:
            write.resolve(verdict)
            continue
        write.end_try(is_answered=True)
    return undecided


def refuse_unsent(writes: Iterable[PendingWrite], error: StorageUnavailable) -> list[PendingWrite]:
    """Refuse those that PostgreSQL cannot have stored; the others, which must be repeated."""
    unanswered: list[PendingWrite] = []
    for write in writes:
        if write.may_be_stored:
            unanswered.append(write)
        else:
            write.resolve(error)
    return unanswered


def _call(callback: Callable[[WriteResult], None], result: WriteResult) -> None:
    try:
        callback(result)
    except Exception:  # noqa: BLE001 - one callback that fails must not keep the others from their results
        _log.exception("answer_crashed")
