"""Says whether two requests with one Idempotency-Key, or two events with one event id, have the same content."""

import hashlib
from typing import Any

import msgspec


def fingerprint(value: Any) -> bytes:
    """SHA-256 of a JSON value in one canonical form: equal for equal values, whatever their order, space or notation.

    Members sorted by name, no white space, numbers in one notation (1, 1.0 and 10e-1 are the same number; see
    json_numbers.read_number).
    """
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).digest()


def fingerprint_of_bytes(content: bytes) -> bytes:
    """SHA-256 of what cannot be read as a value: then only the same bytes are the same content."""
    return hashlib.sha256(content).digest()
