"""What is known of one request that follows a feed, from one call of the application to the next."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from app.events.feed.cursors import Place
from app.events.feed.domain import Page
from app.events.feed.followers import FOLLOWERS, FOLLOWING, GATHER_SECONDS, WAIT, Wait, slower
from app.events.feed.known_followers import Follower


@dataclass(frozen=True, slots=True)
class Following:
    """How far the request has come."""

    after: Place | None
    """None: it begins behind all that can be read now."""
    until: float
    """In time.monotonic() seconds."""
    gather_seconds: float = GATHER_SECONDS

    @classmethod
    def of(cls, environ: dict[str, Any], begin: Callable[[], Place | None], wait_seconds: int) -> Self:
        """Of the request with this environ; `begin` says where a new one begins."""
        kept = environ.get(FOLLOWING)
        return kept if isinstance(kept, cls) else cls(begin(), time.monotonic() + wait_seconds)

    def hold(
        self,
        environ: dict[str, Any],
        workspace_id: int,
        page: Page,
        request_id: str,
        follower: Follower | None = None,
    ) -> bool:
        """Let what serves the request hold an empty page back for the time that is left; whether it may do so.

        `follower`: for whom more than the application can answer.
        """
        has_body = environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ
        followers = environ.get(FOLLOWERS)
        # A body cannot be read twice. A page that is not the last one leaves the caller something to read at once.
        if page.data or not page.is_last or has_body or followers is None or self.until <= time.monotonic():
            return False
        environ[WAIT] = Wait(
            followers=followers,
            workspace_id=workspace_id,
            project_row=page.project_row,
            after=page.reached.position,
            until=self.until,
            gather_seconds=self.gather_seconds,
            follower=follower,
        )
        environ[FOLLOWING] = replace(self, after=page.reached, gather_seconds=slower(self.gather_seconds))
        environ["HTTP_X_REQUEST_ID"] = request_id  # the calls are one request
        return True
