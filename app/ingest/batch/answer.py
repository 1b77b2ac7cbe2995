"""What a batch is answered: a verdict per event in order, and totals."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.errors import BatchRejected, Fault, Refusal
from app.ingest.acceptance import REFUSALS
from app.ingest.envelope import Attempt
from app.ingest.storage import Outcome, Verdict

_STATUSES: Final = {Outcome.STORED: "stored", Outcome.RESUMED: "stored", Outcome.DUPLICATE: "duplicate"}

Judged = Refusal | tuple[Attempt, Verdict]
"""An event: what was wrong with its text, or the attempt to store it and what became of that."""


def answer(events: Sequence[Judged]) -> str:
    """The JSON text of the answer."""
    totals = {"stored": 0, "duplicate": 0, "rejected": 0}
    verdicts = []
    for event in events:
        if (refusal := refusal_of(event)) is not None:
            totals["rejected"] += 1
            verdicts.append(json.dumps(_rejection(event, refusal)))
        elif not isinstance(event, Refusal):
            attempt, verdict = event
            status = _STATUSES[verdict.outcome]
            totals[status] += 1
            verdicts.append(f'{{"event_id": {json.dumps(attempt.event_id)}, "status": "{status}"}}')
    return f'{{"verdicts": [{", ".join(verdicts)}], "totals": {json.dumps(totals)}}}'


def refusal_of(event: Judged) -> Refusal | None:
    """Why the event was rejected, or None if it was not."""
    if isinstance(event, Refusal):
        return event
    refusal = REFUSALS.get(event[1].outcome)
    return refusal() if refusal else None


def require_all(events: Sequence[Judged]) -> None:
    """Raise BatchRejected, naming each culprit by its place, if any event was rejected."""
    rejected = [(n, refusal) for n, event in enumerate(events) if (refusal := refusal_of(event)) is not None]
    if rejected:
        raise BatchRejected(
            f"Nothing was stored: {len(rejected)} of {len(events)} events would have been rejected; see details.",
            faults=tuple(fault for n, refusal in rejected for fault in _faults_at(n, refusal)),
        )


def _faults_at(n: int, refusal: Refusal) -> Iterator[Fault]:
    if not refusal.faults:
        yield Fault(f"/events/{n}", f"{refusal.code}: {refusal.message}")
    for fault in refusal.faults:
        yield Fault(f"/events/{n}{fault.pointer}", fault.message)


def _rejection(event: Judged, refusal: Refusal) -> dict[str, Any]:
    # Only the producer's own id: nothing was stored under ours.
    event_id = None if isinstance(event, Refusal) else event[0].envelope.event_id
    rejection = ({} if event_id is None else {"event_id": event_id}) | {
        "status": "rejected",
        "code": refusal.code,
        "message": refusal.message,
        "retryable": refusal.retryable,
    }
    details = [{"pointer": fault.pointer, "message": fault.message} for fault in refusal.faults[:_POINTERS_MAX]]
    return rejection | ({"details": details} if details else {})


_POINTERS_MAX: Final = 10
