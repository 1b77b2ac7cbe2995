"""Every operation of the control plane, as it stands in the product: a future one is tested without being named."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from app.management.common.operation import Operation
from tests.support.operating import UNKNOWN_ID, ApiClient

# Prefixes of public ids by the name that a path has for them.
KINDS = {
    "project_id": "prj",
    "environment_id": "env",
    "source_id": "src",
    "key_id": "key",
    "token_id": "tok",
    "entry_id": "aud",
}
UNKNOWN_IDS = {name: f"{kind}_{UNKNOWN_ID}" for name, kind in KINDS.items()}
REQUEST_ID = "the-same-for-all"


@dataclass(frozen=True, slots=True)
class Route:
    operation: Operation
    names: frozenset[str]
    """Of the ids in its path."""
    body: Any
    """One that it takes, out of the OpenAPI document."""
    queries: tuple[str, ...]
    """The names of its query parameters."""

    def __str__(self) -> str:
        return f"{self.operation.method} {self.operation.rule}"

    def ask(self, api: ApiClient, ids: dict[str, str] = UNKNOWN_IDS, **more: Any) -> TestResponse:
        path = self.operation.rule
        for name in self.names:
            path = path.replace(f"<{name}>", ids[name])
        headers = {"X-Request-ID": REQUEST_ID} | ({"If-Match": "*"} if self.operation.method == "PATCH" else {})
        return api.call(self.operation.method, path, self.body, **({"headers": headers} | more))


def every_route(app: Flask) -> list[Route]:
    paths = (app.test_client().get("/openapi.json").json or {})["paths"]

    def found() -> Iterator[Route]:
        for rule in app.url_map.iter_rules():
            operation = getattr(app.view_functions[rule.endpoint], "operation", None)
            if operation is None:
                continue
            documented = paths[rule.rule.replace("<", "{").replace(">", "}")][operation.method.lower()]
            content = documented.get("requestBody", {}).get("content", {})
            parameters = documented.get("parameters", [])
            yield Route(
                operation=operation,
                names=frozenset(rule.arguments),
                body=content.get("application/json", {}).get("example"),
                queries=tuple(each["name"] for each in parameters if each["in"] == "query"),
            )

    routes = list(found())
    assert len(routes) >= 30
    return routes


def all_it_says(response: TestResponse) -> tuple[int, bytes, dict[str, str]]:
    return response.status_code, response.data, dict(response.headers)
