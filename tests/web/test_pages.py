"""The pages for people: what they show, and what they let no other site do with them."""

import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.people import Tenant
from tests.support.sending import error_of

_BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
_PAGES = ["/", "/docs", "/docs/"]


@pytest.mark.parametrize("path", _PAGES)
def test_a_page_runs_no_script_but_ours_and_no_other_site_may_frame_it(client: FlaskClient, path: str) -> None:
    page = client.get(path, headers=_BROWSER)
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))

    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", _PAGES)
def test_a_page_needs_nothing_inline_and_nothing_from_elsewhere(client: FlaskClient, path: str) -> None:
    page = client.get(path, headers=_BROWSER).get_data(as_text=True)

    assert not re.findall(r"<script(?![^>]* src=)|<style|style=|\son[a-z]+=|https?://", page)
    assets = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page)
    assert assets
    for name in assets:
        asset = client.get(name)
        assert (asset.status_code, asset.headers["X-Content-Type-Options"]) == (200, "nosniff"), name


def test_a_page_says_the_same_whatever_host_it_is_asked_by(client: FlaskClient) -> None:
    for path in [*_PAGES, "/openapi.json"]:
        page = client.get(path, headers=_BROWSER | {"Host": "evil.example"})

        assert page.status_code == 200
        assert b"evil.example" not in page.data
        assert "Location" not in page.headers


def test_the_docs_keep_no_credential(checkout: Path) -> None:
    script = (checkout / "app/web/static/docs.js").read_text()

    assert "persistAuthorization: false" in script
    assert "validatorUrl: null" in script
    assert "localStorage.set" not in script


def test_the_docs_say_where_the_key_goes(client: FlaskClient) -> None:
    page = client.get("/docs").get_data(as_text=True)

    assert {"sourceKey", "managementToken"} <= set(re.findall(r"<code>(\w+)</code>", page))


def test_the_docs_begin_with_ingest_and_end_with_what_machines_ask(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    tags = [tag["name"] for tag in document["tags"]]
    paths = list(document["paths"])

    assert (tags[0], tags[-2:]) == ("ingest", ["metrics", "health"])
    assert paths[0] == "/v1/events/ingest"
    assert paths[-3:] == ["/metrics", "/healthz", "/readyz"]


def test_what_is_no_part_of_a_page_is_not_served(client: FlaskClient) -> None:
    for name in ("docs.html", "nothing.js", "..%2fpages.py", "oauth2-redirect.html"):
        assert error_of(client.get(f"/docs/{name}"))["code"] == "not_found"


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html"])
def test_the_front_is_json_for_all_but_browsers(client: FlaskClient, accept: str | None) -> None:
    answer = client.get("/", headers={"Accept": accept} if accept else {})

    assert (answer.status_code, answer.mimetype, answer.headers["Vary"]) == (200, "application/json", "Accept")
    assert answer.json is not None
    assert "X-API-Key" in answer.json["send_an_event"]["header"]
    assert answer.json["send_an_event"]["where_the_key_is"]
    for path in (answer.json["docs"], answer.json["openapi"], *answer.json["health"].values()):
        assert client.get(path).status_code == 200


def test_the_front_for_browsers_leads_to_the_docs_and_says_where_the_key_is(client: FlaskClient) -> None:
    page = client.get("/", headers=_BROWSER).get_data(as_text=True)

    for path in ("/docs", "/openapi.json", "/healthz", "/readyz"):
        assert f'href="{path}"' in page
    assert "Where the key is" in page


def test_every_404_names_the_docs(client: FlaskClient, alice: Tenant) -> None:
    missing = client.get("/v1/sources/src_missing", headers=alice.bearer)
    for answer in (client.get("/nothing"), client.post("/v1/event"), missing):
        assert error_of(answer)["code"] == "not_found"
        assert "/docs" in error_of(answer)["message"]


def test_every_405_names_the_methods_that_the_address_takes(client: FlaskClient) -> None:
    for answer in (client.put("/v1/events/ingest"), client.delete("/"), client.put("/v1/projects")):
        allowed = answer.headers["Allow"]

        assert error_of(answer)["code"] == "method_not_allowed"
        assert allowed in error_of(answer)["message"]
    assert allowed == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize("host", ["evil.example", "localhost"])
def test_no_address_redirects(app: Flask, client: FlaskClient, alice: Tenant, host: str) -> None:
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?\w+>", alice.source_id, rule.rule)
        for address in (path, f"{path}/", path.rstrip("/"), f"/{path}", f"//evil.example{path}"):
            answer = client.get("/", headers=_BROWSER | {"Host": host}, environ_overrides={"PATH_INFO": address})

            assert not 300 <= answer.status_code < 400, address
            assert "Location" not in answer.headers
            assert answer.status_code == 200 or answer.mimetype == "application/json", address
