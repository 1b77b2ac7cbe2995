"""The links of the OpenAPI document: from what a response shows to every operation that takes it."""

import re
from typing import Any

import pytest
from flask import Flask

from app.events.consumers import routes as consumers
from app.events.exports import routes as exports
from app.events.replays import routes as replays
from app.management.blueprints import BLUEPRINTS as MANAGEMENT
from app.management.common.openapi import operation_id
from app.web.openapi_links import add_links

BLUEPRINTS = (*MANAGEMENT, exports.blueprint, replays.blueprint)
Described = dict[str, dict[str, Any]]

_OPERATIONS = {
    operation_id(name): operation for blueprint in BLUEPRINTS for name, operation in blueprint.operations.items()
}


@pytest.fixture(scope="module", name="served")
def _served(app: Flask) -> Described:
    """Every operation of the served document with the parameters of its path, by its id."""
    document = app.test_client().get("/openapi.json").json
    assert isinstance(document, dict)
    return {
        operation["operationId"]: operation | {"path_parameters": methods.get("parameters", [])}
        for methods in document["paths"].values()
        for method, operation in methods.items()
        if method != "parameters"
    }


def _links_of(operation: dict[str, Any]) -> dict[str, Any]:
    (links,) = [response["links"] for response in operation["responses"].values() if "links" in response]
    assert isinstance(links, dict)
    return links


def _is_page(operation: dict[str, Any]) -> bool:
    content = operation["responses"].get("200", {}).get("content", {})
    return str(content.get("application/json", {}).get("schema", {}).get("$ref", "")).endswith("Page")


def test_every_response_that_shows_a_new_object_or_a_list_leads_on_and_no_other_does(served: Described) -> None:
    leading = {name for name, each in served.items() if any("links" in it for it in each["responses"].values())}
    making = {name for name in _OPERATIONS if "201" in served[name]["responses"]}
    listing = {name for name, each in served.items() if _is_page(each)}

    assert leading == making | listing | {"searchEvents", "readConsumerEvents"}
    assert (len(making), len(listing)) == (8, 11)


def test_a_new_object_leads_to_every_operation_on_it(served: Described) -> None:
    for name, operation in _OPERATIONS.items():
        if "201" not in served[name]["responses"]:
            continue
        (parameter,) = re.findall("<([^>]+)>", next(it for it in _rules() if it[0] == operation.shown_by)[1])
        taking = {operation_id(view) for view, rule in _rules() if re.findall("<([^>]+)>", rule) == [parameter]}
        links = _links_of(served[name])
        assert set(links) == taking, name
        assert {each["parameters"][parameter] for each in links.values()} == {"$response.body#/id"}


def test_a_list_leads_to_every_operation_on_its_first_item(served: Described) -> None:
    for name, operation in served.items():
        if not _is_page(operation):
            continue
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        reading = f"read{schema.rpartition('/')[2].removesuffix('Page')}"
        links = _links_of(operation)
        # A consumer is known by its name.
        member = "name" if reading == "readConsumer" else "id"
        assert set(links[reading]["parameters"].values()) == {f"$response.body#/data/0/{member}"}, name
        (parameter,) = links[reading]["parameters"]
        taking = {operation_id(view) for view, rule in _rules() if re.findall("<([^>]+)>", rule) == [parameter]}
        assert set(links) == taking, name


def test_a_link_gives_every_parameter_that_its_operation_requires(served: Described) -> None:
    for name, operation in served.items():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                target = served[link["operationId"]]
                declared = target["path_parameters"] + target.get("parameters", [])
                required = {each["name"] for each in declared if each["required"]}
                assert set(link["parameters"]) == required, (name, link)


def test_what_leads_nowhere_gets_no_links() -> None:
    document: dict[str, Any] = {"paths": {"/v1/events/ingest": {"post": {"responses": {"201": {}}}}}}

    add_links(document)

    assert "links" not in str(document)


def _rules() -> list[tuple[str, str]]:
    # What PUT has made leads nowhere: its caller knows the name.
    blueprints = [*BLUEPRINTS, consumers.blueprint]
    return [(name, each.rule) for blueprint in blueprints for name, each in blueprint.operations.items()]
