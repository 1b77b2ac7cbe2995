"""Bodies come whole or are refused, and neither kind takes more memory, bytes or time than its bound."""

import asyncio
import weakref
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Self, cast

import pytest

from app.config import Settings
from app.errors import BadRequest, BodyTimeout, PayloadTooLarge, StorageUnavailable
from app.granian.bodies import SMALL_BYTES, BodyReader
from app.granian.bounds import Bounds
from app.granian.environ import Environ
from app.wire.body_reads import BODY_REFUSAL
from tests.granian.loop_time import PassTime, run_by_the_test_s_clock
from tests.support.sending import PATH

_MIB = 1024 * 1024
_END = b""
_TOO_LARGE = 100 * _MIB


class _Protocol:
    """Sends these pieces, and then nothing; counts those that were taken."""

    def __init__(self, *pieces: bytes, stalls: bool = False) -> None:
        self._pieces = pieces
        self._stalls = stalls
        self.taken = 0

    async def __call__(self) -> bytes:
        if self._stalls:
            await asyncio.get_running_loop().create_future()
        return b"".join(self._pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self.taken < len(self._pieces):
            self.taken += 1
            return self._pieces[self.taken - 1]
        if self._stalls:
            await asyncio.get_running_loop().create_future()
        raise StopAsyncIteration


def _bodies(settings: Settings, **bounds: int) -> BodyReader:
    return BodyReader(settings, replace(Bounds.of(settings), **cast(Any, bounds)))


def _batch(length: int | None = None) -> Environ:
    """A request with this Content-Length, or in chunks."""
    announced = {"HTTP_TRANSFER_ENCODING": "chunked"} if length is None else {"CONTENT_LENGTH": str(length)}
    return {"PATH_INFO": f"{PATH}/batch", "SERVER_PROTOCOL": "HTTP/1.1"} | announced


async def _read(bodies: BodyReader, environ: Environ, protocol: _Protocol, owner: object) -> bytes | type:
    """The body, or the class of its refusal."""
    async with bodies.body_in(environ, cast(Any, protocol), owner):
        return type(environ[BODY_REFUSAL]) if BODY_REFUSAL in environ else bytes(environ["wsgi.input"].read())


def test_bodies_of_all_workspaces_together_take_no_more_than_the_share_of_the_process(settings: Settings) -> None:
    bodies = _bodies(settings, held_bytes=3 * _MIB, held_bytes_per_owner=2 * _MIB)

    async def read_of_a_third() -> bytes | type:
        return await _read(bodies, _batch(), _Protocol(bytes(_MIB), _END), "a third")

    async def scenario() -> None:
        async with AsyncExitStack() as waiting:
            for owner, mebibytes in (("alice", 2), ("charlie", 1)):
                environ = _batch()
                protocol = _Protocol(*[bytes(_MIB)] * mebibytes, _END)
                await waiting.enter_async_context(bodies.body_in(environ, cast(Any, protocol), owner))
                assert BODY_REFUSAL not in environ
            assert await read_of_a_third() is StorageUnavailable
        assert await read_of_a_third() == bytes(_MIB)

    asyncio.run(scenario())


def test_bytes_that_are_refused_are_held_no_more(settings: Settings) -> None:
    bodies = _bodies(settings, held_bytes=2 * _MIB, held_bytes_per_owner=2 * _MIB)

    async def scenario() -> list[bytes | type]:
        cut = [await _read(bodies, _batch(), _Protocol(bytes(_MIB)), "alice") for _ in range(3)]
        return [*cut, await _read(bodies, _batch(), _Protocol(bytes(_MIB), _END), "alice")]

    assert asyncio.run(scenario()) == [BadRequest] * 3 + [bytes(_MIB)]


def test_an_owner_without_bodies_is_forgotten(settings: Settings) -> None:
    class Owner:
        pass

    owner = Owner()
    bodies = _bodies(settings)
    assert asyncio.run(_read(bodies, _batch(), _Protocol(b"{}", _END), owner)) == b"{}"
    remembered = weakref.ref(owner)
    del owner

    assert remembered() is None


@pytest.mark.parametrize("has_length", [True, False], ids=["announced", "in chunks"])
def test_without_a_credential_of_ours_a_body_may_have_64_kib(settings: Settings, *, has_length: bool) -> None:
    """Its sender has proven nothing, and need only hear that it is a 401."""

    def read(size: int, owner: str | None) -> bytes | type:
        environ = _batch(size if has_length else None)
        return asyncio.run(_read(_bodies(settings), environ, _Protocol(bytes(size), _END), owner))

    assert read(SMALL_BYTES, None) == bytes(SMALL_BYTES)
    assert read(SMALL_BYTES + 1, None) is PayloadTooLarge
    assert read(SMALL_BYTES + 1, "alice") == bytes(SMALL_BYTES + 1)
    assert SMALL_BYTES == 65_536


@pytest.mark.parametrize(
    ("length", "owner", "mebibytes"),
    [(_TOO_LARGE, "alice", 17), (None, "alice", 22), (_TOO_LARGE, None, 17), (None, None, 17)],
    ids=["announced", "in chunks", "announced, no credential", "in chunks, no credential"],
)
def test_of_a_body_that_is_too_large_16_mib_are_read_for_the_answer_to_arrive_and_no_more(
    settings: Settings, length: int | None, owner: str | None, mebibytes: int
) -> None:
    """Beyond the 5 MiB that a batch may have, and up to the piece that shows that there is more."""
    endless = _Protocol(*[bytes(_MIB)] * 100, _END)

    assert asyncio.run(_read(_bodies(settings), _batch(length), endless, owner)) is PayloadTooLarge
    assert endless.taken == mebibytes


def test_what_is_too_large_is_read_and_not_held(settings: Settings) -> None:
    """Else it would be a 503 where many are held, and its client would send it again."""
    bodies = _bodies(settings, held_bytes=settings.batch_bytes_max, held_bytes_per_owner=settings.batch_bytes_max)

    assert asyncio.run(_read(bodies, _batch(), _Protocol(*[bytes(_MIB)] * 8, _END), "alice")) is PayloadTooLarge


@pytest.mark.parametrize(
    ("length", "owner", "seconds"),
    [(_TOO_LARGE, "alice", 10.0), (None, None, 10.0), (None, "alice", 60.0), (2, "alice", 60.0), (2, None, 60.0)],
    ids=["too large", "no credential", "in chunks", "small", "small, no credential"],
)
def test_a_body_that_stalls_is_given_up_and_sooner_if_it_is_not_wanted(
    settings: Settings, length: int | None, owner: str | None, seconds: float
) -> None:
    own = replace(settings, body_seconds=60.0)

    async def scenario(pass_time: PassTime) -> bytes | type:
        wait = asyncio.create_task(_read(_bodies(own), _batch(length), _Protocol(b"{", stalls=True), owner))
        await pass_time(seconds / 2)
        assert not wait.done()
        await pass_time(seconds / 2)
        assert wait.done()
        return await wait

    assert run_by_the_test_s_clock(scenario) is BodyTimeout


@pytest.mark.parametrize("length", [2, None, _TOO_LARGE], ids=["small", "in chunks", "too large"])
def test_of_one_owner_few_bodies_may_stall_whatever_their_size(
    settings: Settings, length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512: the next one is refused at once, and those of others are not. No time passes, for of those that have stalled
    for a while fewer may be read.
    """

    async def scenario() -> list[bytes | type]:
        bodies = _bodies(settings)
        monkeypatch.setattr(bodies._limiter, "_clock", lambda: 0.0)  # noqa: SLF001
        stalled = [
            asyncio.create_task(_read(bodies, _batch(length), _Protocol(stalls=True), "alice")) for _ in range(512)
        ]
        await asyncio.sleep(0)
        assert not any(each.done() for each in stalled)
        return [await _read(bodies, _batch(length), _Protocol(b"{}", _END), owner) for owner in ("alice", "charlie")]

    next_one, neighbour = asyncio.run(scenario())
    assert next_one is StorageUnavailable
    assert neighbour == (PayloadTooLarge if length == _TOO_LARGE else b"{}")


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (None, [b"{}"]),
        (None, [b"{}", _END, _END]),
        (100_000, [bytes(99_999)]),
        (100_000, [bytes(99_999), _END]),
        (100_000, [bytes(100_001), _END]),
    ],
    ids=["no end", "two ends", "short", "short with an end", "long"],
)
def test_a_body_without_its_one_end_or_of_another_length_is_refused(
    settings: Settings, length: int | None, pieces: list[bytes]
) -> None:
    assert asyncio.run(_read(_bodies(settings), _batch(length), _Protocol(*pieces), "alice")) is BadRequest
