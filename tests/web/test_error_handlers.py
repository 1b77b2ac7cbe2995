"""What the framework refuses by itself has our statuses, codes and body."""

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient

from app import errors
from app.web import error_handlers, request_log
from app.web.problems import cause_of
from tests.support.sending import error_of


@pytest.fixture(name="refusing")
def _refusing() -> FlaskClient:
    """A client of an application whose framework refuses with the status in the path."""
    app = Flask(__name__)
    request_log.register(app)
    error_handlers.register(app)
    app.add_url_rule("/<int:status>", view_func=lambda status: abort(status, "Said by the framework."))
    return app.test_client()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, errors.NotFound),
        (413, errors.PayloadTooLarge),
        (415, errors.UnsupportedMediaType),
        (422, errors.SchemaValidationFailed),
    ],
)
def test_a_refusal_that_is_also_ours_is_worded_as_ours(
    refusing: FlaskClient, status: int, kind: type[errors.Refusal]
) -> None:
    refused = refusing.get(f"/{status}")

    assert (refused.status_code, error_of(refused)["code"]) == (status, kind.code)
    assert error_of(refused)["message"] == kind().message


@pytest.mark.parametrize("status", [400, 401, 403, 406, 409, 410, 412, 414, 418, 429, 431])
def test_any_other_refusal_of_the_framework_is_a_bad_request_with_its_reason(
    refusing: FlaskClient, status: int
) -> None:
    """Its own status would promise what only our refusals keep: a 429 a Retry-After, a 401 a challenge."""
    refused = refusing.get(f"/{status}")

    assert (refused.status_code, error_of(refused)["code"]) == (400, "bad_request")
    assert error_of(refused)["message"] == "Said by the framework."


@pytest.mark.parametrize("status", [500, 501, 503])
def test_a_failure_of_the_framework_is_an_internal_error_without_its_reason(refusing: FlaskClient, status: int) -> None:
    failed = refusing.get(f"/{status}")

    assert (failed.status_code, error_of(failed)["code"]) == (500, "internal_error")
    assert "framework" not in failed.text


def test_the_log_gets_no_more_than_500_characters_of_an_inner_cause() -> None:
    refusal = errors.StorageUnavailable()
    refusal.__cause__ = OSError("row by row " * 1_000)

    cause = cause_of(refusal)

    assert cause is not None
    assert cause.startswith("OSError: row by row row")
    assert len(cause) == 500
