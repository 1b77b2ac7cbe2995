"""The OpenAPI document: what a generated client needs to know of the control plane."""

import json
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.every_route import named_in
from tests.support.operating import ApiClient
from tests.support.people import Tenant

Operation = dict[str, Any]

# A query names a project, which may be unknown.
_ABOUT_A_PROJECT = {
    "GET /v1/usage",
    "GET /v1/usage/reads",
    "GET /v1/events",
    "POST /v1/events/search",
    "GET /v1/events/export",
    "GET /v1/events/feed",
    "GET /v1/events/counts",
    "POST /v1/exports",
    "POST /v1/replays",
}
_CONDITIONAL = r"(PATCH|DELETE) |POST .*/(enable|disable|revoke|restore|rotate|cancel)$"


@pytest.fixture(name="document")
def _document(client: FlaskClient) -> dict[str, Any]:
    document = client.get("/openapi.json").json
    assert isinstance(document, dict)
    return document


@pytest.fixture(name="operations")
def _operations(document: dict[str, Any]) -> dict[str, Operation]:
    """By method and path, those of the control plane."""
    return {
        f"{method.upper()} {path}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "parameters" and path.startswith("/v1/") and not path.startswith("/v1/events/ingest")
    }


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")


def test_it_is_json_and_no_browser_takes_it_for_anything_else(client: FlaskClient) -> None:
    headers = client.get("/openapi.json").headers

    assert (headers["Content-Type"], headers["X-Content-Type-Options"]) == ("application/json", "nosniff")


def test_it_holds_every_operation_and_no_other(app: Flask, operations: dict[str, Operation]) -> None:
    served = {
        f"{method} {rule.rule.replace('<path:', '{').replace('<', '{').replace('>', '}')}"
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "guard", None)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert set(operations) == served


def test_every_operation_has_an_id_of_its_own_and_a_summary(operations: dict[str, Operation]) -> None:
    ids = [operation["operationId"] for operation in operations.values()]

    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]+)+", each) for each in ids)
    assert all(operation["summary"] for operation in operations.values())


def test_every_operation_says_which_credential_opens_it(app: Flask, operations: dict[str, Operation]) -> None:
    guards = {getattr(view, "guard", None) for view in app.view_functions.values()} - {None}

    assert guards == {"managementToken"}
    assert all(operation["security"] == [{"managementToken": []}] for operation in operations.values())


def test_every_operation_names_its_errors_and_they_have_one_schema(operations: dict[str, Operation]) -> None:
    schemas = {"application/json": "ErrorBody", "application/problem+json": "ProblemDetails"}
    for name, operation in operations.items():
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        expected = {"401", "421", "422", "429", "503"}
        expected |= {"404"} if "{" in name or name in _ABOUT_A_PROJECT else set()
        expected |= set() if name.startswith("GET") else {"400", "408", "411", "413", "415", "501"}
        expected |= {"403"} if operation["x-required-role"] != "auditor" else set()
        expected |= {"416"} if name.endswith("/file") else set()
        expected |= {"412"} if re.match(_CONDITIONAL, name) else set()
        expected |= {"428"} if name.startswith("PATCH") else set()
        assert set(errors) - {"409"} == expected, name
        for answer in errors.values():
            for media_type, schema in schemas.items():
                assert answer["content"][media_type]["schema"] == {"$ref": f"#/components/schemas/{schema}"}, name


def test_whatever_changes_one_object_takes_a_condition(operations: dict[str, Operation]) -> None:
    conditional = {
        name
        for name, operation in operations.items()
        if "If-Match" in [parameter["name"] for parameter in operation.get("parameters", [])]
    }

    assert conditional == {name for name in operations if re.match(_CONDITIONAL, name)}


def test_every_body_has_an_example_that_the_api_takes(
    api: ApiClient, alice: Tenant, operations: dict[str, Operation]
) -> None:
    ids = {
        "project_id": alice.project_id,
        "environment_id": alice.environment_id,
        "source_id": alice.source_id,
        "key_id": alice.key_id,
        "name": "billing",
    }
    taking = {name: operation for name, operation in operations.items() if "requestBody" in operation}
    assert len(taking) == 17

    for name, operation in taking.items():
        method, _, path = name.partition(" ")
        example = operation["requestBody"]["content"]["application/json"]["example"]
        if "cursor" in example:
            page = api.get("/v1/consumers/billing/events").json or {}
            example = example | {"cursor": page["next_cursor"]}
        assert api.call(method, path.format(**ids), named_in(example, ids)).status_code in (200, 201), name


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))

    assert references <= set(document["components"]["schemas"])


def test_the_frameworks_own_error_body_is_not_in_it(document: dict[str, Any]) -> None:
    assert not {"Error", "PaginationMetadata"} & set(document["components"]["schemas"])
    assert "DEFAULT_ERROR" not in json.dumps(document)


def test_a_body_has_no_members_but_the_documented_ones(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("Project", "Environment", "Source", "Key"):
        assert schemas[f"{name}Create"]["additionalProperties"] is False
        assert schemas[f"{name}Change"]["additionalProperties"] is False
        assert "additionalProperties" not in schemas[name]


def test_the_key_itself_is_documented_where_it_is_shown_and_nowhere_else(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    assert [name for name, schema in schemas.items() if "key" in schema.get("properties", {})] == [
        "SourceCreate",
        "IssuedKey",
        "CreatedSource",
    ]


def test_patterns_are_regular_expressions_of_javascript_too(operations: dict[str, Operation]) -> None:
    patterns = re.findall(r'"pattern": "([^"]+)"', json.dumps(operations))

    assert patterns
    assert not [pattern for pattern in patterns if r"\\Z" in pattern or "(?P" in pattern]
