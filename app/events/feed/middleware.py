"""Holds requests back on the threads of a WSGI server: few, since each of them keeps one from all others."""

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from app.events.feed.followers import FOLLOWERS, WAIT, Followers, Wait
from app.events.feed.known_followers import PATH

_OF_CONSUMER: Final = re.compile(r"/v1/consumers/[^/]+/events")
CAN_WAIT: Final = "lariba.can_wait"
"""In an environ: what calls the application holds its response back itself."""

_Environ = dict[str, Any]
_Started = tuple[Any, ...]
_Application = Callable[[_Environ, Callable[..., Any]], Iterable[bytes]]


def may_wait(path: str) -> bool:
    """Whether it is the path of a feed or of a consumer's events, whose requests may be held back."""
    return path == PATH or _OF_CONSUMER.fullmatch(path) is not None


class FollowMiddleware:
    """A WSGI application in front of the one whose requests wait."""

    def __init__(self, application: _Application, followers: Followers) -> None:
        self._application = application
        self.followers: Final = followers

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not may_wait(environ["PATH_INFO"]):
            return self._application(environ, start_response)
        environ[FOLLOWERS] = self.followers
        if CAN_WAIT in environ:
            return self._application(environ, start_response)
        while True:
            started: list[_Started] = []
            answer = self._application(environ, lambda *head: started.append(head))  # noqa: B023 - called in this round
            if (wait := environ.pop(WAIT, None)) is None or not _is_over(wait):
                start_response(*started[-1])
                return answer
            getattr(answer, "close", lambda: None)()


def _is_over(wait: Wait) -> bool:
    """Wait on this thread; False if too many do."""
    woken = threading.Event()
    if not wait.followers.add(wait, woken.set, on_thread=True):
        wait.when_sent()
        return False
    try:
        if woken.wait(wait.seconds_left):
            time.sleep(wait.followers.gather_seconds(wait))
    finally:
        wait.followers.remove(wait)
    return True
