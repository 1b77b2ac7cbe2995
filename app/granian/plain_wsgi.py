"""Warns of granian's own WSGI, and keeps it from storing bodies that were cut; does nothing under other servers.

That WSGI ends a chunked body that was cut as if it were whole. So a chunked body is a 411 there.
"""

from collections.abc import Iterable
from io import BytesIO
from typing import Final

import structlog

from app.errors import LengthRequired
from app.granian.environ import Environ
from app.ingest.fast_path import Application, StartResponse
from app.wire.body_reads import BODY_IS_WHOLE, BODY_REFUSAL

_log = structlog.get_logger()

_HINT: Final = "Start it with --interface rsgi wsgi:rsgi. Its WSGI takes X_API_Key for X-API-Key."


class PlainWsgi:
    """A WSGI application in front of another one."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._has_warned = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("SERVER_SOFTWARE") == "Granian":
            if not self._has_warned:
                self._has_warned = True
                _log.warning("granian_without_adapter", hint=_HINT)
            if "HTTP_TRANSFER_ENCODING" in environ:
                environ[BODY_REFUSAL] = LengthRequired()
            elif not environ.get("CONTENT_LENGTH"):
                environ["wsgi.input"] = BytesIO()
                environ[BODY_IS_WHOLE] = True
        return self._application(environ, start_response)
