"""The blueprint of the operations that read events: each of their requests is counted (docs/usage.md)."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import structlog
from flask import Response, g, request

from app.context import current_context
from app.counting.reads import ANSWERED, BROKEN_OFF, Read, Reads
from app.errors import InternalError
from app.events.answers import EventResponse
from app.events.feed.followers import WAIT
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.openapi import operation_id


class ReadingBlueprint(ManagementBlueprint):
    """A ManagementBlueprint that counts who reads how much, whatever its operations are."""

    def __init__(self, name: str, import_name: str, *, description: str) -> None:
        super().__init__(name, import_name, description=description)
        self.after_request(_count)


def counted(pieces: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """The texts of a streamed response, each with the number of events in it, counted as the server takes them.

    To be called within the request. A response of which the server does not take the end counts as broken off.
    """
    return _counted(current_context().reads, _read(is_refused=False), pieces)


def _counted(reads: Reads, read: Read, pieces: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    is_whole = False
    try:
        for text, events in pieces:
            # Before the server has it: what may have been read is counted.
            reads.count(read, events=events, body_bytes=len(text))
            yield text
        is_whole = True
    finally:
        if not is_whole:
            reads.count(read._replace(outcome=BROKEN_OFF), requests=1)


def _count(response: Response) -> Response:
    """Count the request, once its response is certain. A request without a token of ours belongs to no workspace."""
    if "identity" in g:
        read = _read(is_refused=response.status_code >= 400)
        count = partial(current_context().reads.count, read, requests=1, **_shown_by(response))
        if (wait := request.environ.get(WAIT)) is None:
            count()
        else:  # it may be held back, and another one sent in its place
            request.environ[WAIT] = replace(wait, when_sent=count)
    return response


def _read(*, is_refused: bool) -> Read:
    bound = structlog.contextvars.get_contextvars()
    outcome = bound.get("error_code", InternalError.code) if is_refused else ANSWERED
    return Read(g.identity, bound.get("project"), _operation(request.endpoint or ""), outcome)


@cache
def _operation(endpoint: str) -> str:
    return operation_id(endpoint.rpartition(".")[2])


def _shown_by(response: Response) -> dict[str, Any]:
    """What a response shows as a whole. A streamed one is counted as it is sent, and a refusal shows nothing."""
    if response.is_streamed or response.status_code >= 400 or request.method == "HEAD":
        return {}
    events = response.events if isinstance(response, EventResponse) else 0
    return {"events": events, "body_bytes": response.calculate_content_length() or 0}
