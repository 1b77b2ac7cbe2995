"""An attempt on its way to be stored, and the one way in which it becomes known what became of it.

An attempt whose commit went unanswered may be stored. Whatever happens to it after that, "nothing was stored" is no
answer to it any more: only its outcome is, or that the outcome is unknown. So every result goes through `resolve`, and
every exchange with PostgreSQL through `write_group`, which notes what PostgreSQL may know of.
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

# What may have become true since an earlier try, which is still being committed: these depend on the moment of receipt.
_BY_THE_CLOCK: Final = frozenset((Outcome.INVALID_SOURCE_KEY, Outcome.TIMESTAMP_OUT_OF_RANGE))

WriteResult = Verdict | Exception
"""What became of an attempt: the verdict, or why there is none (a Refusal, or a fault of ours)."""


class PendingWrite:
    """One attempt and its caller. Resolved once: by its result, or by its deadline."""

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
        """Whether PostgreSQL has heard of it and not said what became of it."""
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
        """Note that PostgreSQL hears of it from now on; False if it is resolved already: then PostgreSQL must not."""
        # In this order: who resolves it at the same moment either sees the mark, or is seen here.
        self._is_under_way = True
        return not self.is_resolved

    def end_try(self, *, is_answered: bool) -> None:
        """Note that PostgreSQL has said what it had to say, or that it never will."""
        self._is_unanswered |= not is_answered
        self._is_under_way = False

    def resolve(self, result: WriteResult) -> None:
        """Tell the caller; who comes second is not heard. A result that cannot be known is told as unknown."""
        try:
            # Atomic, unlike a look and a step: the committer and the time keeper may come at once.
            callback = self._callbacks.pop()
        except IndexError:
            return
        if self.may_be_stored and not self._is_certain(result):
            unknown = OutcomeUnknown()
            unknown.__cause__ = result if isinstance(result, Exception) else None
            result = unknown
        _tell(callback, result)

    def expire(self) -> None:
        """Tell the caller, if nobody has, that its time is up."""
        self.resolve(StorageUnavailable())

    def _is_certain(self, result: WriteResult) -> bool:
        """Whether `result` is what became of it, although an earlier try of it may have been committed.

        What PostgreSQL says of it now is, but for what it says by its clock: that its key has expired or its timestamp
        is too old may have become true while the earlier commit was still under way. All other rights are taken away
        behind the barrier, when that has come to its end. And no try can have stored what PostgreSQL cannot keep.
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
    # The newest one's: one with less time left is answered by the time keeper, and takes nobody along.
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
        # What the server itself refused was rolled back, and of what was not sent it knows nothing.
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
    """Resolve those of which PostgreSQL has not heard; the others, of which it is to be asked again."""
    unanswered: list[PendingWrite] = []
    for write in writes:
        if write.may_be_stored:
            unanswered.append(write)
        else:
            write.resolve(error)
    return unanswered


def _tell(callback: Callable[[WriteResult], None], result: WriteResult) -> None:
    try:
        callback(result)
    except Exception:  # noqa: BLE001 - whatever it is, the others are told
        # A caller that cannot be told must not keep the others from being told.
        _log.exception("answer_crashed")
