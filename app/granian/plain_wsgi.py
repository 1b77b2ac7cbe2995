"""Keeps granian's own WSGI from storing bodies that were cut; changes nothing under other servers.

That WSGI ends a chunked body that was cut as if it were whole. So a chunked body is a 411 there.
"""

from collections.abc import Iterable
from io import BytesIO

from app.errors import LengthRequired
from app.ingest.fast_path import Application, Environ, StartResponse
from app.wire.body_reads import BODY_IS_WHOLE, BODY_REFUSAL


class PlainWsgi:
    """A WSGI application in front of another one."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("SERVER_SOFTWARE") == "Granian":
            if "HTTP_TRANSFER_ENCODING" in environ:
                environ[BODY_REFUSAL] = LengthRequired()
            elif not environ.get("CONTENT_LENGTH"):
                environ["wsgi.input"] = BytesIO()
                environ[BODY_IS_WHOLE] = True
        return self._application(environ, start_response)
