"""What a batch is answered: a verdict per event in order, and totals."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.errors import BatchRejected, Fault, Refusal
from app.ingest.envelope import Attempt, Envelope
from app.ingest.storage import Outcome, Verdict
from app.ingest.verdicts import Named, refusal_in

# The answer is recorded for the Idempotency-Key, so these bound its size: 5 MiB of faults below long names would come
# to 150 MiB of pointers. Where every event is wrong, the answer holds the first fault of each.
_FAULTS_MAX: Final = 1000
_POINTER_CHARACTERS_MAX: Final = 300

_STATUSES: Final = {Outcome.STORED: "stored", Outcome.RESUMED: "stored", Outcome.DUPLICATE: "duplicate"}

Judged = Refusal | tuple[Attempt, Verdict]
"""An event: what was wrong with its text, or the attempt to store it and what became of that."""


def answer(events: Sequence[Judged], named: Named) -> tuple[str, dict[str, int], Counter[str]]:
    """The JSON text of the answer, how many events have which verdict, and how many it rejects, by code."""
    totals = {"stored": 0, "duplicate": 0, "rejected": 0}
    verdicts = []
    rejected: Counter[str] = Counter()
    unreadable = sum(isinstance(event, Refusal) for event in events)
    for event in events:
        if (refusal := why_rejected(event, named)) is not None:
            totals["rejected"] += 1
            rejected[refusal.code] += 1
            verdicts.append(json.dumps(_rejection(event, refusal, _FAULTS_MAX // max(1, unreadable))))
        elif not isinstance(event, Refusal):
            attempt, verdict = event
            status = _STATUSES[verdict.outcome]
            totals[status] += 1
            verdicts.append(f'{{"event_id": {json.dumps(attempt.event_id)}, "status": "{status}"}}')
    return f'{{"verdicts": [{", ".join(verdicts)}], "totals": {json.dumps(totals)}}}', totals, rejected


def accepted(body: str, events: Sequence[Envelope | Refusal]) -> list[Envelope]:
    """Those of `events` that an earlier answer to them has accepted."""
    verdicts = json.loads(body)["verdicts"]
    pairs = zip(events, verdicts, strict=True)
    return [event for event, it in pairs if isinstance(event, Envelope) and it["status"] != "rejected"]


def why_rejected(event: Judged, named: Named) -> Refusal | None:
    """Why the event was rejected, or None if it was not."""
    if isinstance(event, Refusal):
        return event
    _, verdict = event
    return refusal_in(verdict, named) if verdict.receipt is None else None


def require_all(events: Sequence[Judged], named: Named) -> None:
    """Raise BatchRejected with a fault for each rejected event, if there is one."""
    rejected = [(n, refusal) for n, event in enumerate(events) if (refusal := why_rejected(event, named)) is not None]
    if rejected:
        raise BatchRejected(
            f"Nothing was stored: {len(rejected)} of {len(events)} events would have been rejected; see details.",
            faults=tuple(fault for n, refusal in rejected for fault in _faults_at(n, refusal)),
        )


def _faults_at(n: int, refusal: Refusal) -> Iterator[Fault]:
    if not refusal.faults:
        yield Fault(f"/events/{n}", f"{refusal.code}: {refusal.message}")
    for fault in refusal.faults:
        yield Fault(f"/events/{n}{_near(fault.pointer)}", fault.message)


def _rejection(event: Judged, refusal: Refusal, faults_max: int) -> dict[str, Any]:
    # Only the producer's own id: nothing was stored under ours.
    event_id = None if isinstance(event, Refusal) else event[0].envelope.event_id
    rejection = ({} if event_id is None else {"event_id": event_id}) | {
        "status": "rejected",
        "code": refusal.code,
        "message": refusal.message,
        "retryable": refusal.retryable,
    }
    details = [{"pointer": _near(it.pointer), "message": it.message} for it in refusal.faults[:faults_max]]
    return rejection | ({"details": details} if details else {})


def _near(pointer: str) -> str:
    """`pointer`, or its nearest parent that is short enough."""
    while len(pointer) > _POINTER_CHARACTERS_MAX:
        pointer = pointer.rpartition("/")[0]
    return pointer
