"""`python -m bench.footprint`: how much memory the local run takes when idle, and how soon it is ready.

Proportional sizes (PSS): memory that processes share counts once, in equal parts. Needs Linux's /proc, and is as exact
as the packages are the same: those of the tests and checks make some imports larger.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

from bench.installation import installation

_KINDS = {"lariba-guard": "guard", "granian": "web", "celery": "worker", "postgres": "postgres", "redis": "redis"}
_MIB = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long it idles before it is measured")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="lariba-footprint-") as folder:
        with installation(Path(folder)):
            pass  # the first start makes the database, which no other one does
        began = time.monotonic()
        with installation(Path(folder)) as product:
            print(f"ready after {time.monotonic() - began:.1f} s")
            time.sleep(seconds)
            _print_table(psutil.Process(product.process.pid))


def _print_table(supervisor: psutil.Process) -> None:
    sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for process in (supervisor, *supervisor.children(recursive=True)):
        memory = process.memory_full_info()
        sizes[_kind(process, supervisor)].append((memory.pss, memory.rss))
    print("program     processes   PSS MiB   RSS MiB")
    everything = [size for each in sizes.values() for size in each]
    for kind, each in (*sizes.items(), ("all", everything)):
        pss, rss = (sum(column) / _MIB for column in zip(*each, strict=True))
        print(f"{kind:<12}{len(each):>9}{pss:>10.0f}{rss:>10.0f}")


def _kind(process: psutil.Process, supervisor: psutil.Process) -> str:
    """What it belongs to: children have their parent's name for themselves, or one that their server has given them."""
    words = " ".join(process.cmdline())
    found = next((kind for word, kind in {**_KINDS, "valkey": "redis"}.items() if word in words), "other")
    return "supervisor" if process == supervisor else found


if __name__ == "__main__":
    main()
