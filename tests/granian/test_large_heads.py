"""A head of 400 KB, which granian lets through, is bounded before it is parsed or kept: the event loop parses it."""

import json
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from app import identifiers
from app.context import Context
from app.errors import BadRequest, NotFound
from app.granian import environ, owners
from app.granian.environ import environ_of
from app.granian.owners import Owners
from app.idempotency import header
from app.idempotency.header import read_idempotency_key
from app.identifiers import request_id_from
from app.web import problems
from app.web.problems import PROBLEM_JSON, render
from app.wire import http_rules
from app.wire.http_rules import is_odd
from tests.support.live import Answer, LiveServer
from tests.support.people import Tenant
from tests.support.raw_http import exchange, head
from tests.support.sending import PATH, event_for

_CHARACTERS: Final = 400_000
# granian itself refuses a header's name of 64 KiB.
_NAME_CHARACTERS: Final = 65_000


class _Unread(str):
    """A text whose length alone may be asked: what looks at its characters fails."""

    __slots__ = ()

    def look(self, *_: object) -> Any:
        raise AssertionError("a long text is looked at")

    __hash__ = __eq__ = __getitem__ = __iter__ = __contains__ = look
    strip = lower = upper = replace = partition = startswith = look


@pytest.fixture(name="unread")
def _unread(monkeypatch: pytest.MonkeyPatch) -> str:
    """400 KB that none of our functions may look at, nor give to a regular expression or a parser."""
    unread = _Unread("a" * _CHARACTERS)
    for module, name in ((identifiers, "_REQUEST_ID"), (http_rules, "_HOST"), (environ, "_NAME")):
        monkeypatch.setattr(module, name, SimpleNamespace(fullmatch=unread.look))
    monkeypatch.setattr(header, "_VISIBLE_ASCII", SimpleNamespace(fullmatch=unread.look))
    monkeypatch.setattr(problems, "parse_accept_header", unread.look)
    monkeypatch.setattr(owners, "parse_qs", unread.look)
    return unread


class TestNothingLooksAt:
    def test_a_request_id(self, unread: str) -> None:
        assert request_id_from(unread).startswith("req_")

    def test_an_idempotency_key(self, unread: str) -> None:
        with pytest.raises(BadRequest, match="1 to 255 visible"):
            read_idempotency_key(unread)

    def test_a_host(self, unread: str) -> None:
        assert is_odd({"HTTP_HOST": unread})

    def test_the_types_that_a_client_accepts(self, unread: str) -> None:
        assert dict(render(NotFound(), unread, "req_1")[1])["Content-Type"] == "application/json"

    def test_the_query(self, unread: str, context: Context) -> None:
        assert Owners(context.credentials).owner_of({"PATH_INFO": PATH, "QUERY_STRING": unread}) is None

    def test_the_name_of_a_header(self, unread: str) -> None:
        """Nor is it remembered: a thousand of them would fill the memory."""
        headers = _Headers(unread)
        scope = SimpleNamespace(
            method="POST", path=PATH, query_string="", http_version="1.1", client=":9", authority=None, headers=headers
        )

        assert {name for name in environ_of(cast(Any, scope)) if name.startswith("HTTP_")} == set()


class _Headers:
    """One header, as granian lists it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __len__(self) -> int:
        return 1

    def items(self) -> list[tuple[str, str]]:
        return [(self._name, "v")]


_LARGE: Final = {
    "Accept": f"{PROBLEM_JSON}, " + "a/b," * (_CHARACTERS // 4),
    "Idempotency-Key": "," * _CHARACTERS,
    "Host": "a" * _CHARACTERS,
    "X-Request-ID": "lrb_" * (_CHARACTERS // 4),
    "a" * _NAME_CHARACTERS: "v",
}


@pytest.mark.parametrize("name", _LARGE, ids=lambda name: name[:20])
@pytest.mark.parametrize("is_sound", [True, False], ids=["a sound event", "a refused one"])
def test_a_request_with_one_is_answered(live: LiveServer, alice: Tenant, name: str, *, is_sound: bool) -> None:
    _send(live, alice)  # the key is in memory from here on

    answer = _send(live, alice, f"{name}: {_LARGE[name]}", is_sound=is_sound, host="x" if name != "Host" else None)

    wrong = name in ("Idempotency-Key", "Host")
    assert answer.status == (400 if wrong else 201 if is_sound else 422)
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) < 100


def _send(live: LiveServer, tenant: Tenant, *lines: str, is_sound: bool = True, host: str | None = "x") -> Answer:
    body = json.dumps(event_for(tenant, severity="info" if is_sound else "loud")).encode()
    own = ["Content-Type: application/json", f"Content-Length: {len(body)}", f"X-API-Key: {tenant.key}"]
    return exchange(live.port, head("POST", PATH, *own, *lines, host=host), body)
