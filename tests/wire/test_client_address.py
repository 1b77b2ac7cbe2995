"""Where a request comes from: no client can claim an address that a trusted proxy has not seen."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings, SettingsError
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.factory import create_app
from app.telemetry import logs
from app.wire.client_address import client_address, read_network
from tests.support.databases import close
from tests.support.live import environment_of
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import Tenant, execute, rows
from tests.support.sending import send
from tests.support.waiting import wait_until

_PROXIES = ("10.0.0.0/8", "2001:db8:ff::/48")


def _client(peer: str | None, forwarded: str | None = None, trusted: tuple[str, ...] = _PROXIES) -> str:
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
    return client_address({name: value for name, value in environ.items() if value is not None}, trusted)


@pytest.mark.parametrize("forwarded", [None, "", "198.51.100.9", "10.0.0.1, 10.0.0.2"])
def test_without_trusted_proxies_it_is_the_peer_whatever_the_header_says(forwarded: str | None) -> None:
    assert _client("203.0.113.7", forwarded, trusted=()) == "203.0.113.7"
    assert _client("10.0.0.1", forwarded, trusted=()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.7", "198.51.100.9", "203.0.113.7"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.9, 203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.9, 203.0.113.7, 10.9.9.9,10.0.0.3", "203.0.113.7"),
        ("2001:db8:ff::1", "203.0.113.7", "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", "203.0.113.7"),
        # All of them proxies of ours: the first of them is who came.
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        # What cannot be read ends the walk: the proxy spoke for a client, so it is not the client itself.
        ("10.0.0.1", "203.0.113.7, unknown", ""),
        ("10.0.0.1", "203.0.113.7, , 10.0.0.3", ""),
        ("10.0.0.1", "203.0.113.7 10.0.0.3", ""),
        ("10.0.0.1", "010.0.0.3", ""),
        ("10.0.0.1", ",", ""),
        (None, "203.0.113.7", ""),
        ("", "203.0.113.7", ""),
        ("unix:", "203.0.113.7", ""),
    ],
)
def test_it_is_the_nearest_that_is_no_proxy_of_ours(peer: str | None, forwarded: str | None, address: str) -> None:
    assert _client(peer, forwarded) == address


@pytest.mark.parametrize(
    ("hop", "address"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("\t203.0.113.7 ", "203.0.113.7"),
        ("[2001:db8::7]x", ""),
        ("[2001:db8::7]:", ""),
        ("203.0.113.7:", ""),
        ("203.0.113.7:x", ""),
        ("shop.example", ""),
    ],
)
def test_a_hop_is_read_without_port_and_zone_and_in_its_shortest_form(hop: str, address: str) -> None:
    assert _client("10.0.0.1", f"6.6.6.6, {hop}") == address


@given(st.text())
def test_whatever_stands_to_the_left_of_the_nearest_stranger_changes_nothing(left: str) -> None:
    assert _client("10.0.0.1", f"{left}, 203.0.113.7, 10.0.0.2") == "203.0.113.7"


@given(st.text(), st.text())
def test_it_is_an_address_or_nothing(peer: str, forwarded: str) -> None:
    found = _client(peer, forwarded, trusted=("0.0.0.0/0", "::/0"))

    assert found == "" or str(read_network(found).network_address) == found


def test_of_an_endless_header_the_right_end_counts_and_no_half_of_an_address() -> None:
    assert _client("10.0.0.1", "6.6.6.6, " * 10_000 + "203.0.113.7") == "203.0.113.7"
    # Cut in the middle, the address furthest left would read 3.0.113.7.
    for length in range(1_990, 2_020):
        hops = ("20" * 10 + "3.0.113.7,") + "10.0.0.2," * 300
        assert _client("10.0.0.1", hops[-length:] + "10.0.0.3") in ("10.0.0.2", "")


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "10.0.0.0/8, ::1"])
def test_trusted_proxies_are_networks(settings: Settings, text: str) -> None:
    read = Settings.from_environment(environment_of(settings) | {"LARIBA_TRUSTED_PROXIES": text})

    assert read.trusted_proxies == tuple(text.split(", "))


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy.example", "10.0.0.0/8,,", "*", "10.0.0.0/8 10.1.0.0/16"])
def test_a_proxy_that_is_no_network_ends_the_start_by_name(settings: Settings, text: str) -> None:
    with pytest.raises(SettingsError, match=r"^LARIBA_TRUSTED_PROXIES"):
        Settings.from_environment(environment_of(settings) | {"LARIBA_TRUSTED_PROXIES": text})


def test_ipv4_in_ipv6_is_ipv4_as_addresses_are() -> None:
    assert str(read_network("::ffff:10.0.0.0/104")) == "10.0.0.0/8"
    assert str(read_network("::ffff:10.0.0.1")) == "10.0.0.1/32"


class TestInTheApplication:
    """Behind a proxy at 127.0.0.1, which has seen 203.0.113.7."""

    @pytest.fixture(name="client", params=["fast", "flask"])
    def _client(
        self, settings: Settings, credentials: Credentials, request: pytest.FixtureRequest
    ) -> Iterator[FlaskClient]:
        is_on = "on" if request.param == "fast" else "off"
        own = replace(settings, trusted_proxies=("127.0.0.0/8",), fast_path=is_on)
        with logging_left_alone():
            app = create_app(own, credentials=credentials)
            client = app.test_client()
            client.environ_base["HTTP_X_FORWARDED_FOR"] = "10.6.6.6, 203.0.113.7"
            yield client
            close(app.extensions[EXTENSION].database)

    def test_networks_and_usage_see_the_client_and_not_the_proxy(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        statement = "UPDATE source_keys SET allowed_networks = CAST(:networks AS text[]) WHERE id = :id"
        statuses = []
        for networks in (["203.0.113.0/24"], ["127.0.0.0/8"], ["10.0.0.0/8"]):
            execute(context, statement, networks=networks, id=alice.key_row)
            statuses.append(send(client, alice).status_code)

        assert statuses == [201, 403, 403]
        used = rows(context, "SELECT addresses FROM usage_outbox WHERE source_id = :id", id=alice.source_row)
        assert [row.addresses for row in used] == [["203.0.113.7"]]

    def test_the_audit_log_and_the_log_see_it_too(
        self, client: FlaskClient, context: Context, alice: Tenant, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logs.configure("INFO")
        made = client.post("/v1/projects", json={"name": "x"}, headers=alice.bearer).json
        assert made is not None
        send(client, alice)
        send(client, alice, "{")
        logged: list[str] = []

        def is_all_logged() -> bool:
            """Lines of the fast path come a moment later."""
            logged.extend(line for line in capsys.readouterr().err.splitlines() if "remote_address" in line)
            return len(logged) == 3

        wait_until(is_all_logged)

        (entry,) = rows(context, "SELECT address FROM audit_entries WHERE object_id = :id", id=made["id"])
        assert entry.address == "203.0.113.7"
        assert [json.loads(line)["remote_address"] for line in logged] == ["203.0.113.7"] * 3
