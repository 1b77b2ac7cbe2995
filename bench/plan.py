"""The runs of the benchmark, in their order."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench import ceiling, history, machine, wrk
from bench.audit import Expected
from bench.ceiling import Insert, Written
from bench.installation import bare_flask
from bench.measuring import Bench, say
from bench.results import CannotRunError, Result, Traffic, of_answers

_BATCH_PATH = "/v1/events/ingest/batch"
# Few enough that the slowest product has stored them all before the run proper.
_REPLAYED_EVENTS = 256
# Proving a key for the first time is argon2: 20 ms of a core, and a slower machine takes longer.
_PROOF_SECONDS_MAX = 0.2
_WARM_SECONDS = 2
# More requests at once than the queues of two processes hold (queue_events_max): the rest is refused at once.
_OVERLOAD = 3_000

_BARE = Traffic(name="bare_flask", title="bare Flask view, 64 connections")
SINGLE = Traffic(name="single_64", title="single events, 64 connections")
SOURCES = Traffic(name="sources", title="single events by many sources", by="sources")
REPLAYS = Traffic(name="replays", title="replays", script="replays", argument=str(_REPLAYED_EVENTS), may_store=0)

Measured = dict[str, Result]
Measure = Callable[[Bench, Measured], Result]


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the table: how it is measured, and which lines it needs for that."""

    name: str
    title: str
    measure: Measure
    needs: tuple[str, ...] = ()
    is_on: bool = True
    """Whether it belongs to a default benchmark."""

    def measure_after(self, bench: Bench, measured: Measured) -> Result:
        """Measure, if what it needs has been measured. Raises CannotRunError."""
        for name in self.needs:
            if name not in measured:
                raise CannotRunError(f"it needs {name}")
        return self.measure(bench, measured)


def plan(*, stored: int, soak_seconds: int, purged: int) -> list[Run]:
    """All runs; those with an option of their own are on if it was given."""
    return [
        Run(_BARE.name, _BARE.title, _bare_flask),
        *(_traffic(replace(SINGLE, name=f"single_{n}", title=_connections(n), connections=n)) for n in (1, 16, 64)),
        _traffic(SOURCES),
        Run(REPLAYS.name, REPLAYS.title, _replays),
        *(_traffic(batches(size)) for size in (100, 1_000)),
        _traffic(replace(SINGLE, name="overload", title=_connections(_OVERLOAD), connections=_OVERLOAD)),
        Run("half_rate", "single events at half the top rate", _half_rate, needs=("single_64",)),
        Run(
            "purge",
            "single events at half the top rate, N records to purge",
            lambda bench, measured: _purging(bench, measured, purged),
            needs=("single_64",),
            is_on=purged > 0,
        ),
        Run("first_use", "keys first used after a restart", _first_use, needs=("sources",)),
        *(_inserts("multi-row", size) for size in (100, 1_000)),
        _inserts("copy", 1_000),
        Run(
            "stored",
            f"single events with {stored:,} stored" if stored else "single events with N stored",
            lambda bench, _: _stored(bench, stored),
            needs=("single_64",),
            is_on=stored > 0,
        ),
        Run(
            "soak",
            f"single events for {soak_seconds} s" if soak_seconds else "single events for N s",
            lambda bench, _: _soak(bench, soak_seconds),
            is_on=soak_seconds > 0,
        ),
    ]


def _connections(n: int) -> str:
    return f"single events, {n:,} connection{'s' if n > 1 else ''}"


def _traffic(traffic: Traffic) -> Run:
    return Run(traffic.name, traffic.title, lambda bench, _: bench.measure(traffic, bench.options.seconds))


def batches(size: int) -> Traffic:
    return Traffic(
        name=f"batch_{size}",
        title=f"batches of {size:,}",
        script="batches",
        connections=8,
        path=_BATCH_PATH,
        argument=str(size),
        events_per_request=size,
        # The events of a batch carry an event_id and no Idempotency-Key.
        with_records=False,
    )


def _bare_flask(bench: Bench, _: Measured) -> Result:
    with bare_flask(bench.folder) as (url, leader):
        load = wrk.Load(script=_BARE.script, connections=_BARE.connections, senders=bench.file_of("demo"))
        wrk.send(url, load, _WARM_SECONDS)
        with machine.Meter({"web": leader}) as meter:
            answers = wrk.send(url, load, bench.options.seconds)
    return of_answers(_BARE, answers, meter.use)


def _replays(bench: Bench, _: Measured) -> Result:
    again = replace(REPLAYS, run=wrk.new_run())
    bench.send(replace(again, may_store=_REPLAYED_EVENTS), _WARM_SECONDS)
    return bench.measure(again, bench.options.seconds, is_warm=True)


def _inserts(form: str, events_per_commit: int) -> Run:
    name = f"{'copy' if form == 'copy' else 'insert'}_{events_per_commit}"
    title = f"psycopg alone, {form}, commit per {events_per_commit:,}"

    def measure(bench: Bench, _: Measured) -> Result:
        insert = Insert(form=form, events_per_commit=events_per_commit)
        url, source_id = bench.product.admin_database_url, bench.product.variables["LARIBA_SOURCE_ID"]
        with machine.Meter(bench.product.roots()) as meter:
            written = ceiling.write_rows(url, source_id, insert, bench.options.seconds / 2)
        # Each client begins with a commit that is not timed.
        events = sum(one.events for one in written) + ceiling.PROCESSES * events_per_commit
        bench.forget_usage()
        bench.audit(title, Expected(answered=events, unanswered_max=0))
        return _of_inserts(name, title, written, meter.use)

    return Run(name, title, measure)


def _of_inserts(name: str, title: str, written: list[Written], use: machine.Use) -> Result:
    events = sum(one.events for one in written)
    rate = events / max(one.seconds for one in written)
    commits = sorted(took for one in written for took in one.commit_ms)
    return Result(
        name=name,
        title=title,
        connections=len(written),
        requests_per_second=rate * len(commits) / events,
        events_per_second=rate,
        p50_ms=commits[len(commits) // 2],
        p99_ms=commits[len(commits) * 99 // 100],
        # The rows are made in the same processes, outside of the time: their own CPU says nothing.
        cpu_us_per_event={"postgres": 1e6 * use.cpu_seconds.get("postgres", 0.0) / events},
        rss_mib=use.rss_mib,
        others_percent=use.others_percent,
        is_noisy=use.is_noisy,
    )


def _half_rate(bench: Bench, measured: Measured) -> Result:
    return bench.measure(_at_half_rate(measured, "half_rate", "half the top rate"), bench.options.seconds)


def _at_half_rate(measured: Measured, name: str, title: str) -> Traffic:
    rate = max(1, round(measured["single_64"].events_per_second / 2))
    title = f"single events at {rate:,}/s, {title}"
    return replace(SINGLE, name=name, title=title, script="paced", argument=str(rate))


def _purging(bench: Bench, measured: Measured, records: int) -> Result:
    """As half_rate, while the worker purges as fast as it can."""
    history.fill_expired(bench.product.admin_database_url, records)
    bench.wait_for_the_purge(records)
    before = bench.unpurged()
    traffic = _at_half_rate(measured, "purge", "records are purged meanwhile")
    result = bench.measure(traffic, bench.options.seconds, is_warm=True)
    return replace(
        result,
        note=f"{before:,} records were to be purged at its beginning, {bench.unpurged():,} some seconds after it",
    )


def _first_use(bench: Bench, _: Measured) -> Result:
    """Each key once, so that it is known to all; a restart; each key once more: that is what is measured.

    The new processes are warmed by another key first: what a restart costs beside the keys is not asked here.
    """
    keys = bench.options.keys
    title = f"{keys:,} keys, each first used after a restart"
    once = replace(SINGLE, name="first_use", title=title, by="keys", argument="once")
    say(f"proving {keys:,} keys … ")
    longest = 10 + keys * _PROOF_SECONDS_MAX
    first = bench.send(replace(once, connections=16), longest)
    if not first.round_seconds:
        raise CannotRunError(f"the keys were not all used within {longest:.0f} s")
    bench.product.restart_web()
    bench.warm_up(SINGLE)
    with machine.Meter(bench.product.roots()) as meter:
        answers = bench.send_unaudited(once, longest)
    bench.check_counts(once, answers)
    if not answers.round_seconds:
        raise CannotRunError(f"the keys were not all used within {longest:.0f} s")
    result = of_answers(once, answers, meter.use)
    # The last key went out when all but those of the other connections had been answered.
    rate = (keys + 1 - once.connections) / answers.round_seconds
    note = f"proving them all at first: {keys / first.round_seconds:,.0f}/s, {first.refused} refused"
    return replace(result, requests_per_second=rate, events_per_second=rate, note=note)


def _soak(bench: Bench, seconds: int) -> Result:
    title = f"single events, 64 connections, {seconds} s"
    return bench.measure(replace(SINGLE, name="soak", title=title), seconds)


def _stored(bench: Bench, events: int) -> Result:
    title = f"single events, 64 connections, {events:,} stored"

    def progress(done: int) -> None:
        say(f"{done:,} filled … ")

    source_id = bench.product.variables["LARIBA_SOURCE_ID"]
    try:
        history.fill(bench.product.admin_database_url, bench.folder, source_id, events, progress)
    except history.NoDiskSpaceError as error:
        raise CannotRunError(str(error)) from error
    bench.recount()
    return bench.measure(replace(SINGLE, name="stored", title=title), bench.options.seconds)
