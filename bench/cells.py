"""`python -m bench.cells`: what an event costs where 1, 2 and 4 cells of one machine have a load each.

Each cell is the product as `make run` starts it, with a PostgreSQL, web processes and a worker of its own, and all run
all the while. In turns, the first 1, 2 and 4 of them are sent to at once, each by a wrk of its own over 64 connections,
as fast as they answer or at `--rate` events a second. More cells cannot store more on one machine; what is compared is
what an event costs where there are many. Printed are medians of the rounds, and `of linear`: the CPU per event of one
cell by that of many. It falls with how many events share a commit, and rises on cores that are all busy: as fast as
they answer, one cell leaves a part of the machine idle, and many do not; at a low rate, one cell has each event alone
in its commit, and many on a busy machine do not. So both are to be read.

`--nodes 4 16 100` adds what so many machines would store, if these costs hold there too: a reckoning, no measurement.
It assumes machines like this one, web servers and PostgreSQL on machines of their own, each used to 70 %, a proxy that
takes 30 µs an event, and that PostgreSQL writes 4 kB of log an event to a disk that takes 200 MB a second.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from bench import machine, wrk
from bench.installation import Installation, installation
from bench.plan import SINGLE
from bench.results import Result, of_answers
from bench.senders import demo_sender

_COUNTS: Final = (1, 2, 4)
_TIERS: Final = ("web", "postgres")
_WARM_SECONDS = 3
_REST_SECONDS = 1.0
# The assumptions of the reckoning.
_USED_TO: Final = 0.7
_PROXY_US: Final = 30.0
_LOG_BYTES: Final = 4_000
_DISK_BYTES_A_SECOND: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class _Cell:
    product: Installation
    senders: Path

    def send(self, seconds: float, rate: int) -> Result:
        script, argument = ("paced", str(rate)) if rate else (SINGLE.script, "")
        load = wrk.Load(script=script, connections=SINGLE.connections, senders=self.senders, argument=argument)
        with machine.Meter(self.product.roots()) as meter:
            answers = wrk.send(self.product.url, load, seconds)
        return of_answers(SINGLE, answers, meter.use)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What some cells have done at once."""

    events_per_second: float
    cost: dict[str, float]
    """µs of CPU per event, by tier."""

    @property
    def whole_cost(self) -> float:
        return sum(self.cost.values())


def main() -> None:
    """Measure and print."""
    arguments = _read_arguments()
    wrk.check()
    with ExitStack() as stack:
        cells = [_start(stack) for _ in range(max(_COUNTS))]
        _send(cells, _WARM_SECONDS, arguments.rate)
        turns: dict[int, list[_Turn]] = {count: [] for count in _COUNTS}
        for _ in range(arguments.rounds):
            for count in _COUNTS:
                turns[count].append(_send(cells[:count], arguments.seconds, arguments.rate))
                machine.wait_until_idle(_REST_SECONDS)
    alone = statistics.median(turn.whole_cost for turn in turns[1])
    print(f"{'cells':>5}{'events/s':>12}{'web µs':>10}{'postgres µs':>14}{'of linear':>12}")
    for count, its in turns.items():
        rate = statistics.median(turn.events_per_second for turn in its)
        web, postgres = (statistics.median(turn.cost[tier] for turn in its) for tier in _TIERS)
        ratio = alone / statistics.median(turn.whole_cost for turn in its)
        print(f"{count:>5}{rate:>12,.0f}{web:>10.1f}{postgres:>14.1f}{ratio:>12.2f}")
    web, postgres = (statistics.median(turn.cost[tier] for turn in turns[2]) for tier in _TIERS)
    for nodes in arguments.nodes:
        print(_reckoned(nodes, psutil.cpu_count() or 1, web, postgres))


def _reckoned(nodes: int, cores: int, web_us: float, postgres_us: float) -> str:
    """What so many machines would store, divided among web, PostgreSQL and proxy as the costs ask for."""
    us_a_second = cores * 1e6 * _USED_TO
    best, division = 0.0, (0, 0, 0)
    for databases in range(1, nodes):
        for proxies in range(1, nodes - databases):
            webs = nodes - databases - proxies
            rate = min(
                webs * us_a_second / web_us,
                databases * min(us_a_second / postgres_us, _DISK_BYTES_A_SECOND * _USED_TO / _LOG_BYTES),
                proxies * us_a_second / _PROXY_US,
            )
            if rate > best:
                best, division = rate, (webs, databases, proxies)
    webs, databases, proxies = division
    return f"{nodes} machines: {webs} web, {databases} cells of PostgreSQL, {proxies} proxy: {best:,.0f} events/s"


def _start(stack: ExitStack) -> _Cell:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lariba-cells-"))).resolve()
    product = stack.enter_context(installation(folder))
    return _Cell(product, demo_sender(product, folder))


def _send(cells: Sequence[_Cell], seconds: float, rate: int) -> _Turn:
    """To all at once."""
    with ThreadPoolExecutor(len(cells)) as pool:
        results = list(pool.map(lambda cell: cell.send(seconds, rate), cells))
    rates = [result.events_per_second for result in results]
    cost = {
        tier: sum(result.cpu_us_per_event[tier] * rate for result, rate in zip(results, rates, strict=True))
        / sum(rates)
        for tier in _TIERS
    }
    return _Turn(sum(rates), cost)


def _read_arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.cells", description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn (4)")
    parser.add_argument("--rate", type=int, default=0, help="events a second of each cell (as fast as they answer)")
    parser.add_argument("--nodes", type=int, nargs="*", default=[], help="reckon what so many machines would store")
    return parser.parse_args()


if __name__ == "__main__":
    main()
