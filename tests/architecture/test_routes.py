"""Every route has a guard or a reason to have none, and the OpenAPI document says what the route does."""

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.management.common.operation import Operation
from app.management.common.operators import Role
from app.web.problems import STATUSES

# Routes without a credential, each with its reason.
_OPEN = {
    "health.healthz": "for load balancers and supervisors",
    "health.readyz": "for load balancers and supervisors",
    "metrics.metrics_page": "numbers of no workspace; LARIBA_METRICS_TOKEN protects it",
    "api-docs.openapi_json": "the API's description is public",
    "pages.front": "names the product",
    "pages.docs": "the API's description is public",
    "pages.docs_asset": "the API's description is public",
}
# Ingest verifies its key itself, in authentication.py.
_SOURCE_KEY = {
    "ingest.ingest_event",
    "ingest.ingest_batch",
    "ingest.read_receipt",
    "ingest.read_receipt_of_request",
}
_STATUSES = {refusal.code: str(status) for refusal, status in STATUSES.items()}
# Changes that can conflict: with a name that is taken, with a state that does not allow them, or, if repeated, with an
# object that is archived by now.
_CAN_CONFLICT = re.compile(
    r"POST /v1/(projects|projects/<project_id>/environments|environments/<environment_id>/sources)"
    r"|POST .*/(restore|rotate)|PATCH /v1/(projects|environments|sources|keys)/.*"
    # With another project or query; with a seek since the cursor was given.
    r"|PUT /v1/consumers/<name>|GET /v1/consumers/<name>/events|POST /v1/consumers/<name>/(commit|seek)"
    # With a database that was restored, and does not know the place.
    r"|GET /v1/events/feed"
    r"|POST /v1/exports|GET /v1/exports/<export_id>/file|POST /v1/replays"
)
_ACTS = re.compile(r"POST .*/(enable|disable|revoke|restore|rotate|cancel)")
_WITH_A_BODY = (
    *("bad_request", "request_timeout", "length_required", "payload_too_large", "unsupported_media_type"),
    "unsupported_transfer_coding",
)
_ISSUES_A_CREDENTIAL = re.compile(r"POST (/v1/tokens|.*/sources|.*/keys|.*/rotate)")


@pytest.fixture(scope="module", name="document")
def _document(app: Flask) -> dict[str, Any]:
    document = app.test_client().get("/openapi.json").json
    assert isinstance(document, dict)
    return document


def test_every_route_is_guarded_or_open_for_a_reason(app: Flask) -> None:
    unguarded = {
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "guard", None) != "managementToken"
    }

    assert unguarded == set(_OPEN) | _SOURCE_KEY


def test_every_guarded_route_refuses_a_caller_without_a_token(app: Flask, client: FlaskClient) -> None:
    guarded = [rule for rule in app.url_map.iter_rules() if hasattr(app.view_functions[rule.endpoint], "guard")]
    assert len(guarded) > 20
    for rule in guarded:
        path = rule.rule
        for argument in rule.arguments:
            path = re.sub(f"<(path:)?{argument}>", "src_demo", path)
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            response = client.open(path, method=method)
            assert response.status_code == 401, (method, path)
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="lariba"'


# What docs/management.md reserves for admins. A developer may make every other change.
_FOR_ADMINS = {
    "PATCH /v1/workspace",
    "POST /v1/projects",
    "PATCH /v1/projects/<project_id>",
    "DELETE /v1/projects/<project_id>",
    "POST /v1/projects/<project_id>/restore",
    "DELETE /v1/environments/<environment_id>",
    "POST /v1/environments/<environment_id>/restore",
    "POST /v1/tokens",
    "POST /v1/tokens/<token_id>/revoke",
}
# They take a query of a project, which may be unknown, and may have to read too much for it.
_QUERIES = {
    "GET /v1/events",
    "POST /v1/events/search",
    "GET /v1/events/export",
    "GET /v1/events/feed",
    "GET /v1/events/counts",
    "GET /v1/consumers/<name>/events",
    "POST /v1/replays",
}
_USAGE = {"GET /v1/usage", "GET /v1/usage/reads"}
_FOR_THE_WHOLE_WORKSPACE = {"PATCH /v1/workspace", "POST /v1/projects"}


def _operations(app: Flask) -> list[Operation]:
    found = [getattr(view, "operation", None) for view in app.view_functions.values() if hasattr(view, "guard")]
    assert len(found) >= 35
    operations = [operation for operation in found if isinstance(operation, Operation)]
    assert len(operations) == len(found), "a guarded view declares nothing of itself"
    return operations


def _refusals_of(operation: Operation) -> set[str]:
    """The codes with which an operation of the control plane may refuse, by what it does: said here once more."""
    name = f"{operation.method} {operation.rule}"
    is_search = name in _QUERIES
    is_of = {
        "not_found": "<" in operation.rule or name in _USAGE or name == "POST /v1/exports" or is_search,
        "not_configured": name == "POST /v1/exports",
        "range_not_satisfiable": name == "GET /v1/exports/<export_id>/file",
        "query_too_broad": is_search,
        "insufficient_scope": operation.role is not Role.AUDITOR or operation.is_for_whole_workspace,
        "precondition_required": operation.method == "PATCH",
        "precondition_failed": operation.method in ("PATCH", "DELETE") or _ACTS.fullmatch(name),
        "conflict": _CAN_CONFLICT.fullmatch(name),
        "credential_already_shown": _ISSUES_A_CREDENTIAL.fullmatch(name),
    }
    is_of |= dict.fromkeys(_WITH_A_BODY, operation.method != "GET")
    is_of |= dict.fromkeys(
        ("idempotency_key_reused", "idempotency_in_progress"), operation.method == "POST" and operation.is_change
    )
    always = (
        "invalid_management_token",
        "wrong_cell",
        "schema_validation_failed",
        "rate_limit_exceeded",
        "storage_unavailable",
    )
    is_of |= dict.fromkeys(always, True)
    return {code for code, is_so in is_of.items() if is_so}


def test_every_guarded_route_takes_the_role_that_is_promised(app: Flask) -> None:
    """A role that is lowered by mistake would pass every test that asks the route itself what it takes."""
    roles = {f"{operation.method} {operation.rule}": operation.role for operation in _operations(app)}
    whole = {f"{each.method} {each.rule}" for each in _operations(app) if each.is_for_whole_workspace}

    assert {name for name, role in roles.items() if role is Role.ADMIN} == _FOR_ADMINS
    assert {name for name, role in roles.items() if role is Role.AUDITOR} == {
        f"{each.method} {each.rule}" for each in _operations(app) if not each.is_change
    }
    assert set(roles.values()) == {Role.AUDITOR, Role.DEVELOPER, Role.ADMIN}
    assert whole == _FOR_THE_WHOLE_WORKSPACE


def test_every_guarded_route_declares_its_role_and_every_code_with_which_it_may_refuse(
    app: Flask, document: dict[str, Any]
) -> None:
    for operation in _operations(app):
        path = operation.rule.replace("<", "{").replace(">", "}")
        documented = document["paths"][path][operation.method.lower()]
        assert documented["x-required-role"] == Role(operation.role), path
        codes = {
            (code, status)
            for status, response in documented["responses"].items()
            if status >= "400"
            for code in response["content"]["application/json"]["examples"]
        }
        assert codes == {(code, _STATUSES[code]) for code in _refusals_of(operation)}, (operation.method, path)


def test_every_operation_has_an_id_a_summary_and_a_credential(document: dict[str, Any]) -> None:
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    ]
    ids = [operation["operationId"] for _, _, operation in operations]
    assert len(ids) == len(set(ids))
    for method, path, operation in operations:
        assert operation["summary"], (method, path)
        assert operation["security"] or path in ("/healthz", "/readyz"), (method, path)


def test_every_documented_error_is_one_of_ours(document: dict[str, Any]) -> None:
    statuses = {str(status) for status in STATUSES.values()}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "parameters":
                continue
            documented = set(operation["responses"])
            assert "default" not in documented, (method, path)
            assert {status for status in documented if status >= "400"} <= statuses | {"503"}, (method, path)
