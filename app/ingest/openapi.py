"""How the ingest operations read in the OpenAPI document; ingest reads and writes the bodies without these schemas."""

import json
from typing import Any, Final

from marshmallow import Schema, fields, validate

from app import errors
from app.ingest.batch.body import EVENTS_MAX, NDJSON
from app.ingest.envelope import EnvelopeSchema
from app.web import openapi
from app.web.openapi import FaultSchema
from app.web.problems import JSON
from app.web.schema_fields import InputSchema, OutputSchema

_EVENT_ID: Final = "evt_demo_001"
_EXAMPLE: Final = {
    "event_id": _EVENT_ID,
    "event_type": "payment.failed",
    "source_id": "src_demo",
    "environment": "production",
    "severity": "critical",
    "timestamp": "2026-06-01T10:00:00Z",
    "payload": {"amount": 49.99, "currency": "EUR", "reason": "card_declined"},
}


class ReceiptSchema(OutputSchema):
    """A 2xx response to one event."""

    # Not bound to one value: generators write "true" for that, and then raise on the true that comes.
    accepted = fields.Boolean(required=True, metadata={"description": "Always true."})
    event_id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(("stored", "duplicate")))


class StoredReceiptSchema(OutputSchema):
    """That something was stored, when, and what was answered."""

    stored = fields.Boolean(required=True, metadata={"description": "Always true."})
    received_at = fields.DateTime(required=True, metadata={"description": "RFC 3339, UTC."})
    receipt = fields.Dict(
        required=True,
        metadata={"description": "The answer as it was, of an event or a whole batch.", "additionalProperties": True},
    )


class VerdictSchema(OutputSchema):
    """What became of one event of a batch."""

    event_id = fields.String(metadata={"description": "Absent if the event could not be read"})
    status = fields.String(required=True, validate=validate.OneOf(("stored", "duplicate", "rejected")))
    code = fields.String(metadata={"description": "Of a rejected event, as in an error body; so are the next three"})
    message = fields.String()
    retryable = fields.Boolean()
    details = fields.List(fields.Nested(FaultSchema))


class BatchAnswerTotalsSchema(OutputSchema):
    """How many events of a batch have which status."""

    stored = fields.Integer(required=True, metadata={"minimum": 0})
    duplicate = fields.Integer(required=True, metadata={"minimum": 0})
    rejected = fields.Integer(required=True, metadata={"minimum": 0})


class BatchAnswerSchema(OutputSchema):
    """The 2xx response to a batch."""

    verdicts = fields.List(
        fields.Nested(VerdictSchema), required=True, metadata={"description": "One per event, in order"}
    )
    totals = fields.Nested(BatchAnswerTotalsSchema, required=True)


class EventBatchSchema(InputSchema):
    """The body of a batch that is one JSON object."""

    events = fields.List(
        fields.Nested(EnvelopeSchema),
        required=True,
        validate=validate.Length(1, EVENTS_MAX),
        metadata={"description": "An event that is wrong is rejected in its verdict."},
    )


_CONTENT_ENCODING: Final = openapi.header_parameter(
    "Content-Encoding",
    "How the body is compressed, if it is. Its limit holds for it compressed and expanded.",
    {"type": "string", "enum": ["gzip", "deflate", "zstd", "br"]},
)
_HEADERS: Final = openapi.headers("Idempotent-Replayed", "RateLimit", "RateLimit-Policy")
_REFUSALS: Final = (
    *openapi.BODY_REFUSALS,
    errors.InvalidSourceKey,
    errors.SourceDisabled,
    errors.WorkspaceSuspended,
    errors.OriginNotAllowed,
    errors.AddressNotAllowed,
    errors.IdempotencyInProgress,
    errors.SchemaValidationFailed,
    errors.IdempotencyKeyReused,
    errors.WrongCell,
    errors.RateLimitExceeded,
    errors.StorageUnavailable,
)
_REFUSALS_OF_ONE_EVENT: Final = (
    errors.SourceMismatch,
    errors.EnvironmentMismatch,
    errors.EventTypeNotAllowed,
    errors.DuplicateEvent,
    errors.TimestampOutOfRange,
)
_NOTES: Final = {
    "bad_request": "Not JSON, not what its Content-Encoding says, or a malformed Idempotency-Key.",
    "unsupported_media_type": "Not JSON; Accept-Encoding is there if it was for the Content-Encoding.",
}

_INGEST_DESCRIPTION: Final = """\
Takes one event of the source that the key belongs to. A 2xx means that it is committed, once; anything else means that
nothing was stored, and says why and whether a retry helps.

To retry, repeat the same body with the same Idempotency-Key until there is a 2xx or an error with `retryable: false`.
An `event_id` protects its event too, and for longer: with the same content it is answered `duplicate`, with other
content 409.

Web pages use a key with `allowed_origins`. While a page is left, such a key may come as `?key=` in the query and the
JSON as `text/plain`, which is what `navigator.sendBeacon` can send.
"""
_BATCH_DESCRIPTION: Final = """\
Takes 1 to 1,000 events of the source that the key belongs to, as a JSON object or as lines. The answer has a verdict
for each event, in order; those that are `stored` are committed together. With `atomic=true` one event that is wrong
refuses all.

An Idempotency-Key names the whole batch, and a replay is its whole first answer. An event that was rejected is sent
again, once it is right, in a batch with another key.
"""
_BATCH_EXAMPLE: Final = {
    "verdicts": [
        {"event_id": _EVENT_ID, "status": "stored"},
        {
            "status": "rejected",
            "code": "schema_validation_failed",
            "message": errors.SchemaValidationFailed().message,
            "retryable": False,
            "details": [{"pointer": "/event_type", "message": "Missing data for required field."}],
        },
    ],
    "totals": {"stored": 1, "duplicate": 0, "rejected": 1},
}


def _content(schema: type[Schema], example: Any) -> dict[str, Any]:
    return {JSON: {"schema": schema, "example": example}}


def _receipt(description: str, status: str) -> dict[str, Any]:
    content = _content(ReceiptSchema, {"accepted": True, "event_id": _EVENT_ID, "status": status})
    return {"description": description, "headers": _HEADERS, "content": content}


def _parameters(what: str) -> list[dict[str, Any]]:
    description = (
        f"1 to 255 visible ASCII characters, bare or in double quotes; names this {what} for safe"
        " retries during 24 hours. One with a comma has to be in quotes."
    )
    return [openapi.idempotency_key(description, "demo-request-001"), _CONTENT_ENCODING]


INGEST_OPERATION: Final[dict[str, Any]] = {
    "operationId": "ingestEvent",
    "description": _INGEST_DESCRIPTION,
    "security": [{"sourceKey": []}],
    "parameters": _parameters("event"),
    "requestBody": {"required": True, "content": _content(EnvelopeSchema, _EXAMPLE)},
    "responses": {
        201: _receipt("Committed by this request, or by the first one with this Idempotency-Key", "stored"),
        200: _receipt("This event_id was stored before with the same content", "duplicate"),
    }
    | openapi.refusal_responses((*_REFUSALS, *_REFUSALS_OF_ONE_EVENT), notes=_NOTES),
}

BATCH_OPERATION: Final[dict[str, Any]] = {
    "operationId": "ingestBatch",
    "description": _BATCH_DESCRIPTION,
    "security": [{"sourceKey": []}],
    "parameters": [
        {
            "name": "atomic",
            "in": "query",
            "required": False,
            "description": "`true`: all or nothing; 422 batch_rejected names each event that stands in the way.",
            "schema": {"type": "boolean", "default": False},
        },
        *_parameters("batch"),
    ],
    "requestBody": {
        "required": True,
        "content": _content(EventBatchSchema, {"events": [_EXAMPLE]})
        | {
            NDJSON: {
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "format": "binary",
                    "description": "One event a line, in UTF-8",
                },
                "example": f"{json.dumps(_EXAMPLE)}\n",
            },
        },
    },
    "responses": {
        200: {
            "description": "Committed: every event whose verdict is stored",
            "headers": _HEADERS,
            "content": _content(BatchAnswerSchema, _BATCH_EXAMPLE),
        }
    }
    | openapi.refusal_responses((*_REFUSALS, errors.BatchRejected), notes=_NOTES),
}


def _receipt_operation(operation_id: str, description: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    example = {
        "stored": True,
        "received_at": "2026-06-01T10:00:00.123456Z",
        "receipt": {"accepted": True, "event_id": _EVENT_ID, "status": "stored"},
    }
    return {
        "operationId": operation_id,
        "description": description,
        "security": [{"sourceKey": []}],
        "parameters": list(parameters),
        "responses": {
            200: {
                "description": "It is stored",
                "headers": openapi.headers("Cache-Control", "RateLimit", "RateLimit-Policy"),
                "content": _content(StoredReceiptSchema, example),
            }
        }
        | openapi.refusal_responses(_RECEIPT_REFUSALS),
    }


_RECEIPT_REFUSALS: Final = (
    errors.InvalidSourceKey,
    errors.SourceDisabled,
    errors.WorkspaceSuspended,
    errors.OriginNotAllowed,
    errors.AddressNotAllowed,
    errors.NotFound,
    errors.SchemaValidationFailed,
    errors.WrongCell,
    errors.RateLimitExceeded,
    errors.StorageUnavailable,
)
RECEIPT_OF_EVENT_OPERATION: Final = _receipt_operation(
    "readReceipt",
    "Whether this source has an event with this id: 404 means that none is committed now. Ids are remembered for 90"
    " days at least, or as long as the installation says.",
)
EVENT_ID_IN_PATH: Final = {
    "name": "event_id",
    "in": "path",
    "required": True,
    "description": "As it was sent; a slash in it may be one of the path.",
    "schema": {"type": "string", "pattern": r"^\S{1,128}$"},
    "example": _EVENT_ID,
}
RECEIPT_OF_REQUEST_OPERATION: Final = _receipt_operation(
    "readReceiptOfRequest",
    "The answer that a request of this source with this Idempotency-Key got, for as long as it would be replayed.",
    {
        "name": "idempotency_key",
        "in": "query",
        "required": True,
        "description": "Without the quotes that the header may have.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "demo-request-001",
    },
)
