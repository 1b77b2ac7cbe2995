"""What a process knows of its followers from the page that it has sent them: who they are, and where they go on.

So it can hold their next request back at once. Nothing here gives a right: before a page is sent, the token is checked.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from app.concurrency.fork import reset_after_fork
from app.credentials.verification import Identity
from app.events.feed.cursors import Place
from app.events.feed.domain import Feed
from app.wire.http_rules import refusal_of

PATH: Final = "/v1/events/feed"
WAIT_SECONDS_MAX: Final = 25
"""Proxies close a connection on which nothing has come for 30 or 60 seconds."""
# A follower asks again as soon as it has its page. About a kilobyte each, and what its query takes.
_SECONDS: Final = 60.0
_FOLLOWERS_MAX: Final = 2_048
_QUERY_CHARACTERS_MAX: Final = 512
_NAMES: Final = frozenset(("project_id", "q", "limit", "cursor", "wait"))


Selection = tuple[tuple[str, str], ...]
"""The parameters that stay from page to page, as they were sent: the same text means the same."""


class Asked(NamedTuple):
    """A common request for a feed, as its head says it."""

    selection: Selection
    cursor: str
    wait_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Who asks for what, behind which place."""

    identity: Identity
    feed: Feed
    project_row: int
    after: Place
    limit: int
    selection: Selection
    request_id: str = ""
    """Of the request, if it has come."""
    address: str = ""

    @property
    def feed_key(self) -> Hashable:
        """Those with the same key read the same feed, in pages of the same size."""
        return self.identity.workspace_id, self.project_row, self.feed, self.limit

    def behind(self, place: Place) -> "Follower":
        """As it goes on behind its page."""
        return replace(self, after=place, request_id="", address="")

    def of_request(self, request_id: str, address: str) -> "Follower":
        """As it comes again."""
        return replace(self, request_id=request_id, address=address)


def read_asked(environ: Mapping[str, Any]) -> Asked | None:
    """The request, if its head is that of a common one; None for whatever else it is, or is wrong with it."""
    if (
        environ["PATH_INFO"] != PATH
        or environ["REQUEST_METHOD"] != "GET"
        or environ.get("CONTENT_LENGTH") not in (None, "", "0")
        or "HTTP_TRANSFER_ENCODING" in environ
        # Its requests have bodies of unannounced length.
        or environ.get("SERVER_PROTOCOL") == "HTTP/2"
        or len(environ.get("QUERY_STRING", "")) > _QUERY_CHARACTERS_MAX
        or refusal_of(environ) is not None
    ):
        return None
    values: dict[str, str] = {}
    for parameter in environ.get("QUERY_STRING", "").split("&"):
        name, equals, value = parameter.partition("=")
        if not equals or name not in _NAMES or name in values:
            return None
        values[name] = value
    cursor, wait = values.pop("cursor", ""), values.pop("wait", "0")
    if not (wait.isascii() and wait.isdecimal() and len(wait) <= len(str(WAIT_SECONDS_MAX))):
        return None
    if int(wait) > WAIT_SECONDS_MAX:
        return None
    return Asked(tuple(sorted(values.items())), cursor, int(wait))


class KnownFollowers:
    """Those of one process, by what their next requests will say."""

    def __init__(self) -> None:
        self._reset()
        reset_after_fork(self, KnownFollowers._reset)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._followers: OrderedDict[tuple[str, Selection, str], tuple[float, Follower]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followers)

    def keep(self, follower: Follower, next_cursor: str) -> None:
        """Remember, for a bounded time, who goes on with this cursor. One page may be given to many alike."""
        key = follower.identity.public_id, follower.selection, next_cursor
        with self._mutex:
            self._followers[key] = time.monotonic(), follower
            self._followers.move_to_end(key)
            while len(self._followers) > _FOLLOWERS_MAX:
                self._followers.popitem(last=False)

    def find(self, identity: Identity, asked: Asked) -> Follower | None:
        """The follower that asks so, if it was given its page a moment ago."""
        since, follower = self._followers.get((identity.public_id, asked.selection, asked.cursor), (0.0, None))
        if follower is None or follower.identity != identity or time.monotonic() - since > _SECONDS:
            return None
        return follower
