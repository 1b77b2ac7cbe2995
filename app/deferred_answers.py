"""Lets granian's threads go while an event waits for its commit: the answer is given later, by the committer.

A WSGI server's thread waits for the application to return, and dozens of threads that wait and wake cost a process half
of what it could do (docs/decisions/0006). granian hands each request to Python together with an object that takes the
response at any time and from any thread; it only hides that object from the WSGI application. Here it is shown to
the door. Whatever the door does not take, and every other server, goes on as WSGI has it: this module changes how fast
an answer comes and never which.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.ingest.door import Door
from app.thread_reserve import ThreadReserve

# Refused events are answered by Flask, here and not on the committer's thread.
_REFUSING_THREADS = 4


def install() -> bool:
    """Show granian's worker of this process the door; False if this process is no granian worker, or another granian.

    Must run before the worker has its application, so at the import of wsgi.py.
    """
    installed = False
    for name in ("granian.server.mp", "granian.server.mt"):
        server = sys.modules.get(name)
        wrap = getattr(server, "_wsgi_call_wrap", None)
        if callable(wrap):
            server._wsgi_call_wrap = _with_door(wrap)  # type: ignore[union-attr]  # noqa: SLF001 - see above
            installed = True
    return installed


def _with_door(wrap: Callable[..., Callable[[Any, dict[str, Any]], Any]]) -> Callable[..., Callable[[Any, Any], Any]]:
    def wrap_with_door(application: Any, scope_options: dict[str, Any], access_log: Any = None) -> Any:
        plain = wrap(application, scope_options, access_log)
        door = getattr(application, "wsgi_app", None)
        # granian's own access log counts the time until the application returns; whoever wants it, waits.
        if not isinstance(door, Door) or access_log or scope_options.get("url_path_prefix"):
            return plain
        refusing = ThreadPoolExecutor(_REFUSING_THREADS, "refusing")

        threads = ThreadReserve()

        def run(protocol: Any, scope: dict[str, Any]) -> Any:
            is_surplus = threads.begin(protocol)
            try:
                taken = door.take(scope, protocol.response_bytes, lambda: refusing.submit(plain, protocol, scope))
            finally:
                threads.end(protocol)
            if not taken:
                threads.replace()
                return plain(protocol, scope)
            # Not after a request that Flask answered: the server holds on to a body that was not read to its end.
            if is_surplus:
                threads.rest()
            return None

        return run

    return wrap_with_door
