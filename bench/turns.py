"""`python -m bench.turns --before ../lariba-before`: this checkout against another one, in turns.

Both products run all the while, and are sent to one after the other, a few seconds each: other load of the machine
affects both alike, which it does not in two runs of `make bench` (the same code differs by a sixth there). For each
kind of traffic the median of the pairs' ratios is printed, with the lowest and the highest: of events per second, and
of CPU per event of the web processes and of PostgreSQL together.
"""

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import machine, wrk
from bench.installation import Installation, installation
from bench.plan import REPLAYS, SINGLE, batches
from bench.results import Result, Traffic, of_answers
from bench.senders import demo_sender

_HERE: Final = Path(__file__).resolve().parents[1]
_WARM_SECONDS = 2
# Folding and flushing after a turn must not slow down the next one.
_REST_SECONDS = 1.0
_TRAFFIC: Final = {each.name: each for each in (SINGLE, replace(REPLAYS, run="turns"), batches(100), batches(1_000))}


def main() -> None:
    """Measure and print."""
    arguments = _read_arguments()
    wrk.check()
    with ExitStack() as stack:
        products = []
        for checkout in (arguments.before.resolve(), _HERE):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lariba-turns-"))).resolve()
            product = stack.enter_context(installation(folder, checkout))
            products.append((product, demo_sender(product, folder)))
        print(f"{'':14}{'throughput, after / before':>32}{'CPU per event, after / before':>36}")
        for name in arguments.only or _TRAFFIC:
            for product, sender in products:
                _send(product, sender, _TRAFFIC[name], _WARM_SECONDS)
            pairs = []
            for n in range(arguments.pairs):
                # Each goes first as often as the other.
                order = products if n % 2 == 0 else products[::-1]
                turns = {id(who): _send(*who, _TRAFFIC[name], arguments.seconds) for who in order}
                pairs.append(tuple(turns[id(who)] for who in products))
            rates = [after.events_per_second / before.events_per_second for before, after in pairs]
            costs = [_cost(after) / _cost(before) for before, after in pairs]
            print(f"{name:14}{_spread(rates):>32}{_spread(costs):>36}", flush=True)


def _send(product: Installation, sender: Path, traffic: Traffic, seconds: float) -> Result:
    load = wrk.Load(
        script=traffic.script,
        connections=traffic.connections,
        senders=sender,
        path=traffic.path,
        argument=traffic.argument,
        run=traffic.run,
    )
    with machine.Meter(product.roots()) as meter:
        answers = wrk.send(product.url, load, seconds)
    result = of_answers(traffic, answers, meter.use)
    machine.wait_until_idle(_REST_SECONDS)
    return result


def _cost(result: Result) -> float:
    return result.cpu_us_per_event["web"] + result.cpu_us_per_event["postgres"]


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _read_arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.turns", description=__doc__, formatter_class=form)
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT", help="with its own .venv or none")
    parser.add_argument("--only", nargs="+", choices=list(_TRAFFIC))
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn (3)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
