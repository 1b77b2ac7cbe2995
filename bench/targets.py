"""What the product has set itself: figures that it must reach, and goals beyond them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.results import Result

Measured = Mapping[str, Result]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One figure, how it follows from the runs, and where it should lie."""

    name: str
    value: Callable[[Measured], float]
    """Raises KeyError with the name of a run that is missing."""
    must: float
    goal: float
    unit: str = ""
    """Nothing for a ratio."""
    is_ceiling: bool = False
    """Whether less is better."""

    def verdict(self, value: float) -> str:
        """`goal`, `must`, or that it was missed."""
        for bound, word in ((self.goal, "goal"), (self.must, "must")):
            if value < bound if self.is_ceiling else value >= bound:
                return word
        return "MISSED"


def _rate(name: str) -> Callable[[Measured], float]:
    return lambda measured: measured[name].events_per_second


def _ratio(name: str, base: str) -> Callable[[Measured], float]:
    return lambda measured: measured[name].events_per_second / max(1e-9, measured[base].events_per_second)


RATIOS = (
    Target(name="single events / bare Flask view", value=_ratio("single_64", "bare_flask"), must=0.5, goal=0.8),
    Target(name="many sources / one source", value=_ratio("sources", "single_64"), must=0.85, goal=0.95),
    Target(
        name="batches of 1,000 / psycopg multi-row insert",
        value=_ratio("batch_1000", "insert_1000"),
        must=0.6,
        goal=0.8,
    ),
    Target(
        name="keys first used after a restart / warm keys", value=_ratio("first_use", "sources"), must=0.5, goal=0.8
    ),
    Target(name="with millions stored / empty", value=_ratio("stored", "single_64"), must=0.9, goal=1.0),
)
FIGURES = (
    Target(name="single events", value=_rate("single_64"), must=9_000, goal=15_000, unit="events/s"),
    Target(name="batches of 100", value=_rate("batch_100"), must=25_000, goal=45_000, unit="events/s"),
    Target(name="batches of 1,000", value=_rate("batch_1000"), must=30_000, goal=50_000, unit="events/s"),
    Target(
        name="p50, one connection",
        value=lambda measured: measured["single_1"].p50_ms,
        must=3,
        goal=1.5,
        unit="ms",
        is_ceiling=True,
    ),
    Target(
        name="p99 at half the top rate",
        value=lambda measured: measured["half_rate"].p99_ms,
        must=15,
        goal=8,
        unit="ms",
        is_ceiling=True,
    ),
    Target(
        name="RSS of a web process at its largest, in the soak",
        value=lambda measured: measured["soak"].rss_mib["web"],
        must=150,
        goal=100,
        unit="MiB",
        is_ceiling=True,
    ),
)
