"""CORS: lets web pages read what browser keys are answered (docs/decisions/0009). Knows no Flask.

It gives no right and takes none: whether a key may be used from an origin is judged where its events are written.
"""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final

from cachetools import TTLCache
from sqlalchemy import text

from app.concurrency.limit import ConcurrencyLimit
from app.credentials.verification import Identity
from app.database.engine import Database, TenantScope
from app.errors import OriginNotAllowed

_IS_ORIGIN_ALLOWED = text("SELECT is_origin_allowed(:origin)")
# By the primary key.
_IS_ALLOWED_BY_KEY = text("SELECT :origin = ANY (allowed_origins) FROM source_keys WHERE id = :id")
# A browser asks before nearly every event. A change of a key's origins takes so long to be seen.
_REMEMBERED_SECONDS: Final = 3.0
_REMEMBERED_MAX: Final = 1_000
# Preflights need no key, and their origins can be ever new: they must not take the connections of requests with a key.
_LOOK_UPS_MAX: Final = 4
_LOOK_UPS_WAITING_MAX: Final = 128
_DEADLINE_SECONDS: Final = 1.0
_PREFLIGHT_SECONDS: Final = 600

PREFLIGHT_HEADERS: Final = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "x-api-key, content-type, idempotency-key, content-encoding, x-request-id",
    "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
}
ANSWER_HEADERS: Final = {
    "Access-Control-Expose-Headers": "X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, Idempotent-Replayed",
}


class Origins:
    """Which origins are let in; remembers answers for a few seconds."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._remembered: TTLCache[Hashable, bool, float] = TTLCache(_REMEMBERED_MAX, _REMEMBERED_SECONDS, timer=clock)
        # The cache itself is not safe for several threads.
        self._mutex = threading.Lock()
        self._look_ups = ConcurrencyLimit(
            _LOOK_UPS_MAX,
            at_once_per_client=_LOOK_UPS_MAX,
            waiting_per_client=_LOOK_UPS_WAITING_MAX,
            wait_seconds=_DEADLINE_SECONDS,
            busy="Too many preflights with new origins are under way. Repeat it later.",
        )

    def require_known(self, origin: str) -> None:
        """For a preflight, which has no key. Raises OriginNotAllowed if no live key is for `origin`, and
        StorageUnavailable.
        """
        if (known := self._recall(origin)) is None:
            known = self._remember(origin, is_allowed=self._look_up(origin))
        if not known:
            raise OriginNotAllowed("No key of this installation may be used from this origin.")

    def is_allowed(self, identity: Identity, origin: str, deadline: float) -> bool:
        """Whether this key is for `origin`; waits until `deadline` (time.monotonic() seconds).

        Raises StorageUnavailable.
        """
        name = (identity.row_id, origin)
        if self._recall(name):
            return True
        remaining = deadline - time.monotonic()
        with self._database.transaction(identity.workspace_id, deadline_seconds=remaining) as session:
            found = session.execute(_IS_ALLOWED_BY_KEY, {"origin": origin, "id": identity.row_id}).scalar_one_or_none()
        # A no is asked again: an operator who has just added the origin tries it at once.
        return found is True and self._remember(name, is_allowed=True)

    def _look_up(self, origin: str) -> bool:
        with (
            self._look_ups.held(None),
            self._database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session,
        ):
            return bool(session.execute(_IS_ORIGIN_ALLOWED, {"origin": origin}).scalar_one())

    def _recall(self, name: Hashable) -> bool | None:
        with self._mutex:
            return self._remembered.get(name)

    def _remember(self, name: Hashable, *, is_allowed: bool) -> bool:
        with self._mutex:
            self._remembered[name] = is_allowed
        return is_allowed


def allowing(origin: str) -> dict[str, str]:
    """The headers that let a page of `origin` read an answer; never `*`, never credentials."""
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
