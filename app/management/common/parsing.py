"""Parses requests: JSON as strictly as ingest does, and the condition in If-Match."""

import re
from typing import Any

import msgspec
from flask import Request, g, request
from marshmallow import Schema
from webargs.flaskparser import FlaskParser

from app.errors import Fault, PreconditionRequired, SchemaValidationFailed
from app.management.common.etags import UNCONDITIONAL, Condition, Target
from app.web.request_body import check_media_type, read_bytes
from app.wire.exact_json import pointer_token, read_object

# RFC 9110 §13.1.1 asks for the strong comparison, under which a weak tag never matches. But our tags name a version of
# the row, not the bytes of a response, and we send no weak ones. A tag that comes back weak, or with a coding at its
# end, was changed by a proxy that compressed the response (nginx writes W/"5f1d…", Apache "5f1d…-gzip", Jetty
# "5f1d…--gzip"), and still names the version that its sender has read.
_CODING = re.compile(r"--?(?:gzip|deflate|br|zstd)\Z")


class JsonParser(FlaskParser):
    """webargs with our JSON parser, which refuses a member given twice, NaN, and a thousand brackets."""

    def load_json(self, _request: Request, _schema: Schema) -> dict[str, Any]:
        """The members of the body, which must be an object; no body has none. Raises a Refusal."""
        body = body_of_request()
        if not body:
            return {}
        check_media_type()
        return _members(body)


def body_of_request() -> bytes:
    """The whole body; read once, however often it is asked for. Raises a Refusal."""
    if "body" not in g:
        g.body = read_bytes()
    body: bytes = g.body
    return body


def refuse_members() -> None:
    """For an operation without a body: accept none or an empty object, and refuse members instead of ignoring them."""
    if request.method in ("GET", "HEAD"):
        return  # a body has no meaning there (RFC 9110 §9.3.1)
    if body := body_of_request():
        check_media_type()
        faults = [Fault(f"/{pointer_token(name)}", "This member is not known.") for name in _members(body)]
        if faults:
            raise SchemaValidationFailed(faults=tuple(faults))


def target(public_id: str) -> Target:
    """The object in the path, and the condition in If-Match, if there is one."""
    return Target(public_id, stated_condition() if "If-Match" in request.headers else UNCONDITIONAL)


def stated_target(public_id: str) -> Target:
    """The object in the path, and the condition in If-Match. Raises PreconditionRequired if there is none."""
    return Target(public_id, stated_condition())


def stated_condition() -> Condition:
    """The condition in If-Match. Raises PreconditionRequired if there is none: no update overwrites another unseen."""
    if "If-Match" not in request.headers:
        raise PreconditionRequired
    etags = request.if_match
    if etags.star_tag:
        return UNCONDITIONAL
    return Condition(frozenset(_CODING.sub("", tag) for tag in etags.as_set(include_weak=True)))


def _members(body: bytes) -> dict[str, Any]:
    document = read_object(body)
    if document.faults:
        raise SchemaValidationFailed(faults=document.faults)
    return {name: _plain(value) for name, value in document.values.items()}


def _plain(value: Any) -> Any:
    """A whole number becomes an int, also written as 5.0: JSON Schema and JavaScript see 5."""
    if isinstance(value, msgspec.Raw):
        text = bytes(value).decode()
        return int(text) if text.removeprefix("-").isdecimal() else float(text)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
