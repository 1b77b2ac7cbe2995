"""`make bench`: how fast the product is on this machine, beside what its Flask and PostgreSQL can do.

Starts the product as `make run` does (embedded PostgreSQL with fsync on, two web processes, Celery) in a temporary
folder on a free port, sends with wrk from the same machine, and prints ratios first, which hold on any machine.
Each run is audited: stored rows = 2xx answers, but for at most one request per connection that was under way when wrk
hung up, and nothing twice. The exit status is 1 if that does not hold; a missed target does not change it.

    make bench                                             everything that is on by default, about 5 minutes
    make bench BENCH_ARGS="--only single_64 bare_flask"    some runs (--list names them), and those they depend on
    make bench BENCH_ARGS="--repeats 3 --json bench.json"  medians, quiet runs preferred; the same as JSON
    make bench BENCH_ARGS="--seconds 2"                    quick and rough
    make bench BENCH_ARGS="--keys 10000"                   the restart with 10,000 keys: 200 s of argon2 beforehand
    make bench BENCH_ARGS="--stored 20000000"              fill first (30 GB, 7 minutes), then single events once more
    make bench BENCH_ARGS="--purge 3000000"                half the top rate, while the worker purges so many records
    make bench BENCH_ARGS="--soak 600"                     ten minutes of full load: what becomes of the web processes

Client: wrk, one thread, keep-alive, closed loop: each connection sends when it has been answered, so the latency at 64
connections is a queue's. `half_rate` is different: wrk has no option for a rate, so `paced.lua` lets each of 64
connections sleep (wrk's `delay()`) until the next moment of a fixed timetable at half the rate of `single_64`, in whole
milliseconds. Its latency begins when a request is sent. wrk's percentiles add what a stalled connection did not send.

Every event has about 430 bytes, a random-looking event_id and an Idempotency-Key (none in batches). The worker and beat
run all the while; between runs the bench waits, 12 s at most, until the usage outbox is folded and the machine is idle.
`insert_…` is psycopg with two client processes: plain multi-row INSERTs of the same rows into the same tables.
`first_use` sends once by each of --keys keys, restarts the web server, and sends once by each again; its keys have one
secret in common, which makes them cheap to make and no cheaper to prove.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from bench import machine, report, wrk
from bench.installation import InstallationError, installation
from bench.measuring import Bench, Options, say
from bench.plan import Run, plan
from bench.results import CannotRunError, Result, Skipped, median_of

_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


def main() -> int:
    arguments = read_arguments()
    runs = plan(stored=arguments.stored, soak_seconds=arguments.soak, purged=arguments.purge)
    if arguments.list:
        print("\n".join(f"{run.name:14}{run.title}" for run in runs))
        return 0
    wrk.check()
    # SIGTERM stops the product in order too.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="lariba-bench-", dir=arguments.folder) as folder:
            return bench(arguments, chosen(runs, arguments.only), Path(folder).resolve())
    except InstallationError as error:
        print(f"bench: the product does not start: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nbench: stopped", file=sys.stderr)
    return 1


def bench(arguments: argparse.Namespace, runs: list[Run], folder: Path) -> int:
    options = Options(
        seconds=arguments.seconds, sources=arguments.sources, workspaces=arguments.workspaces, keys=arguments.keys
    )
    say("Starting the product …\n")
    with installation(folder) as product:
        facts = machine.describe(folder, product.admin_database_url)
        if facts["disk"].startswith(_MEMORY_FILE_SYSTEMS):
            say("The folder lies in memory, where a flush costs nothing: choose another one with --folder.\n")
        work = Bench(product, folder, options)
        try:
            measured, skipped = carry_out(work, runs, arguments.repeats)
            say("Counting everything …\n")
            finding = work.audit_everything()
        finally:
            work.close()
    print(report.render(facts, measured, skipped, finding))
    if arguments.json:
        report.write_json(arguments.json, facts, measured, skipped, finding)
    return 1 if finding.problems else 0


def carry_out(work: Bench, runs: list[Run], repeats: int) -> tuple[dict[str, Result], list[Skipped]]:
    """All runs, then all of them again, so that slow changes of the machine affect all alike."""
    found: dict[str, list[Result]] = {}
    skipped: dict[str, Skipped] = {}
    total = len(runs) * repeats
    for n in range(total):
        run = runs[n % len(runs)]
        say(f"[{n + 1}/{total}] {run.title} … ")
        try:
            known = {name: median_of(results) for name, results in found.items()}
            result = run.measure_after(work, known)
        except (CannotRunError, wrk.WrkError) as error:
            skipped[run.name] = Skipped(name=run.name, title=run.title, reason=str(error))
            say(f"not measured: {error}\n")
            continue
        found.setdefault(run.name, []).append(result)
        say(f"{result.events_per_second:,.0f} events/s, p99 {result.p99_ms:.1f} ms{' (noisy)' * result.is_noisy}\n")
    return {name: median_of(results) for name, results in found.items()}, list(skipped.values())


def chosen(runs: list[Run], only: list[str] | None) -> list[Run]:
    """The requested runs, and those that they need."""
    wanted = {run.name for run in runs if (run.name in only if only else run.is_on)}
    for run in reversed(runs):
        if run.name in wanted:
            wanted |= set(run.needs)
    return [run for run in runs if run.name in wanted]


def read_arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("make bench", description=__doc__, formatter_class=form)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[run.name for run in plan(stored=1, soak_seconds=1, purged=1)]
    )
    parser.add_argument("--list", action="store_true", help="name the runs and end")
    parser.add_argument("--seconds", type=_positive, default=8, help="of each run (8)")
    parser.add_argument("--repeats", type=_positive, default=1, help="of everything; medians are shown (1)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--sources", type=_positive, default=500, help="that `sources` spreads over (500)")
    parser.add_argument("--workspaces", type=_positive, default=1, help="that the sources belong to (1)")
    parser.add_argument("--keys", type=_positive, default=2_000, help="of `first_use` (2,000; the target says 10,000)")
    parser.add_argument(
        "--stored", type=_positive, default=0, metavar="N", help="fill with N events, then measure again"
    )
    parser.add_argument("--purge", type=_positive, default=0, metavar="N", help="expired records during half the rate")
    parser.add_argument("--soak", type=_positive, default=0, metavar="SECONDS", help="of full load at the end")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; on a disk, not in memory")
    arguments = parser.parse_args()
    for option in ("stored", "soak", "purge"):
        if option in (arguments.only or []) and not getattr(arguments, option):
            parser.error(f"--only {option} needs --{option} N")
    if arguments.workspaces > arguments.sources:
        parser.error("a workspace needs a source: --workspaces is more than --sources")
    return arguments


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # As `make run` does: settings of another PostgreSQL in the shell must not affect this one.
    for variable in [name for name in os.environ if name.startswith(("PG", "LARIBA_"))]:
        del os.environ[variable]
    sys.exit(main())
