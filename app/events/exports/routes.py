"""/v1/exports: files of events, which the worker writes."""

import base64
import os
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

from flask import Response, request
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import wrap_file

from app.context import current_context, management_database
from app.errors import (
    Conflict,
    NotConfigured,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    StorageUnavailable,
)
from app.events.blueprint import ReadingBlueprint, counted
from app.events.exports import domain as exports
from app.events.exports import schemas
from app.events.exports.domain import Downloads, ExportView, FinishedFile, NewExport
from app.events.exports.files import file_path
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import target
from app.management.common.responses import Headers, created, gone, shown
from app.management.common.schemas import PageQuerySchema
from app.web import openapi

blueprint = ReadingBlueprint("exports", __name__, description="Files of events, made in the background")

GZIP: Final = "application/gzip"
_PIECE_BYTES: Final = 262_144
_OF_FILE: Final = ("ETag", "Accept-Ranges", "Repr-Digest")
_ALWAYS: Final = ("Cache-Control", "RateLimit", "RateLimit-Policy")
_BYTES: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}
_PARTS: Final = {
    206: {
        "description": "The part that `Range` asks for.",
        "headers": openapi.headers(*_ALWAYS, *_OF_FILE, "Content-Range"),
        "content": {GZIP: _BYTES},
    },
    304: {
        "description": "The caller has it already: it has sent its `ETag` in `If-None-Match`.",
        "headers": openapi.headers(*_ALWAYS, *_OF_FILE),
    },
}
_UNREADABLE: Final = "The file cannot be read at the moment. Repeat the same request later."


# A developer, and no auditor: an auditor changes nothing, and a file takes space for a week, and the worker's time. The
# same events an auditor can have at once, as a stream, and may fetch any file that is there.
@blueprint.operation(
    "POST", "/v1/exports", role=Role.DEVELOPER, refuses=[NotFound, Conflict, NotConfigured], shown_by="read_export"
)
@blueprint.arguments(schemas.ExportCreateSchema, example=schemas.EXAMPLE)
@blueprint.response(201, schemas.ExportSchema)
def create_export(operator: Operator, new: NewExport) -> tuple[ExportView, Headers]:
    """Have all events that a query finds written to a file.

    The range is frozen now: the file holds what is received until now, and nothing else. Ask for the export until its
    `state` is `completed`, then fetch its `file`, which is kept for seven days.
    """
    settings = current_context().settings
    downloads = Downloads(folder=settings.download_dir, bytes_max=settings.download_bytes_max)
    export = exports.create_export(management_database(), operator, new, downloads)
    return created(export, ".read_export", export_id=export.id)


@blueprint.operation("GET", "/v1/exports", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.response(200, schemas.ExportPageSchema)
def list_exports(operator: Operator, page: PageRequest) -> Page[ExportView]:
    """List the workspace's exports, newest first, with those whose file has expired.

    One that has ended is shown for thirty days more.
    """
    return exports.list_exports(management_database(), operator, page)


@blueprint.operation("GET", "/v1/exports/<export_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.ExportSchema)
def read_export(operator: Operator, export_id: str) -> tuple[ExportView, Headers]:
    """Read an export: how far it is, and where its file can be fetched."""
    return shown(exports.read_export(management_database(), operator, export_id))


@blueprint.operation(
    "POST",
    "/v1/exports/<export_id>/cancel",
    role=Role.DEVELOPER,
    refuses=[PreconditionFailed],
    shown_by="read_export",
)
@blueprint.response(200, schemas.ExportSchema)
def cancel_export(operator: Operator, export_id: str) -> tuple[ExportView, Headers]:
    """Cancel a pending export: once this is answered, nothing more is written. Safe to repeat.

    One that has ended stays as it is: `state` says how.
    """
    return shown(exports.cancel_export(management_database(), operator, target(export_id)))


@blueprint.operation("DELETE", "/v1/exports/<export_id>", role=Role.DEVELOPER, refuses=[PreconditionFailed])
@blueprint.response(204)
def delete_export(operator: Operator, export_id: str) -> Response:
    """Delete an export and its file, which cannot be fetched once this is answered. A pending one is cancelled."""
    exports.delete_export(management_database(), operator, target(export_id))
    return gone()


@blueprint.operation("GET", "/v1/exports/<export_id>/file", role=Role.AUDITOR, refuses=[Conflict, RangeNotSatisfiable])
@blueprint.response(
    200,
    _BYTES["schema"],
    content_type=GZIP,
    example=_BYTES["example"],
    headers=openapi.headers(*_OF_FILE),
    description="What the stream of the same query sends, compressed.",
)
@blueprint.doc(responses=_PARTS)  # type: ignore[untyped-decorator]
def download_export(operator: Operator, export_id: str) -> Response:
    """Fetch the file of an export: NDJSON or CSV, compressed with gzip.

    A download that broke off goes on with `Range`, and with the `ETag` in `If-Range`. `Repr-Digest` is the SHA-256 of
    the whole file.
    """
    file = exports.find_file(management_database(), operator, export_id)
    path = file_path(Path(current_context().settings.download_dir), file.public_id, file.format)
    return _send(path, file)


def _send(path: Path, file: FinishedFile) -> Response:
    try:
        opened = path.open("rb")
    except OSError as error:
        raise StorageUnavailable(_UNREADABLE) from error
    size = os.fstat(opened.fileno()).st_size
    if size != file.bytes:
        opened.close()
        raise StorageUnavailable(_UNREADABLE) from OSError(f"{path.name} has {size} bytes instead of {file.bytes}")
    # Larger pieces than by default: each passes through the adapter.
    response = Response(wrap_file(request.environ, opened, _PIECE_BYTES), mimetype=GZIP, direct_passthrough=True)
    response.call_on_close(opened.close)
    response.content_length = size
    response.last_modified = file.written_at
    response.set_etag(file.sha256)
    response.headers["Content-Disposition"] = f'attachment; filename="{path.name}"'
    digest = base64.b64encode(bytes.fromhex(file.sha256)).decode()
    response.headers["Repr-Digest"] = f"sha-256=:{digest}:"
    response.accept_ranges = "bytes"
    # A list of ranges, or one that cannot be read, may be ignored (RFC 9110 §14.2).
    is_one_range = request.range is not None and len(request.range.ranges) == 1
    # If-Match is for changes; werkzeug would answer 412 with the whole file.
    environ = {name: value for name, value in request.environ.items() if name != "HTTP_IF_MATCH"}
    try:
        response.make_conditional(environ, accept_ranges=is_one_range, complete_length=size)
    except RequestedRangeNotSatisfiable:
        response.close()
        refusal = RangeNotSatisfiable()
        refusal.headers = {"Content-Range": f"bytes */{size}"}
        raise refusal from None
    if response.status_code == HTTPStatus.NOT_MODIFIED:
        return response
    pieces = cast("Iterable[bytes]", response.response)
    is_begin = response.content_range.start in (None, 0)
    response.response = counted(_with_events(pieces, file.events if is_begin else 0))
    response.direct_passthrough = False  # or the server would close the generator, and nothing the file
    return response


def _with_events(pieces: Iterable[bytes], events: int) -> Iterator[tuple[bytes, int]]:
    """All events count with the first piece of a file: how many are in each is not known."""
    for piece in pieces:
        yield piece, events
        events = 0
