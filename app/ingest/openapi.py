"""How the ingest operation reads in the OpenAPI document; the road itself does not go through smorest's machinery."""

from typing import Any, Final

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
    "503": "storage_unavailable: nothing was stored; repeat the same request",
}


def _receipt(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _REPLAY_HEADER,
        "content": {"application/json": {"schema": _RECEIPT}},
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
    | {
        status: {
            "description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
        }
        for status, description in _REFUSALS.items()
    },
}
