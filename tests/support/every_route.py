"""Every operation of the control plane, as it stands in the product: a future one is tested without being named."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

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
    "event_id": "evu",
    "name": "csm",
    "export_id": "exp",
    "replay_id": "rep",
}
UNKNOWN_IDS = {name: f"{kind}_{UNKNOWN_ID}" for name, kind in KINDS.items()}
REQUEST_ID = "the-same-for-all"
# One that a producer has chosen may hold slashes.
_ARGUMENT = re.compile("<(?:path:)?([^>]+)>")


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
        path = _ARGUMENT.sub(lambda name: ids[name[1]], self.operation.rule)
        body = named_in(self.body, ids)
        headers = {"X-Request-ID": REQUEST_ID} | ({"If-Match": "*"} if self.operation.method == "PATCH" else {})
        return api.call(self.operation.method, path, body, **({"headers": headers} | more))


# Of more than one object there can be an id of the same kind in a body.
_ROLE: Final = "target_"


def named_in(body: Any, ids: dict[str, str]) -> Any:
    """The body, with these ids where it names objects."""
    if not isinstance(body, dict):
        return body
    return {
        name: ids.get(name.removeprefix(_ROLE), value) if name.endswith("_id") else named_in(value, ids)
        for name, value in body.items()
    }


def with_q(body: Any, q: str) -> Any:
    """The body, with this query where it has one."""
    if not isinstance(body, dict):
        return body
    return {name: q if name == "q" else with_q(value, q) for name, value in body.items()}


def every_route(app: Flask) -> list[Route]:
    paths = (app.test_client().get("/openapi.json").json or {})["paths"]

    def found() -> Iterator[Route]:
        for rule in app.url_map.iter_rules():
            operation = getattr(app.view_functions[rule.endpoint], "operation", None)
            if operation is None:
                continue
            documented = paths[_ARGUMENT.sub(r"{\1}", rule.rule)][operation.method.lower()]
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
