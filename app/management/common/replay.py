"""A POST that is sent again with its Idempotency-Key: how it is recognised, and what it is answered.

The claim on the key and its record are idempotency.py's; this is the HTTP around them.
"""

import hashlib
import re
from collections.abc import Callable

from flask import Response, request

from app.context import current_context
from app.errors import Conflict, CredentialAlreadyShown, NotFound, Refusal
from app.management.common.idempotency import AlreadyDoneError
from app.management.common.operators import IdempotentRequest
from app.management.common.parsing import body_of_request
from app.wire.exact_json import fingerprint, read_object
from app.wire.idempotency_key import read_idempotency_key


def stated_request() -> IdempotentRequest:
    """The Idempotency-Key of this request and the fingerprint of its content. Raises a Refusal if it is malformed."""
    key = read_idempotency_key(request.headers.get("Idempotency-Key"))
    content = f"{request.method} {request.full_path}\n".encode() + _content_of(body_of_request())
    return IdempotentRequest(
        key=key or "",
        fingerprint=hashlib.sha256(content).digest(),
        ttl_seconds=current_context().settings.idempotency_ttl_seconds,
    )


def _content_of(body: bytes) -> bytes:
    """The same for the same content: as on ingest, order and white space do not count."""
    try:
        document = read_object(body or b"{}")
    except Refusal:
        return body  # the body's parser refuses it, before its key is claimed
    return body if document.faults else fingerprint(document.values)


def replay(done: AlreadyDoneError, show: Callable[..., Response], rule: str, path: dict[str, str]) -> Response:
    """What the first of these requests made or changed, as `show` shows it now, with the status of the first response.

    `rule` is that of `show`; `path` is what this request's own path names. Raises CredentialAlreadyShown, or Conflict
    if what was made is archived.
    """
    if done.credential_id is not None:
        raise CredentialAlreadyShown(
            f"This request was carried out before and issued {done.credential_id}, which is shown once only."
            " If its answer was lost, revoke it and issue another one with a new Idempotency-Key."
        )
    if done.object_id is None:
        response = show(**path)
    else:
        try:
            response = show(done.object_id)
        except NotFound:
            raise Conflict(
                f"This request was carried out before and created {done.object_id}, which is archived by now."
                " To create another one, send a new Idempotency-Key."
            ) from None
        response.status_code = 201
        response.headers["Location"] = re.sub("<[^>]+>", done.object_id, rule)
    response.headers["Idempotent-Replayed"] = "true"
    return response
