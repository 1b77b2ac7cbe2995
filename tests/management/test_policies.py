"""What a key may send and from where: how it is chosen, read back, and changed."""

from dataclasses import fields
from functools import partial
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.context import Context
from app.errors import SchemaValidationFailed
from app.management.common.operators import at_the_shell
from app.management.keys.domain import KeyPolicy, NewKey, issue_key
from app.management.keys.schemas import IssuedKeySchema, KeyChangeSchema, KeyCreateSchema, KeySchema
from app.management.sources.domain import NewSource, create_source
from app.models import SourceKey, SourceType
from tests.support.operating import ApiClient
from tests.support.people import Tenant, rows
from tests.support.sending import error_of, event_for, pointers_of, send

_POLICIES = ("allowed_event_types", "allowed_origins", "allowed_networks")


def test_each_policy_is_a_column_and_can_be_chosen_changed_and_read() -> None:
    policies = {field.name for field in fields(KeyPolicy)}

    assert policies <= set(SourceKey.__table__.columns.keys())
    for schema in (KeyCreateSchema, KeyChangeSchema, KeySchema, IssuedKeySchema):
        assert policies <= set(schema().fields), schema


def _issue(api: ApiClient, tenant: Tenant, **chosen: Any) -> dict[str, Any]:
    return api.made(f"/v1/sources/{tenant.source_id}/keys", chosen)


def _browser(*origins: str) -> dict[str, list[str]]:
    return {"allowed_event_types": ["page.*"], "allowed_origins": list(origins)}


def test_the_domain_too_issues_no_browser_key_without_event_types(context: Context, alice: Tenant) -> None:
    """Other callers than the API have no schema before them."""
    parts = (context.database, context.credentials, at_the_shell(alice.workspace_row))
    new_source = NewSource(name="web", type=SourceType.WEBSITE)
    new_key = NewKey(policy=KeyPolicy(allowed_origins=["https://a.example"]))

    for issue in (
        partial(issue_key, *parts, alice.source_id, new_key),
        partial(create_source, *parts, alice.environment_id, new_source, new_key),
    ):
        with pytest.raises(SchemaValidationFailed) as refused:
            issue()
        assert [fault.pointer for fault in refused.value.faults] == ["/allowed_event_types"]

    keys = rows(context, "SELECT public_id FROM source_keys WHERE workspace_id = :id", id=alice.workspace_row)
    assert [key.public_id for key in keys] == [alice.key_id]


class TestIssue:
    def test_without_them_a_key_is_limited_by_nothing(self, api: ApiClient, alice: Tenant) -> None:
        issued = _issue(api, alice)

        assert [issued[policy] for policy in _POLICIES] == [None] * 3

    def test_they_are_shown_in_the_spelling_that_is_compared(self, api: ApiClient, alice: Tenant) -> None:
        issued = _issue(
            api,
            alice,
            allowed_event_types=["payment.*", "cart.left"],
            allowed_origins=["HTTPS://Shop.Example:443", "http://localhost:3000"],
            allowed_networks=["192.0.2.7", "2001:DB8:0::/32"],
        )

        assert issued["allowed_event_types"] == ["payment.*", "cart.left"]
        assert issued["allowed_origins"] == ["https://shop.example", "http://localhost:3000"]
        assert issued["allowed_networks"] == ["192.0.2.7/32", "2001:db8::/32"]
        read = api.get(f"/v1/keys/{issued['id']}").json
        assert read == {name: value for name, value in issued.items() if name != "key"}

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("http://shop.example:80", "http://shop.example"),
            ("http://shop.example:443", "http://shop.example:443"),
            ("https://Bücher.example", "https://xn--bcher-kva.example"),
            ("https://xn--BCHER-kva.example", "https://xn--bcher-kva.example"),
            ("https://a_b.example:08443", "https://a_b.example:8443"),
            ("http://192.0.2.1:8080", "http://192.0.2.1:8080"),
            ("http://[2001:DB8:0:0::1]", "http://[2001:db8::1]"),
        ],
    )
    def test_an_origin_is_kept_as_browsers_send_it(self, api: ApiClient, alice: Tenant, given: str, kept: str) -> None:
        assert _issue(api, alice, **_browser(given))["allowed_origins"] == [kept]

    @pytest.mark.parametrize(
        "origin",
        [
            "*",
            "null",
            "https://*.shop.example",
            "https://shop.example/",
            "https://shop.example/cart",
            "https://shop.example?x",
            "https://shop.example#x",
            "https://user@shop.example",
            "ftp://shop.example",
            "shop.example",
            "https://",
            "https://shop..example",
            "https://-shop.example",
            "https://shop.example:0",
            "https://shop.example:65536",
            "https://shop.example:",
            "https://shop.example\n",
            "https://1.2.3",
            "https://256.1.1.1",
            "https://[::g]",
            "https://[fe80::1%25eth0]",
            "https://straße.example",
            f"https://{'a' * 64}.example",
            f"https://{'a.' * 200}example",
            "",
            1,
            None,
        ],
    )
    def test_what_is_no_origin_is_refused_by_its_place(self, api: ApiClient, alice: Tenant, origin: object) -> None:
        chosen = {"allowed_event_types": ["a"], "allowed_origins": ["https://shop.example", origin]}

        refused = api.post(f"/v1/sources/{alice.source_id}/keys", chosen)

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/allowed_origins/1"}

    @pytest.mark.parametrize(
        "event_type", ["*", ".*", "a.", "a*", "a.*.b", "a..b", "a.b*", "a.**", "ä", " a", "a\n", "a" * 201, "", None, 1]
    )
    def test_what_is_no_event_type_is_refused_by_its_place(
        self, api: ApiClient, alice: Tenant, event_type: object
    ) -> None:
        refused = api.post(f"/v1/sources/{alice.source_id}/keys", {"allowed_event_types": [event_type]})

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/allowed_event_types/0"}

    @pytest.mark.parametrize(
        "network", ["10.0.0.0/33", "10.0.0", "shop.example", "::/129", "fe80::1%eth0", "10.0.0.0/", "/8", "", None, 7]
    )
    def test_what_is_no_network_is_refused_by_its_place(self, api: ApiClient, alice: Tenant, network: object) -> None:
        refused = api.post(f"/v1/sources/{alice.source_id}/keys", {"allowed_networks": [network]})

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/allowed_networks/0"}

    def test_a_network_with_bits_beyond_its_prefix_is_refused_with_what_was_meant(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        refused = api.post(f"/v1/sources/{alice.source_id}/keys", {"allowed_networks": ["10.1.2.3/8"]})

        (fault,) = error_of(refused)["details"]
        assert fault["pointer"] == "/allowed_networks/0"
        assert "10.0.0.0/8" in fault["message"]

    @pytest.mark.parametrize("policy", ["allowed_event_types", "allowed_networks"])
    @pytest.mark.parametrize("entries", [0, 51])
    def test_none_at_all_and_too_many_are_refused(
        self, api: ApiClient, alice: Tenant, policy: str, entries: int
    ) -> None:
        refused = api.post(f"/v1/sources/{alice.source_id}/keys", {policy: [f"1.1.1.{n}" for n in range(entries)]})

        assert refused.status_code == 422
        assert f"/{policy}" in pointers_of(refused)

    def test_what_is_given_twice_is_kept_once(self, api: ApiClient, alice: Tenant) -> None:
        issued = _issue(api, alice, **_browser("https://a.example", "https://A.example:443", "https://b.example"))

        assert issued["allowed_origins"] == ["https://a.example", "https://b.example"]

    def test_a_browser_key_says_which_event_types_it_may_send(self, api: ApiClient, alice: Tenant) -> None:
        for event_types in ({}, {"allowed_event_types": None}):
            refused = api.post(
                f"/v1/sources/{alice.source_id}/keys", {"allowed_origins": ["https://a.example"]} | event_types
            )

            assert refused.status_code == 422
            assert pointers_of(refused) == {"/allowed_event_types"}

    def test_they_stand_in_the_audit_log(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        key_id = _issue(api, alice, **_browser("https://a.example"))["id"]

        (entry,) = rows(context, "SELECT after FROM audit_entries WHERE object_id = :id", id=key_id)
        assert _browser("https://a.example").items() <= entry.after.items()


class TestChange:
    def test_each_changes_alone_and_null_takes_it_away(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/keys/{alice.key_id}"

        types = api.patch(path, {"allowed_event_types": ["a.*"]}).json
        networks = api.patch(path, {"allowed_networks": ["10.0.0.0/8"]}).json
        neither = api.patch(path, {"allowed_event_types": None}).json

        assert types is not None
        assert networks is not None
        assert neither is not None
        assert [types[policy] for policy in _POLICIES] == [["a.*"], None, None]
        assert [networks[policy] for policy in _POLICIES] == [["a.*"], None, ["10.0.0.0/8"]]
        assert [neither[policy] for policy in _POLICIES] == [None, None, ["10.0.0.0/8"]]

    def test_no_change_leaves_a_browser_key_without_event_types(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/keys/{alice.key_id}"
        into_one = api.patch(path, {"allowed_origins": ["https://a.example"]})
        at_once = api.patch(path, {"allowed_origins": ["https://a.example"], "allowed_event_types": ["a"]})
        out_of_it = api.patch(path, {"allowed_event_types": None})
        back = api.patch(path, {"allowed_event_types": None, "allowed_origins": None})

        assert [each.status_code for each in (into_one, at_once, out_of_it, back)] == [422, 200, 422, 200]
        assert pointers_of(into_one) == pointers_of(out_of_it) == {"/allowed_event_types"}

    def test_what_is_the_same_in_another_spelling_is_no_change(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        path = f"/v1/keys/{alice.key_id}"
        first = api.patch(path, _browser("https://a.example"))

        second = api.patch(path, _browser("HTTPS://A.example:443"))

        assert second.headers["ETag"] == first.headers["ETag"]
        assert len(rows(context, "SELECT 1 FROM audit_entries WHERE object_id = :id", id=alice.key_id)) == 1

    def test_what_was_taken_away_is_refused_from_that_answer_on_and_what_was_given_back_is_taken(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        path = f"/v1/keys/{alice.key_id}"
        assert send(client, alice).status_code == 201

        api.patch(path, {"allowed_event_types": ["cart.*"]})
        assert error_of(send(client, alice))["code"] == "event_type_not_allowed"
        assert send(client, alice, event_for(alice, event_type="cart.left")).status_code == 201

        api.patch(path, {"allowed_event_types": ["cart.*", "payment.failed"]})
        assert send(client, alice).status_code == 201
