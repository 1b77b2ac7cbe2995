"""How the ingest operation reads in the OpenAPI document; the road itself does not go through smorest's machinery."""

from typing import Any, Final

from app.ingest.batch.body import EVENTS_MAX, NDJSON
from app.ingest.envelope import EnvelopeSchema

_RECEIPT: Final = {
    "type": "object",
    "required": ["accepted", "event_id", "status"],
    "properties": {
        "accepted": {"type": "boolean", "const": True},
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
_REPLAY_HEADER: Final = {
    "Idempotent-Replayed": {
        "description": "`true` if answered from the record.",
        "schema": {"type": "string"},
    }
}
_CONTENT_ENCODING: Final = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "description": "How the body is compressed, if it is. Its limit holds for it compressed and expanded.",
    "schema": {"type": "string", "enum": ["gzip", "deflate", "zstd", "br"]},
}
_REFUSALS: Final = {
    "400": "bad_request: not JSON, not what its Content-Encoding says, or a malformed Idempotency-Key",
    "401": "invalid_source_key",
    "403": "source_disabled, workspace_suspended, source_mismatch or environment_mismatch",
    "409": "duplicate_event or idempotency_in_progress",
    "413": "payload_too_large",
    "415": "unsupported_media_type; Accept-Encoding is there if it was for the Content-Encoding",
    "422": "schema_validation_failed or idempotency_key_reused",
    "429": "rate_limit_exceeded",
    "503": "storage_unavailable: nothing was stored; repeat the same request",
}


_RATE_HEADERS: Final = {
    name: {"description": description, "schema": {"type": "string"}}
    for name, description in {
        "RateLimit-Policy": "The limits of the key and of its workspace: q events in w seconds",
        "RateLimit": "What is left of the nearer one: r events, for t seconds",
    }.items()
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
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "message"],
                "properties": {"pointer": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
_TOTALS: Final = ("stored", "duplicate", "rejected")
_BATCH_ANSWER: Final = {
    "type": "object",
    "required": ["verdicts", "totals"],
    "properties": {
        "verdicts": {"type": "array", "description": "One per event, in order", "items": _VERDICT},
        "totals": {
            "type": "object",
            "required": list(_TOTALS),
            "properties": {status: {"type": "integer"} for status in _TOTALS},
        },
    },
}


def _receipt(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _REPLAY_HEADER | _RATE_HEADERS,
        "content": {"application/json": {"schema": _RECEIPT}},
    }


def _refusals(descriptions: dict[str, str]) -> dict[str, Any]:
    return {
        status: {
            "description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
        }
        for status, description in descriptions.items()
    }


INGEST_OPERATION: Final[dict[str, Any]] = {
    "operationId": "ingestEvent",
    "security": [{"sourceKey": []}],
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "1 to 255 visible ASCII characters; names this event for safe retries during 24 hours.",
            "schema": {"type": "string", "minLength": 1},
        },
        _CONTENT_ENCODING,
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": EnvelopeSchema, "example": _EXAMPLE}},
    },
    "responses": {
        "201": _receipt("Committed by this request, or by the first one with this Idempotency-Key"),
        "200": _receipt("This event_id was stored before with the same content"),
    }
    | _refusals(_REFUSALS),
}

BATCH_OPERATION: Final[dict[str, Any]] = {
    "operationId": "ingestBatch",
    "security": [{"sourceKey": []}],
    "parameters": [
        {
            "name": "atomic",
            "in": "query",
            "required": False,
            "description": "`true`: all or nothing; 422 batch_rejected names each event that stands in the way.",
            "schema": {"type": "boolean", "default": False},
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "1 to 255 visible ASCII characters; names this batch for safe retries during 24 hours.",
            "schema": {"type": "string", "minLength": 1},
        },
        _CONTENT_ENCODING,
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["events"],
                    "additionalProperties": False,
                    "properties": {
                        "events": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": EVENTS_MAX,
                            "description": "Each as in a single request; what is wrong with one is told in its verdict",
                            "items": {},
                        }
                    },
                },
                "example": {"events": [_EXAMPLE]},
            },
            NDJSON: {"schema": {"type": "string", "description": "One event a line"}},
        },
    },
    "responses": {
        "200": {
            "description": "Committed: every event whose verdict is stored",
            "headers": _REPLAY_HEADER | _RATE_HEADERS,
            "content": {"application/json": {"schema": _BATCH_ANSWER}},
        }
    }
    | _refusals(
        _REFUSALS
        | {
            "403": "source_disabled or workspace_suspended",
            "409": "idempotency_in_progress",
            "422": "schema_validation_failed, batch_rejected or idempotency_key_reused",
        }
    ),
}
