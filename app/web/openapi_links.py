"""The links of the OpenAPI document: what one response shows is a parameter of other operations.

A response that shows a new object leads to every operation on that object, and a list to those on its first item. Both
follow from the paths: `/v1/projects` holds the objects of `/v1/projects/{project_id}`.
"""

import re
from typing import Any, Final

_PARAMETER: Final = re.compile(r"{([^}]+)}")
_ITEM: Final = re.compile(r".*/([a-z]+)/{([^}]+)}")


def add_links(document: dict[str, Any]) -> None:
    """Add `links` to the responses of `document`."""
    paths: dict[str, dict[str, Any]] = document["paths"]
    # A source key reads receipts by the producer's id, which is no id of ours.
    items = filter(None, (_ITEM.fullmatch(path) for path in paths if "/ingest/" not in path))
    parameters = {item[1]: item[2] for item in items}
    for path, methods in paths.items():
        if "201" in (responses := methods.get("post", {}).get("responses", {})) and (
            parameter := _made_by(path, parameters)
        ):
            responses["201"]["links"] = _links(paths, parameter, "$response.body#/id", "$response.header.ETag")
        if "get" in methods and (parameter := parameters.get(path.rpartition("/")[2])):
            methods["get"]["responses"]["200"]["links"] = _links(
                paths, parameter, f"$response.body#/data/0/{_member(parameter)}", "*"
            )


def _made_by(path: str, parameters: dict[str, str]) -> str | None:
    """The parameter that names what a POST to `path` makes: `keys/{key_id}/rotate` makes a key, as `keys` does."""
    last = path.rpartition("/")[2]
    if last in parameters:
        return parameters[last]
    owner = _ITEM.fullmatch(path.rpartition("/")[0])
    return owner[2] if owner else None


def _member(parameter: str) -> str:
    """What a path names an object by: its id, or its `name`."""
    return parameter.rpartition("_")[2]


def _links(paths: dict[str, dict[str, Any]], parameter: str, public_id: str, etag: str) -> dict[str, Any]:
    """Links to every operation that takes `parameter` and no other one in its path; `public_id` and `etag` are runtime
    expressions.
    """
    return {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {parameter: public_id} | ({"If-Match": etag} if _needs_condition(operation) else {}),
        }
        for path, methods in paths.items()
        if _PARAMETER.findall(path) == [parameter] and "/ingest/" not in path
        for method, operation in methods.items()
        if method != "parameters"
    }


def _needs_condition(operation: dict[str, Any]) -> bool:
    return any(each["name"] == "If-Match" and each["required"] for each in operation.get("parameters", []))
