"""Reads what a request brings: JSON as exactly as ingest does, and the condition in If-Match."""

from typing import Any

from flask import Request, request
from marshmallow import Schema
from webargs.flaskparser import FlaskParser

from app.errors import Fault, SchemaValidationFailed
from app.exact_json import pointer_token, read_object
from app.management.revisions import UNCONDITIONAL, Condition, Target
from app.request_body import check_media_type, read_bytes


class JsonParser(FlaskParser):
    """webargs with our own reader of JSON: a member twice, NaN or a thousand brackets are refused."""

    def load_json(self, _request: Request, _schema: Schema) -> dict[str, Any]:
        """The members of the body, which must be an object; no body has none. Raises a Refusal."""
        body = read_bytes()
        if not body:
            return {}
        check_media_type()
        return _members(body)


def refuse_members() -> None:
    """For an operation that takes no body: nothing or an empty object may come, all else would be ignored."""
    if request.method in ("GET", "HEAD"):
        return  # a body has no meaning there (RFC 9110 §9.3.1), and reading it would give it one
    if body := read_bytes():
        check_media_type()
        faults = [Fault(f"/{pointer_token(name)}", "This member is not known.") for name in _members(body)]
        if faults:
            raise SchemaValidationFailed(faults=tuple(faults))


def target(public_id: str) -> Target:
    """The object in the path, and the condition in If-Match."""
    if "If-Match" not in request.headers:
        return Target(public_id)
    # Weak tags never match: RFC 9110 §13.1.1 asks for the strong comparison.
    etags = request.if_match
    return Target(public_id, UNCONDITIONAL if etags.star_tag else Condition(frozenset(etags.as_set())))


def _members(body: bytes) -> dict[str, Any]:
    document = read_object(body)
    if document.faults:
        raise SchemaValidationFailed(faults=document.faults)
    return document.values
