"""What a run sends, what it gives, and what several repeats of it give together."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.machine import Use
from bench.wrk import Answers


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """A load on the product, and what it has to leave behind."""

    name: str
    title: str
    script: str = "events"
    connections: int = 64
    by: str = "demo"
    """Who sends: the `demo` source, or all the `sources`."""
    path: str = "/v1/events/ingest"
    argument: str = ""
    run: str | None = None
    events_per_request: int = 1
    may_store: int | None = None
    """None: every answer stands for a new event. A number: the answers are replays of so many events at the most."""
    with_records: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run, measured."""

    name: str
    title: str
    connections: int
    requests_per_second: float
    events_per_second: float
    p50_ms: float
    p99_ms: float
    refused: int = 0
    """Answers of 400 and above, time-outs and broken connections."""
    cpu_us_per_event: Mapping[str, float] = field(default_factory=dict)
    rss_mib: Mapping[str, float] = field(default_factory=dict)
    others_percent: float = 0.0
    is_noisy: bool = False
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A run that did not happen."""

    name: str
    title: str
    reason: str


class CannotRunError(Exception):
    """This run cannot happen here or now; the message says why."""


def of_answers(traffic: Traffic, answers: Answers, use: Use) -> Result:
    """The result of a load."""
    events = answers.accepted * traffic.events_per_request
    return Result(
        name=traffic.name,
        title=traffic.title,
        connections=traffic.connections,
        requests_per_second=answers.accepted / answers.seconds,
        events_per_second=events / answers.seconds,
        p50_ms=answers.p50_ms,
        p99_ms=answers.p99_ms,
        refused=answers.refused + answers.timeouts + answers.broken,
        cpu_us_per_event={kind: 1e6 * seconds / max(1, events) for kind, seconds in use.cpu_seconds.items()},
        rss_mib=use.rss_mib,
        others_percent=use.others_percent,
        is_noisy=use.is_noisy,
    )


def median_of(results: list[Result]) -> Result:
    """The one in the middle, by rate; of the quiet ones, as long as there are any."""
    candidates = [result for result in results if not result.is_noisy] or results
    middle = statistics.median_low(result.events_per_second for result in candidates)
    return next(result for result in candidates if result.events_per_second == middle)
