"""Every route has a door that says who may come in, and the OpenAPI document tells the truth about it."""

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.problems import STATUSES

# What opens without a credential, each with its reason.
_OPEN = {
    "health.healthz": "asked by whoever runs the process",
    "health.readyz": "asked by whoever runs the process",
    "metrics.metrics_page": "numbers of no workspace; LARIBA_METRICS_TOKEN shuts it",
    "api-docs.openapi_json": "the contract is public",
    "swagger_ui.show": "the contract is public",
}
# Proves its key on the road itself, by authentication.py.
_SOURCE_KEY = {"ingest.ingest_event", "ingest.ingest_batch"}


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
            path = path.replace(f"<{argument}>", "src_demo")
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            response = client.open(path, method=method)
            assert response.status_code == 401, (method, path)
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="lariba"'


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


def test_the_docs_page_needs_nothing_from_the_network(client: FlaskClient) -> None:
    page = client.get("/docs", follow_redirects=True).get_data(as_text=True)

    # The one absolute address is our own, for a login that we do not have.
    assert re.findall(r"https?://[^/\"]+", page) == ["http://localhost"]
    assert '"validatorUrl": null' in page
    for name in re.findall(r'(?:src|href)="(/docs/[^"]+)"', page):
        with client.get(name) as asset:
            assert asset.status_code == 200, name
