"""Conventions of HTTP: links, HEAD, OPTIONS, 405, addresses that are nearly right, and Location."""

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from tests.support.operating import ApiClient
from tests.support.people import Tenant


def _links(header: str) -> dict[str, str]:
    """The addresses of a Link header by relation."""
    return {relation: address for address, relation in re.findall(r'<([^>]*)>; rel="([a-z]+)"', header)}


def _rules(app: Flask, method: str) -> list[Rule]:
    return [rule for rule in app.url_map.iter_rules() if method in (rule.methods or set())]


def _path(rule: Rule, tenant: Tenant) -> str:
    """The rule's path on what the tenant has; what a test does not know is not there."""
    ids = {name: str(getattr(tenant, name, "nothing_there")) for name in rule.arguments}
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda match: ids[match[1]], rule.rule)


class TestLink:
    def test_a_page_leads_to_the_next_one_with_the_same_query_and_to_the_first(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        for name in "abc":
            api.made(f"/v1/environments/{alice.environment_id}/sources", {"name": name, "type": "erp"})
        seen: list[str] = []
        address = "/v1/sources?limit=2&type=erp"
        while address:
            page = api.call("GET", address)
            assert page.json is not None
            seen += [source["name"] for source in page.json["data"]]
            links = _links(page.headers["Link"])
            assert links["first"] == "/v1/sources?limit=2&type=erp"
            assert ("next" in links) == (page.json["next_cursor"] is not None)
            address = links.get("next", "")

        assert seen == ["c", "b", "a"]

    def test_a_list_that_was_asked_for_without_a_query_has_its_bare_path_as_first(self, api: ApiClient) -> None:
        assert api.get("/v1/projects").headers["Link"] == '</v1/projects>; rel="first"'

    def test_every_list_has_it(self, app: Flask, api: ApiClient, alice: Tenant) -> None:
        pages = [api.get(_path(rule, alice)) for rule in _rules(app, "GET") if rule.rule.startswith("/v1/")]
        lists = [page for page in pages if page.status_code == 200 and page.json and "next_cursor" in page.json]

        assert len(lists) >= 6
        assert all("first" in _links(page.headers["Link"]) for page in lists)


def test_head_answers_as_get_without_a_body_everywhere(app: Flask, api: ApiClient, alice: Tenant) -> None:
    for rule in _rules(app, "GET"):
        path = _path(rule, alice)
        # Being asked is counted, so the next page of metrics may be longer.
        changing = {"X-Request-ID", "Date", *(["Content-Length"] if path == "/metrics" else [])}
        get, head = api.call("GET", path), api.call("HEAD", path)
        assert head.status_code == get.status_code, path
        assert head.data == b"", path
        assert {name: value for name, value in head.headers.items() if name not in changing} == {
            name: value for name, value in get.headers.items() if name not in changing
        }, path


def test_options_lists_the_methods_and_says_nothing_more(app: Flask, client: FlaskClient, alice: Tenant) -> None:
    for rule in app.url_map.iter_rules():
        answer = client.open(_path(rule, alice), method="OPTIONS")
        assert (answer.status_code, answer.data) == (204, b""), rule
        assert not {"Content-Type", "Content-Length"} & set(answer.headers.keys()), rule
        assert (rule.methods or set()) <= set(answer.headers["Allow"].split(", ")), rule


def test_options_of_a_path_that_does_not_exist_is_a_404(client: FlaskClient) -> None:
    assert client.options("/v1/nothing").status_code == 404


@pytest.mark.parametrize("method", ["PUT", "TRACE", "PROPFIND"])
def test_a_method_that_a_path_does_not_have_is_a_405_with_those_it_has(api: ApiClient, method: str) -> None:
    refused = api.call(method, "/v1/projects")

    assert refused.status_code == 405
    assert set(refused.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_nearly_right_addresses_are_not_there(app: Flask, api: ApiClient, alice: Tenant) -> None:
    for rule in _rules(app, "GET"):
        path = _path(rule, alice)
        if rule.endpoint in ("pages.front", "pages.docs"):
            continue  # served with and without a slash
        if "<path:" in rule.rule:
            continue  # an id that a producer has chosen may end with slashes
        wrong = [f"{path}/", f"/{path}", f"{path}//", path.replace("/v1/", "/v1//"), path.replace("/v1/", "/V1/")]
        for address in set(wrong) - {path}:
            assert api.call("GET", address).status_code == 404, address


def test_what_is_created_is_found_under_its_location(api: ApiClient, alice: Tenant) -> None:
    creations: list[tuple[str, Any]] = [
        ("/v1/projects", {"name": "other"}),
        (f"/v1/projects/{alice.project_id}/environments", {"name": "other"}),
        (f"/v1/environments/{alice.environment_id}/sources", {"name": "other", "type": "erp"}),
        (f"/v1/sources/{alice.source_id}/keys", None),
        ("/v1/tokens", {"role": "auditor"}),
    ]
    for path, body in creations:
        created = api.post(path, body)
        assert created.status_code == 201, path
        shown = api.get(created.headers["Location"])
        assert shown.status_code == 200
        assert created.json is not None
        assert shown.json is not None
        assert shown.json["id"] == created.json["id"]
        assert shown.headers["ETag"] == created.headers["ETag"]
