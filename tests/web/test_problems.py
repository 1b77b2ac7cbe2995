"""One refusal, one response: the same bytes for every entry point, without a framework."""

import json
from typing import Any

import pytest

from app import errors
from app.errors import Fault, Refusal
from app.web.problems import cause_of, render


def rendered(refusal: Refusal, accept: str | None = None) -> tuple[int, dict[str, str], dict[str, Any]]:
    status, headers, body = render(refusal, accept, "req_1")
    assert len(dict(headers)) == len(headers)
    assert dict(headers)["Content-Length"] == str(len(body))
    return status, dict(headers), json.loads(body)


def test_a_refusal_becomes_status_headers_and_the_error_body() -> None:
    status, headers, body = rendered(errors.SchemaValidationFailed(faults=(Fault("/event_type", "Missing."),)))

    assert status == 422
    assert (headers["Content-Type"], headers["X-Request-ID"]) == ("application/json", "req_1")
    assert body == {
        "error": {
            "code": "schema_validation_failed",
            "message": errors.SchemaValidationFailed().message,
            "request_id": "req_1",
            "retryable": False,
            "details": [{"pointer": "/event_type", "message": "Missing."}],
        }
    }


def test_a_fault_within_a_query_has_its_place_and_what_may_have_been_meant() -> None:
    fault = Fault("/q", "There is no field sevrity.", 5, 7, ("severity",))
    missing = Fault("/q", "A value must follow.", 0, 0)

    _, _, body = rendered(errors.SchemaValidationFailed(faults=(fault, missing)))

    assert body["error"]["details"] == [
        {
            "pointer": "/q",
            "message": "There is no field sevrity.",
            "offset": 5,
            "length": 7,
            "suggestions": ["severity"],
        },
        {"pointer": "/q", "message": "A value must follow.", "offset": 0, "length": 0},
    ]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("application/problem+json", "application/problem+json"),
        ("application/problem+json, application/json;q=0.9", "application/problem+json"),
        ("application/problem+json;q=0.1, application/json", "application/json"),
    ],
)
def test_the_accept_header_chooses_between_the_two_error_bodies(accept: str | None, media_type: str) -> None:
    _, headers, body = rendered(errors.NotFound(), accept)

    assert headers["Content-Type"] == media_type
    assert ("error" in body) == (media_type == "application/json")


def test_problem_details_have_the_same_facts() -> None:
    _, _, body = rendered(errors.StorageUnavailable(), "application/problem+json")

    assert body == {
        "type": "urn:lariba:error:storage_unavailable",
        "title": "storage_unavailable",
        "status": 503,
        "detail": errors.StorageUnavailable().message,
        "code": "storage_unavailable",
        "request_id": "req_1",
        "retryable": True,
    }


def test_a_refusal_brings_its_own_headers() -> None:
    limited = errors.RateLimitExceeded()
    limited.retry_after_seconds, limited.headers = 7, {"RateLimit": '"key";r=0;t=7'}

    assert rendered(limited)[1].items() >= {"Retry-After": "7", "RateLimit": '"key";r=0;t=7'}.items()
    assert rendered(errors.InvalidSourceKey())[1]["WWW-Authenticate"] == 'ApiKey realm="lariba"'
    assert rendered(errors.UnsupportedContentEncoding())[1]["Accept-Encoding"] == "gzip, deflate, zstd, br"


def test_no_error_body_lists_more_than_a_hundred_faults() -> None:
    faults = tuple(Fault(f"/{n}", "Missing.") for n in range(150))

    assert len(rendered(errors.SchemaValidationFailed(faults=faults))[2]["error"]["details"]) == 100


def test_the_inner_cause_is_one_line_for_the_log() -> None:
    refusal = errors.StorageUnavailable()
    assert cause_of(refusal) is None
    refusal.__cause__ = OSError("connection\n  lost")

    assert cause_of(refusal) == "OSError: connection lost"


def test_the_inner_cause_holds_no_secret_also_where_it_is_cut() -> None:
    refusal = errors.StorageUnavailable()
    refusal.__cause__ = OSError("x" * 450 + " postgresql://app:pass-word-" + "p" * 60 + "@db/lariba failed")

    cause = cause_of(refusal)

    assert cause is not None
    assert "pass-word" not in cause
    assert "postgresql://app:" in cause
