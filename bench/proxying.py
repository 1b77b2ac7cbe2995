"""`python -m bench.proxying`: what nginx and HAProxy cost per event, with the files of deploy/ before the local run.

Single events by wrk over 64 connections that are kept; the proxy's user and system time over the events that were
accepted, with its log and a map of two cells. Beside it the web server's: both grow where others share the cores.
"""

import argparse
import tempfile
from pathlib import Path

import psutil

from bench import wrk
from bench.installation import installation
from bench.machine import Meter
from bench.proxies import PROGRAMS, missing, proxy
from bench.senders import demo_sender

_CHECKOUT = Path(__file__).resolve().parents[1]
_WARM_UP_SECONDS = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each is measured")
    parser.add_argument("--connections", type=int, default=64)
    given = parser.parse_args()
    wrk.check()
    with tempfile.TemporaryDirectory(prefix="lariba-proxying-") as name, installation(Path(name)) as product:
        folder = Path(name)
        load = wrk.Load(script="events", connections=given.connections, senders=demo_sender(product, folder))
        print("proxy       events/s   µs of its CPU   of the web server's   % of the machine for others")
        for program in PROGRAMS:
            if reason := missing(program):
                print(reason)
                continue
            servers = {cell: [product.port] for cell in ("eu1", "us1")}
            with proxy(program, _CHECKOUT, folder / program, servers) as front:
                url = f"http://127.0.0.1:{front.port}"
                wrk.send(url, load, _WARM_UP_SECONDS)
                with Meter({"proxy": psutil.Process(front.process.pid), **product.roots()}) as meter:
                    answers = wrk.send(url, load, given.seconds)
            proxys, webs = (meter.use.cpu_seconds[name] / answers.accepted * 1e6 for name in ("proxy", "web"))
            rate = answers.accepted / answers.seconds
            print(f"{program:<12}{rate:>8.0f}{proxys:>16.1f}{webs:>22.1f}{meter.use.others_percent:>28.1f}")


if __name__ == "__main__":
    main()
