"""Reads what was counted, and compares two moments."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families

from app.telemetry import metrics

Counts = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def counts_of_this_process() -> Counts:
    metrics.flush()
    return {
        _key(sample.name, sample.labels): sample.value for it in metrics.REGISTRY.collect() for sample in it.samples
    }


def counts_of_page(page: str) -> Counts:
    """The samples of an answer of `/metrics`."""
    return {
        _key(sample.name, sample.labels): sample.value
        for it in text_string_to_metric_families(page)
        for sample in it.samples
    }


def count_of(counts: Counts, name: str, **labels: str) -> float:
    return counts.get(_key(name, labels), 0.0)


def sum_of(counts: Counts, name: str, **labels: str) -> float:
    """Over all samples of `name` that have `labels`, whatever other ones."""
    wanted = set(labels.items())
    return sum(value for (known, those), value in counts.items() if known == name and wanted <= set(those))


class Growth(Counts):
    """What has changed."""


@contextmanager
def growing() -> Iterator[Growth]:
    """What grows in this process while the block runs, filled in at its end."""
    before = counts_of_this_process()
    growth = Growth()
    yield growth
    after = counts_of_this_process()
    growth.update({key: value - before.get(key, 0.0) for key, value in after.items() if value != before.get(key, 0.0)})


def requests_in(growth: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]) -> dict[tuple[str, str, str], float]:
    """How many requests came in addition, by method, route and outcome."""
    found = {}
    for (name, those), value in growth.items():
        if name == "lariba_requests_total":
            labels = dict(those)
            found[labels["method"], labels["route"], labels["outcome"]] = value
    return found


def _key(name: str, labels: Mapping[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))
