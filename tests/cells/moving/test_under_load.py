"""A workspace moves while producers send to it: each event that was acknowledged is stored, once, in the new cell."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cells import Cell
from tests.support.live import LiveServer, live_server
from tests.support.moving import audit, mover, producing
from tests.support.people import make_tenant
from tests.support.waiting import wait_until


@pytest.fixture(name="servers", scope="module")
def _servers(pair: list[Cell], checkout: Path) -> Iterator[dict[str, LiveServer]]:
    one, other = pair
    with live_server(one.settings, checkout, workers=2) as first, live_server(other.settings, checkout) as second:
        yield {one.name: first, other.name: second}


def test_no_acknowledged_event_is_lost_or_doubled(
    pair: list[Cell], servers: dict[str, LiveServer], checkout: Path
) -> None:
    tenant = make_tenant(pair[0].context)
    with producing(servers, tenant) as producers:
        moving = mover(pair, checkout, tenant)
        said, complained = moving.communicate()
        assert (moving.returncode, complained) == (0, b""), said

    audit(pair, tenant, producers)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_nor_if_the_mover_is_killed_again_and_again(
    pair: list[Cell], servers: dict[str, LiveServer], checkout: Path, attempt: int
) -> None:
    tenant = make_tenant(pair[0].context)
    with producing(servers, tenant) as producers:
        for lines in range(1, 4):
            moving = mover(pair, checkout, tenant)
            assert moving.stdout is not None
            for _ in range(lines):  # it says when it comes to the next round, and when the workspace has moved
                moving.stdout.readline()
            moving.kill()
            moving.communicate()
            acknowledged = len(producers.acknowledged)
            if lines == 1:  # not frozen: it goes on
                wait_until(lambda before=acknowledged: len(producers.acknowledged) > before + 20)  # type: ignore[misc]
        moving = mover(pair, checkout, tenant)
        said, complained = moving.communicate()
        assert (moving.returncode, complained) == (0, b""), said

    audit(pair, tenant, producers)
