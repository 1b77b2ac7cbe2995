"""ETags, which name the state of an object, and the condition that a change may have."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final


def etag_of(public_id: str, updated_at: datetime) -> str:
    """Differs after every change by an operator, not after the worker writes last_used_at or last_event_at."""
    return hashlib.blake2b(f"{public_id} {updated_at.astimezone(UTC).isoformat()}".encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Condition:
    """The states in which an object may be changed; None: any."""

    etags: frozenset[str] | None = None

    def is_met_by(self, etag: str) -> bool:
        return self.etags is None or etag in self.etags


UNCONDITIONAL: Final = Condition()


@dataclass(frozen=True, slots=True)
class Target:
    """The object that a caller changes, and the condition that its state must meet."""

    public_id: str
    condition: Condition = UNCONDITIONAL
