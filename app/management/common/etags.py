"""Which state of an object a caller has seen: ETags, and the condition that a change may carry."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final


def etag_of(public_id: str, updated_at: datetime) -> str:
    """Moves with every change by an operator, not when the worker writes last_used_at or last_event_at."""
    return hashlib.blake2b(f"{public_id} {updated_at.astimezone(UTC).isoformat()}".encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Condition:
    """A change may go ahead if the object is in one of these states; None means in any."""

    etags: frozenset[str] | None = None

    def is_met_by(self, etag: str) -> bool:
        return self.etags is None or etag in self.etags


UNCONDITIONAL: Final = Condition()


@dataclass(frozen=True, slots=True)
class Target:
    """Which object a caller means to change, and the state in which it must still be."""

    public_id: str
    condition: Condition = UNCONDITIONAL
