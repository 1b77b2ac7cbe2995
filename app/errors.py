"""Every way the domain can refuse. Knows no HTTP: statuses are given in problems.py alone.

    Refusal
    ├── BadRequest                  ├── SchemaValidationFailed
    ├── QueryTooBroad               │
    ├── PayloadTooLarge             ├── UnsupportedMediaType ── UnsupportedContentEncoding
    ├── BodyTimeout                 ├── LengthRequired
    ├── UnsupportedTransferCoding   │
    ├── InvalidSourceKey            ├── InvalidManagementToken
    ├── InvalidMetricsToken         ├── WrongCell
    ├── SourceDisabled              ├── WorkspaceSuspended
    ├── SourceMismatch              ├── EnvironmentMismatch
    ├── EventTypeNotAllowed         ├── OriginNotAllowed
    ├── AddressNotAllowed           │
    ├── InsufficientScope           ├── NotFound
    ├── MethodNotAllowed            ├── InternalError
    ├── Conflict                    ├── CredentialAlreadyShown
    ├── PreconditionFailed          ├── PreconditionRequired
    ├── IdempotencyKeyReused        │
    ├── IdempotencyInProgress       ├── DuplicateEvent
    ├── RateLimitExceeded           ├── BatchRejected
    ├── TimestampOutOfRange         ├── RangeNotSatisfiable
    ├── NotConfigured               │
    └── StorageUnavailable ── OutcomeUnknown

The docstring is the public message: what happened, and what the caller can do. Internal detail travels as the
exception's `__cause__` to the log and never to the body.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request: a JSON pointer (RFC 6901; "" is the whole) and a sentence.

    Within a text that has a grammar of its own, also the place of what is wrong, counted in characters (Unicode code
    points), and what may have been meant.
    """

    pointer: str
    message: str
    offset: int | None = None
    length: int | None = None
    suggestions: tuple[str, ...] = ()


class Refusal(Exception):  # noqa: N818 - the glossary's word; nothing is wrong when we refuse
    """The request was refused."""

    code: ClassVar[str]
    retryable: ClassVar[bool] = False
    retry_after_seconds: int | None = None
    headers: Mapping[str, str] = _NO_HEADERS
    accept_encoding: ClassVar[str | None] = None

    def __init__(self, message: str | None = None, *, faults: tuple[Fault, ...] = ()) -> None:
        self.message = message or " ".join((inspect.getdoc(type(self)) or "").split())
        self.faults = faults
        super().__init__(self.message)


class BadRequest(Refusal):
    """The request cannot be read."""

    code = "bad_request"


class SchemaValidationFailed(Refusal):
    """The request has fields that are missing, unknown or wrong; each is named in details."""

    code = "schema_validation_failed"


class QueryTooBroad(Refusal):
    """The query reads more than one request may. Shorten the range, or filter by type, source, env, key or severity."""

    code = "query_too_broad"


class PayloadTooLarge(Refusal):
    """The request or its payload is too large."""

    code = "payload_too_large"


class BodyTimeout(Refusal):
    """The body took too long to arrive, and nothing was stored. Send it again, in smaller pieces on a slow line."""

    code = "request_timeout"
    retryable = True
    retry_after_seconds = 1


class LengthRequired(Refusal):
    """Send the body with a Content-Length: here the end of a chunked body cannot be told from a broken connection."""

    code = "length_required"


class UnsupportedTransferCoding(Refusal):
    """Transfer-Encoding may be chunked and nothing else. To compress a body, use Content-Encoding."""

    code = "unsupported_transfer_coding"


class UnsupportedMediaType(Refusal):
    """Send JSON: Content-Type: application/json, in UTF-8."""

    code = "unsupported_media_type"


class UnsupportedContentEncoding(UnsupportedMediaType):
    """Send the body as it is, or compressed once, in a Content-Encoding of gzip, deflate, zstd or br."""

    accept_encoding = "gzip, deflate, zstd, br"


class InvalidSourceKey(Refusal):
    """The source key in X-API-Key is missing, malformed, unknown, expired or revoked."""

    code = "invalid_source_key"


class InvalidManagementToken(Refusal):
    """The management token in Authorization: Bearer is missing, malformed, unknown, expired or revoked."""

    code = "invalid_management_token"


class InvalidMetricsToken(Refusal):
    """The metrics are for whoever shows the token of LARIBA_METRICS_TOKEN in Authorization: Bearer."""

    code = "invalid_metrics_token"


class WrongCell(Refusal):
    """This key or token is of another cell of this installation: send the request to the one in Lariba-Cell."""

    code = "wrong_cell"


class SourceDisabled(Refusal):
    """This source is disabled or archived, so its keys cannot send events. Enable it over the management API."""

    code = "source_disabled"


class WorkspaceSuspended(Refusal):
    """This workspace is suspended, so its keys cannot send events. Ask the operator of this installation."""

    code = "workspace_suspended"


class SourceMismatch(Refusal):
    """source_id is not the source that this key belongs to. Send the key's own source_id."""

    code = "source_mismatch"


class EnvironmentMismatch(Refusal):
    """environment is not the environment of this key's source. Leave it out, or send the source's own."""

    code = "environment_mismatch"


class EventTypeNotAllowed(Refusal):
    """This key may not send events of this event_type. Its operators can allow it over the management API."""

    code = "event_type_not_allowed"


class OriginNotAllowed(Refusal):
    """This is a browser key, and it may not be used from this origin, nor without an Origin header."""

    code = "origin_not_allowed"


class AddressNotAllowed(Refusal):
    """This key may not be used from this address. Its operators can allow the network over the management API."""

    code = "address_not_allowed"


class InsufficientScope(Refusal):
    """Your management token may not do this: it takes a higher role, or a token for the whole workspace."""

    code = "insufficient_scope"


class NotFound(Refusal):
    """There is nothing under this address, or not for this credential. /docs lists all addresses."""

    code = "not_found"


class MethodNotAllowed(Refusal):
    """This address does not take this method. /docs says what each is for."""

    code = "method_not_allowed"


class InternalError(Refusal):
    """Something went wrong on our side; nothing was stored. Report the request_id to the operator."""

    code = "internal_error"


class Conflict(Refusal):
    """The change conflicts with what is already there."""

    code = "conflict"


class CredentialAlreadyShown(Refusal):
    """This request was carried out before, and a key or token is shown once only."""

    code = "credential_already_shown"


class PreconditionRequired(Refusal):
    """Say which state you mean to change: read the object, and send its ETag in If-Match. If-Match: * takes any."""

    code = "precondition_required"


class PreconditionFailed(Refusal):
    """If-Match does not name the object's present state: it has changed since. Read it again."""

    code = "precondition_failed"


class IdempotencyKeyReused(Refusal):
    """This Idempotency-Key was used with other content. Repeat the first content, or take a new key."""

    code = "idempotency_key_reused"


class IdempotencyInProgress(Refusal):
    """Another request with this Idempotency-Key or event_id is still running. Repeat the same request shortly."""

    code = "idempotency_in_progress"
    retryable = True
    retry_after_seconds = 1


class DuplicateEvent(Refusal):
    """This source already sent an event with this event_id and other content. A new event needs a new event_id."""

    code = "duplicate_event"


class TimestampOutOfRange(Refusal):
    """timestamp is too far from the time at which we received the event, and its source refuses such events."""

    code = "timestamp_out_of_range"


class BatchRejected(Refusal):
    """Nothing was stored: events of this batch would have been rejected, and it was to be all or nothing."""

    code = "batch_rejected"


class RangeNotSatisfiable(Refusal):
    """The file ends before the Range that was asked for begins: nothing of it is left to fetch."""

    code = "range_not_satisfiable"


class NotConfigured(Refusal):
    """This installation does not offer this. Its operator can configure it."""

    code = "not_configured"


class RateLimitExceeded(Refusal):
    """This source key or management token, or its workspace, sends more than it may. Repeat the same request later."""

    code = "rate_limit_exceeded"
    retryable = True
    retry_after_seconds = 1


class StorageUnavailable(Refusal):
    """Nothing was stored: the database is away or overloaded. Repeat the same request later."""

    code = "storage_unavailable"
    retryable = True
    retry_after_seconds = 1


class OutcomeUnknown(StorageUnavailable):
    """The database was lost while it committed. Repeat the same request: it is stored once whatever happened."""
