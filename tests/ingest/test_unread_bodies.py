"""A body that the answer did not need is read on the fast path all the same, before the answer is given.

Else a client that is still sending would see a closed connection. What has stalled already is not waited for again.
"""

import asyncio
import io
from collections.abc import Callable
from typing import Any, cast

import pytest
from flask import Flask

from app.errors import RateLimitExceeded
from app.ingest.fast_path import BodyWaits, FastPath, PendingRequest
from app.ingest.services import EXTENSION as INGEST
from tests.support.people import Tenant
from tests.support.sending import PATH, send


class _Waits:
    """Of a request whose body has not come yet."""

    def __init__(self) -> None:
        self.discarded = 0

    async def discard_body(self) -> None:
        self.discarded += 1
        raise RuntimeError("the connection is gone")

    async def run(self, work: Callable[[], Any]) -> Any:
        return work()


class _Body(io.BytesIO):
    """A body that ends early, or whose bytes do not come in time."""

    def __init__(self, error: OSError | None) -> None:
        super().__init__()
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        if self._error is not None:
            raise self._error
        return super().read(size)


@pytest.fixture(name="fast_path")
def _fast_path(app: Flask, alice: Tenant) -> FastPath:
    """It has alice's key in memory."""
    assert isinstance(app.wsgi_app, FastPath)
    assert send(app.test_client(), alice).status_code == 201
    return app.wsgi_app


@pytest.fixture(name="discards")
def _discards(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each body that a thread discards, whether it waits for what has not come yet."""
    discards: list[bool] = []

    def discard(*_: object, waits: bool) -> None:
        discards.append(waits)

    monkeypatch.setattr("app.ingest.fast_path.discard_rest", discard)
    return discards


@pytest.fixture(name="fail", params=[RateLimitExceeded, RuntimeError])
def _fail(app: Flask, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Refuse every request, or crash, before its body is read; the status that is due."""

    def fail(*_: object, **__: object) -> None:
        raise request.param

    monkeypatch.setattr(app.extensions[INGEST].rate_limiter, "admit", fail)
    return 429 if request.param is RateLimitExceeded else 500


def test_of_a_request_on_an_event_loop_whatever_goes_wrong(
    app: Flask, fast_path: FastPath, alice: Tenant, fail: int
) -> None:
    waits = _Waits()

    status, _, _ = asyncio.run(fast_path.answer(_pending(app, fast_path, alice), cast(BodyWaits, waits)))

    assert (status, waits.discarded) == (fail, 1)


def test_of_a_request_on_a_thread_whatever_goes_wrong(
    app: Flask, fast_path: FastPath, alice: Tenant, fail: int, discards: list[bool]
) -> None:
    assert send(app.test_client(), alice).status_code == fail
    assert discards == [True]


@pytest.mark.parametrize(
    ("error", "status"), [(TimeoutError(), 408), (ConnectionResetError(), 400), (None, 400)], ids=repr
)
def test_a_thread_that_has_read_in_vain_does_not_wait_again(
    app: Flask, fast_path: FastPath, alice: Tenant, discards: list[bool], error: OSError | None, status: int
) -> None:
    environ = _pending(app, fast_path, alice).environ | {"wsgi.input": _Body(error)}
    statuses: list[str] = []

    fast_path(environ, lambda line, _: statuses.append(line))

    assert [line[:3] for line in statuses] == [str(status)]
    assert discards == [False]


def _pending(app: Flask, fast_path: FastPath, tenant: Tenant) -> PendingRequest:
    headers = {"X-API-Key": tenant.key}
    context = app.test_request_context(
        PATH, method="POST", data=b"{}", content_type="application/json", headers=headers
    )
    pending = fast_path.begin(context.request.environ)
    assert pending is not None
    return pending
