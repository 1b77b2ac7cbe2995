"""The OpenAPI document is complete and right for every operation, also for every future one."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from app.events.consumers import routes as consumers
from app.events.exports import routes as exports
from app.events.replays import routes as replays
from app.management.blueprints import BLUEPRINTS as MANAGEMENT
from app.management.common.openapi import operation_id
from app.management.common.operation import Operation
from app.management.common.operators import Role
from app.web.problems import STATUSES

BLUEPRINTS = (*MANAGEMENT, consumers.blueprint, exports.blueprint, replays.blueprint)
Described = dict[str, Any]

_CODES = {refusal.code: status for refusal, status in STATUSES.items()}
_OPERATIONS: dict[str, Operation] = {
    operation_id(name): operation for blueprint in BLUEPRINTS for name, operation in blueprint.operations.items()
}


@pytest.fixture(scope="module", name="document")
def _document(app: Flask) -> Described:
    document = app.test_client().get("/openapi.json").json
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module", name="described")
def _described(document: Described) -> dict[str, Described]:
    """What is described of every operation, by its id."""
    return {
        operation["operationId"]: operation | {"rule": path, "path_parameters": methods.get("parameters", [])}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }


def _resolved(document: Described, node: Described) -> Described:
    """`node`, or the component that it refers to."""
    if "$ref" not in node:
        return node
    target: Any = document
    for step in node["$ref"].removeprefix("#/").split("/"):
        target = target[step]
    assert isinstance(target, dict)
    return target


def _is_like(document: Described, schema: Described, value: Any) -> list[str]:
    """What is wrong with `value`."""
    resource = DRAFT202012.create_resource(document)
    schema = json.loads(json.dumps(schema).replace('"#/components/', '"urn:document#/components/'))
    validator = Draft202012Validator(schema, registry=Registry[Any]().with_resource("urn:document", resource))
    return [error.message for error in validator.iter_errors(value)]


def _contents(operation: Described) -> Iterator[tuple[str, Described]]:
    """Every media type of an operation's request and responses."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"request {media_type}", content
    for status, response in operation["responses"].items():
        for media_type, content in response.get("content", {}).items():
            yield f"{status} {media_type}", content


def test_it_is_valid(document: Described) -> None:
    validate(document)


def test_it_knows_every_operation_of_the_control_plane(described: dict[str, Described]) -> None:
    assert set(_OPERATIONS) <= set(described)
    assert len(_OPERATIONS) == sum(len(blueprint.operations) for blueprint in BLUEPRINTS), "an id is there twice"


def test_an_operations_id_says_what_it_does_and_to_what(described: dict[str, Described]) -> None:
    """An id names a function in every generated client: to change one breaks them."""
    verbs = {
        "get": {"list", "read", "export", "download"},
        "patch": {"update"},
        "put": {"put"},
        "delete": {"archive", "delete"},
    }
    for name, operation in _OPERATIONS.items():
        verb = re.split("(?=[A-Z])", name)[0]
        assert verb in verbs.get(operation.method.lower(), {verb}), name
        assert operation.method == "POST" or verb in set().union(*verbs.values()), name


def test_every_operation_has_a_summary_and_a_tag(document: Described, described: dict[str, Described]) -> None:
    for name, operation in described.items():
        assert re.fullmatch(r"[A-Z][^\n]{3,120}\.", operation["summary"]), name
        assert operation["tags"], name
    for tag in document["tags"]:
        assert tag["description"], tag
    assert document["servers"]
    assert document["info"]["description"]


def test_every_operation_says_which_role_it_takes(described: dict[str, Described]) -> None:
    for name, operation in _OPERATIONS.items():
        assert described[name]["x-required-role"] == operation.role
        assert f"`{operation.role}`" in described[name]["description"], name
        assert ("for the whole workspace." in described[name]["description"]) == operation.is_for_whole_workspace
        if operation.role is not Role.AUDITOR:
            assert "insufficient_scope" in described[name]["responses"]["403"]["description"]


def test_every_parameter_is_described(described: dict[str, Described]) -> None:
    undescribed = [
        f"{name}: {parameter['name']}"
        for name, operation in described.items()
        for parameter in operation.get("parameters", []) + operation["path_parameters"]
        if not parameter.get("description") and "enum" not in parameter["schema"]
    ]

    assert undescribed == []


def test_every_text_that_a_caller_may_send_is_bounded_in_some_way(document: Described) -> None:
    requests = {
        name: schema
        for name, schema in document["components"]["schemas"].items()
        if schema.get("additionalProperties") is False and name != "Envelope"
    }
    unbounded = [
        f"{name}.{member}"
        for name, schema in requests.items()
        for member, described in schema["properties"].items()
        for text in (described, described.get("items", {}))
        if "string" in text.get("type", ()) and not {"maxLength", "pattern", "enum", "format"} & set(text)
    ]

    assert len(requests) > 8
    assert unbounded == []


def test_every_error_response_has_its_codes_each_with_an_example(
    document: Described, described: dict[str, Described]
) -> None:
    for name, operation in described.items():
        for status, response in operation["responses"].items():
            if status < "400" or "/readyz" in operation["rule"]:
                continue
            assert set(response["content"]) == {"application/json", "application/problem+json"}, name
            examples = response["content"]["application/json"]["examples"]
            assert examples, (name, status)
            for code in examples:
                assert _CODES[code] == int(status), (name, code)
                assert f"`{code}`" in response["description"]


def test_every_error_that_has_an_example_is_one_of_some_operation(document: Described) -> None:
    """A generated client has no model of a refusal that no operation documents."""
    documented = {name for _, node in _nodes(document["paths"]) for name in node.get("examples", {})}

    assert set(document["components"]["examples"]) - documented == set()


def test_every_example_fits_its_schema(document: Described, described: dict[str, Described]) -> None:
    checked = 0
    for name, operation in described.items():
        for place, content in _contents(operation):
            examples = [_resolved(document, each)["value"] for each in content.get("examples", {}).values()]
            examples += [content["example"]] if "example" in content else []
            for example in examples:
                assert _is_like(document, content["schema"], example) == [], (name, place)
            checked += len(examples)
            assert examples or "problem" in place, (name, place)

    assert checked > 100


def test_no_example_has_a_text_that_says_nothing(described: dict[str, Described]) -> None:
    """A member whose name suggests no example says its own in the metadata of its field."""
    vague = [
        (name, place)
        for name, operation in described.items()
        for place, content in _contents(operation)
        if '"text"' in json.dumps(content.get("example"))
    ]

    assert vague == []


def test_every_response_documents_the_headers_that_it_has(described: dict[str, Described]) -> None:
    for name, operation in described.items():
        for status, response in operation["responses"].items():
            headers = set(response.get("headers", {}))
            assert "X-Request-ID" in headers, (name, status)
            if name in _OPERATIONS:
                assert "Cache-Control" in headers, (name, status)
            if status in ("401", "429", "503", "201") and name in _OPERATIONS:
                needed = {"401": "WWW-Authenticate", "201": "Location"}.get(status, "Retry-After")
                assert needed in headers, (name, status)


def test_what_reads_one_object_shows_its_state(described: dict[str, Described]) -> None:
    """Without an ETag no caller could say which state a change is meant for."""
    changed = {operation.rule for operation in _OPERATIONS.values() if operation.takes_condition}
    for name, operation in _OPERATIONS.items():
        if operation.method == "GET" and operation.rule in changed:
            assert "ETag" in described[name]["responses"]["200"]["headers"], name


def test_a_post_that_creates_names_the_view_that_shows_what_it_made() -> None:
    for blueprint in BLUEPRINTS:
        for name, operation in blueprint.operations.items():
            if operation.method != "POST":
                continue
            assert operation.shown_by in blueprint.operations, name
            assert blueprint.operations[operation.shown_by].method == "GET", name


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, Described]]:
    """Every object of the document that lies in no example, with its path."""
    if isinstance(node, dict):
        yield path, node
        for name, inner in node.items():
            if name not in ("example", "examples"):
                yield from _nodes(inner, f"{path}/{name}")
    for n, inner in enumerate(node if isinstance(node, list) else ()):
        yield from _nodes(inner, f"{path}/{n}")


class TestGenerators:
    """What is valid OpenAPI, and yet makes widely used generators produce a broken client."""

    def test_no_schema_is_named_like_the_function_that_makes_another(self, document: Described) -> None:
        """Go's makes `NewKey()` for Key, and `NullableKey` beside it."""
        names = set(document["components"]["schemas"])

        assert names & {f"{prefix}{name}" for name in names for prefix in ("New", "Nullable")} == set()

    def test_no_member_of_a_body_has_a_default(self, document: Described) -> None:
        """openapi-typescript makes such a member required."""
        schemas = document["components"]["schemas"]
        assert [path for path, node in _nodes(schemas) if "default" in node and "type" in node] == []

    def test_no_boolean_is_bound_to_one_value(self, document: Described) -> None:
        """Python's, PHP's and Ruby's compare it with the text `true`, and raise."""
        bound = [
            path for path, node in _nodes(document) if node.get("type") == "boolean" and {"const", "enum"} & {*node}
        ]
        assert bound == []

    def test_every_list_says_what_it_holds(self, document: Described) -> None:
        """Of `items: {}` none can make a list of its own models."""
        assert [path for path, node in _nodes(document) if node.get("type") == "array" and not node["items"]] == []

    def test_an_object_of_anything_says_so(self, document: Described) -> None:
        """Of `additionalProperties: {}` Go makes a map of pointers."""
        assert [path for path, node in _nodes(document) if node.get("additionalProperties") == {}] == []

    def test_lines_are_bytes(self, described: dict[str, Described]) -> None:
        """Or they are read as JSON."""
        lines = [content for each in described.values() for kind, content in _contents(each) if "ndjson" in kind]

        assert len(lines) == 3
        assert {content["schema"]["format"] for content in lines} == {"binary"}

    def test_everything_has_a_description(self, document: Described, described: dict[str, Described]) -> None:
        assert [name for name, operation in described.items() if not operation.get("description")] == []
        assert document["info"]["license"]["identifier"] == "Apache-2.0"


def test_a_schema_stands_once(document: Described) -> None:
    assert json.dumps(document).count('"pointer": {"type"') == 1
