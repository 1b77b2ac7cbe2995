"""The bounds of a process follow from one setting, and one stalled key never takes all of anything."""

import re
import shlex
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Settings
from app.errors import StorageUnavailable
from app.granian.bounds import Bounds
from app.wire.body_reads import BodyReadLimiter, BodyReadLimits
from local.product import Product

_SETTINGS = [1, 2, 16]
_CONNECTIONS_PER_THREAD = 128


def _bounds(settings: Settings, server_threads: int) -> Bounds:
    return Bounds.of(replace(settings, server_threads=server_threads))


@pytest.mark.parametrize(("server_threads", "threads"), [(1, 8), (2, 16), (16, 128)])
def test_the_adapter_has_eight_threads_for_each_one_of_the_setting(
    settings: Settings, server_threads: int, threads: int
) -> None:
    assert _bounds(settings, server_threads).threads == threads


def test_the_default_is_for_2048_connections_and_128_mib_of_bodies(settings: Settings) -> None:
    bounds = _bounds(settings, 16)

    assert bounds.body_reads == BodyReadLimits(per_owner=512, stalled_per_owner=128, total=1_536, stalled_total=1_024)
    assert (bounds.held_bytes >> 20, bounds.held_bytes_per_owner >> 20) == (128, 64)
    assert bounds.probe_threads == 2


@pytest.mark.parametrize("server_threads", _SETTINGS)
def test_bodies_of_one_owner_leave_connections_and_memory_to_others(settings: Settings, server_threads: int) -> None:
    bounds = _bounds(settings, server_threads)
    connections = server_threads * _CONNECTIONS_PER_THREAD
    limiter = BodyReadLimiter(bounds.body_reads)
    with ExitStack() as stack:
        taken = {owner: _begin(limiter, owner, stack, connections) for owner in ("alice", "charlie", "a third")}

    assert taken["alice"] <= connections // 4
    assert taken["charlie"] == taken["alice"]
    assert sum(taken.values()) <= connections * 3 // 4
    assert bounds.held_bytes_per_owner <= bounds.held_bytes // 2
    assert bounds.probe_threads >= 1


@pytest.mark.parametrize("server_threads", _SETTINGS)
def test_one_owner_may_always_have_the_largest_body_twice(settings: Settings, server_threads: int) -> None:
    """It is in memory twice while its pieces are joined."""
    large = replace(settings, batch_bytes_max=50 * 1024 * 1024)

    assert _bounds(settings, server_threads).held_bytes_per_owner >= 2 * settings.batch_bytes_max
    assert _bounds(large, server_threads).held_bytes_per_owner >= 2 * large.batch_bytes_max


def test_the_documented_commands_open_as_many_connections_as_the_default_setting_bounds(
    checkout: Path, settings: Settings
) -> None:
    web = Product(settings={}, logs=checkout).web(8000).command
    texts = [
        (checkout / "deploy/systemd/lariba-web.service").read_text(),
        (checkout / "docs/operations.md").read_text(),
        re.sub(r'[",]', " ", (checkout / "deploy/Dockerfile").read_text()),
        shlex.join(web),
    ]
    for text in texts:
        assert set(re.findall(r"--backpressure\s+(\d+)", text)) == {str(16 * _CONNECTIONS_PER_THREAD)}


def _begin(limiter: BodyReadLimiter, owner: str, stack: ExitStack, bodies: int) -> int:
    """How many of `bodies` may be read; they stay under way until the stack is unwound."""
    taken = 0
    for _ in range(bodies):
        with suppress(StorageUnavailable):
            stack.enter_context(limiter.reading(owner))
            taken += 1
    return taken
