"""The links that the fuzzer follows: from what a response shows to every operation that takes it."""

from typing import Any

import pytest
from flask import Flask

from app.management.blueprints import BLUEPRINTS
from app.management.common.openapi import operation_id
from contract.links import add_links

Linked = dict[str, dict[str, Any]]

_OPERATIONS = {
    operation_id(name): operation for blueprint in BLUEPRINTS for name, operation in blueprint.operations.items()
}


@pytest.fixture(scope="module", name="linked")
def _linked(app: Flask) -> Linked:
    """Every operation of the document with its links, by its id."""
    document = app.test_client().get("/openapi.json").json
    assert isinstance(document, dict)
    add_links(document)
    return {
        operation["operationId"]: operation | {"path_parameters": methods.get("parameters", [])}
        for methods in document["paths"].values()
        for method, operation in methods.items()
        if method != "parameters"
    }


def test_what_is_made_leads_to_what_can_be_done_with_it(linked: Linked) -> None:
    for name, operation in _OPERATIONS.items():
        response = linked[name]["responses"].get("201")
        if response is None:
            continue
        assert operation.shown_by is not None
        links = response["links"]
        assert operation_id(operation.shown_by) in links, name
        for link in links.values():
            parameters = {each["name"] for each in linked[link["operationId"]]["path_parameters"]}
            parameters |= {each["name"] for each in linked[link["operationId"]].get("parameters", [])}
            assert set(link["parameters"]) <= parameters, (name, link)


def test_a_list_leads_to_what_can_be_done_with_its_first_item(linked: Linked) -> None:
    leading = 0
    for name, operation in linked.items():
        response = operation["responses"].get("200", {})
        schema = str(response.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", ""))
        if schema.endswith("Page"):
            reading = f"read{schema.rpartition('/')[2].removesuffix('Page')}"
            assert set(response["links"][reading]["parameters"].values()) == {"$response.body#/data/0/id"}, name
            leading += 1
    assert leading >= 8
