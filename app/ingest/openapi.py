"""How the ingest operation reads in the OpenAPI document; the road itself does not go through smorest's machinery."""

import json
from typing import Any, Final

from app import errors
from app.ingest.batch.body import EVENTS_MAX, NDJSON
from app.ingest.envelope import EnvelopeSchema
from app.web import openapi

_RECEIPT: Final = {
    "type": "object",
    "required": ["accepted", "event_id", "status"],
    "properties": {
        # Neither `const` nor `enum`: generators write "true" for it, and then raise on the true that comes.
        "accepted": {"type": "boolean", "description": "Always true."},
        "event_id": {"type": "string"},
        "status": {"type": "string", "enum": ["stored", "duplicate"]},
    },
}
_EXAMPLE: Final = {
    "event_id": "evt_demo_001",
    "event_type": "payment.failed",
    "source_id": "src_demo",
    "environment": "production",
    "severity": "critical",
    "timestamp": "2026-06-01T10:00:00Z",
    "payload": {"amount": 49.99, "currency": "EUR", "reason": "card_declined"},
}
_CONTENT_ENCODING: Final = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "description": "How the body is compressed, if it is. Its limit holds for it compressed and expanded.",
    "schema": {"type": "string", "enum": ["gzip", "deflate", "zstd", "br"]},
}
_HEADERS: Final = openapi.headers("Idempotent-Replayed", "RateLimit", "RateLimit-Policy")
_REFUSALS: Final = (
    errors.BadRequest,
    errors.BodyTimeout,
    errors.LengthRequired,
    errors.UnsupportedTransferCoding,
    errors.InvalidSourceKey,
    errors.SourceDisabled,
    errors.WorkspaceSuspended,
    errors.OriginNotAllowed,
    errors.AddressNotAllowed,
    errors.IdempotencyInProgress,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.SchemaValidationFailed,
    errors.IdempotencyKeyReused,
    errors.RateLimitExceeded,
    errors.StorageUnavailable,
)
_OF_ONE_EVENT: Final = (
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
_VERDICT: Final = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "event_id": {"type": "string", "description": "Absent if the event could not be read"},
        "status": {"type": "string", "enum": ["stored", "duplicate", "rejected"]},
        "code": {"type": "string", "description": "Of a rejected event, as in an error body; so are the next three"},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "details": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
    },
}
_TOTALS: Final = ("stored", "duplicate", "rejected")
_BATCH_ANSWER: Final = {
    "type": "object",
    "required": ["verdicts", "totals"],
    "properties": {
        "verdicts": {
            "type": "array",
            "description": "One per event, in order",
            "items": {"$ref": "#/components/schemas/Verdict"},
        },
        "totals": {
            "type": "object",
            "required": list(_TOTALS),
            "properties": {status: {"type": "integer", "minimum": 0} for status in _TOTALS},
        },
    },
}

_WHAT_INGEST_DOES: Final = """\
Takes one event of the source that the key belongs to. A 2xx means that it is committed, once; anything else means that
nothing was stored, and says why and whether a retry helps.

To retry, repeat the same body with the same Idempotency-Key until there is a 2xx or an error with `retryable: false`.
An `event_id` protects its event too, and for longer: with the same content it is answered `duplicate`, with other
content 409.

Web pages use a key with `allowed_origins`. While a page is left, such a key may come as `?key=` in the query and the
JSON as `text/plain`, which is what `navigator.sendBeacon` can send.
"""
_WHAT_BATCHES_DO: Final = """\
Takes 1 to 1,000 events of the source that the key belongs to, as a JSON object or as lines. The answer has a verdict
for each event, in order; those that are `stored` are committed together. With `atomic=true` one event that is wrong
refuses all.

An Idempotency-Key names the whole batch, and a replay is its whole first answer. An event that was rejected is sent
again, once it is right, in a batch with another key.
"""
_EVENT_BATCH: Final = {
    "type": "object",
    "required": ["events"],
    "additionalProperties": False,
    "properties": {
        "events": {
            "type": "array",
            "minItems": 1,
            "maxItems": EVENTS_MAX,
            "description": "What is wrong with one is told in its verdict.",
            "items": {"$ref": "#/components/schemas/Envelope"},
        }
    },
}
_BATCH_EXAMPLE: Final = {
    "verdicts": [
        {"event_id": "evt_demo_001", "status": "stored"},
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


def _receipt(description: str, status: str) -> dict[str, Any]:
    example = {"accepted": True, "event_id": "evt_demo_001", "status": status}
    return {
        "description": description,
        "headers": _HEADERS,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Receipt"}, "example": example}},
    }


def _idempotency_key(what: str) -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": f"1 to 255 visible ASCII characters, bare or in double quotes; names this {what} for safe"
        " retries during 24 hours. One with a comma has to be in quotes.",
        "schema": openapi.IDEMPOTENCY_KEY,
        "example": "demo-request-001",
    }


SCHEMAS: Final = {"Receipt": _RECEIPT, "Verdict": _VERDICT, "BatchAnswer": _BATCH_ANSWER, "EventBatch": _EVENT_BATCH}

INGEST_OPERATION: Final[dict[str, Any]] = {
    "operationId": "ingestEvent",
    "description": _WHAT_INGEST_DOES,
    "security": [{"sourceKey": []}],
    "parameters": [
        _idempotency_key("event"),
        _CONTENT_ENCODING,
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": EnvelopeSchema, "example": _EXAMPLE}},
    },
    "responses": {
        "201": _receipt("Committed by this request, or by the first one with this Idempotency-Key", "stored"),
        "200": _receipt("This event_id was stored before with the same content", "duplicate"),
    }
    | openapi.refusal_answers((*_REFUSALS, *_OF_ONE_EVENT), notes=_NOTES),
}

BATCH_OPERATION: Final[dict[str, Any]] = {
    "operationId": "ingestBatch",
    "description": _WHAT_BATCHES_DO,
    "security": [{"sourceKey": []}],
    "parameters": [
        {
            "name": "atomic",
            "in": "query",
            "required": False,
            "description": "`true`: all or nothing; 422 batch_rejected names each event that stands in the way.",
            "schema": {"type": "boolean", "default": False},
        },
        _idempotency_key("batch"),
        _CONTENT_ENCODING,
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/EventBatch"},
                "example": {"events": [_EXAMPLE]},
            },
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
        "200": {
            "description": "Committed: every event whose verdict is stored",
            "headers": _HEADERS,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/BatchAnswer"}, "example": _BATCH_EXAMPLE}
            },
        }
    }
    | openapi.refusal_answers((*_REFUSALS, errors.BatchRejected), notes=_NOTES),
}
