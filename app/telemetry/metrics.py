"""The metrics that a process counts; those of the system status are in app/monitoring/status_metrics.py.

docs/metrics.md has the same list for operators (a test compares them). Label values are our own (route templates, error
codes, outcomes) and never a caller's, so that they name no tenant and stay few.
"""

import threading
from bisect import bisect_left
from collections import Counter as CountOf
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from app.concurrency.fork import reset_after_fork

Item = TypeVar("Item")

# Processes that share a folder have no `_created` series, so none has.
disable_created_metrics()

# From a commit alone (1 ms) to beyond the two seconds within which each request is answered.
_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_EVENTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

OUTCOMES: Final[Mapping[str, str]] = {
    "event_accepted": "stored",
    "event_duplicate": "duplicate",
    "event_replayed": "replayed",
    "batch_accepted": "accepted",
    "batch_replayed": "replayed",
}
"""The outcome of an accepted request by its log event."""


class BulkHistogram(Histogram):
    """A histogram that observes many values for little more than the cost of one."""

    def observe_all(self, values: Iterable[float]) -> None:
        """As observe() of each value, but writes each bucket and the sum once (0.3 µs a value instead of 4)."""
        values = list(values)
        self._sum.inc(sum(values))
        for bucket, times in CountOf(bisect_left(self._upper_bounds, value) for value in values).items():
            self._buckets[bucket].inc(times)


REGISTRY: Final = CollectorRegistry()

_counter = partial(Counter, registry=REGISTRY)
_gauge = partial(Gauge, registry=REGISTRY)
_histogram = partial(BulkHistogram, registry=REGISTRY)

REQUESTS: Final = _counter(
    "lariba_requests_total",
    "Answered requests, each once.",
    ("method", "route", "outcome"),
)
REQUEST_SECONDS: Final = _histogram(
    "lariba_request_seconds",
    "From the request's arrival at the application to its answer.",
    ("method", "route"),
    buckets=_SECONDS,
)
BATCH_EVENTS: Final = _counter(
    "lariba_batch_events_total",
    "Events of batches by their verdict; replayed batches are counted as requests only.",
    ("verdict",),
)
GROUP_EVENTS: Final = _histogram(
    "lariba_group_events",
    "Single events that went to PostgreSQL with one statement and one commit.",
    buckets=_EVENTS,
)
COMMIT_SECONDS: Final = _histogram(
    "lariba_commit_seconds",
    "A group's statement with its commit, failed ones too.",
    buckets=_SECONDS,
)
QUEUE_WAIT_SECONDS: Final = _histogram(
    "lariba_queue_wait_seconds",
    "How long the first event of a group had waited when its statement began.",
    buckets=_SECONDS,
)
QUEUE_EVENTS: Final = _gauge(
    "lariba_queue_events",
    "Single events that are waiting for their verdict.",
    multiprocess_mode="livesum",
)
TIMESTAMPS_FAR: Final = _counter(
    "lariba_timestamps_far_total",
    "Events stored with the mark of a timestamp that is far from their receipt; those refused bear their outcome.",
)
EVENTS_SHOWN: Final = _counter(
    "lariba_events_shown_total",
    "Events in responses of the operations that read, those of an export as they are sent.",
    ("operation",),
)
GRANIAN_ADAPTERS: Final = _gauge(
    "lariba_granian_adapters",
    "Web processes that answer through the adapter for granian (app/granian).",
    multiprocess_mode="livesum",
)
KEY_LOOKUPS: Final = _counter(
    "lariba_key_lookups_total",
    "Credentials by where they were found: memory, the database (one query), or nowhere, which costs argon2 as well.",
    ("found",),
)
ARGON2_RUNS: Final = _counter(
    "lariba_argon2_runs_total",
    "Runs of argon2, about 20 ms of a core each: to prove a credential, to issue one, to renew its hash.",
    ("purpose",),
)
LIMITS_SHARED: Final = _gauge(
    "lariba_rate_limits_shared",
    "1 while all processes count rates together, 0 while one of them counts for itself; none where there is no Redis.",
    ("through",),
    multiprocess_mode="livemin",
)
POOL_IN_USE: Final = _gauge(
    "lariba_pool_connections_in_use",
    "Pooled connections to PostgreSQL in use.",
    ("program",),
    multiprocess_mode="livesum",
)
POOL_MAX: Final = _gauge(
    "lariba_pool_connections_max",
    "How many there may be, in all processes that have connected.",
    ("program",),
    multiprocess_mode="livesum",
)
POOL_TIMEOUTS: Final = _counter(
    "lariba_pool_timeouts_total",
    "Transactions that got no connection within a second, and so were refused with 503.",
    ("program",),
)
STANDBY_USED: Final = _gauge(
    "lariba_standby_used",
    "1 while the standby is read, 0 while the primary answers instead; none where no standby is set.",
    ("program",),
    multiprocess_mode="livemin",
)
STANDBY_LAG_SECONDS: Final = _gauge(
    "lariba_standby_lag_seconds",
    "How long ago the primary was where the standby is known to be, looked at once a second.",
    ("program",),
    multiprocess_mode="livemax",
)
STANDBY_READS: Final = _counter(
    "lariba_standby_reads_total",
    "Searches, counts and chunks of exports where a standby is set, by who answered, and why it was the primary.",
    ("answered_by",),
)


def count_request(method: str, route: str, outcome: str, seconds: float) -> None:
    """Count one answer; `route` is a template, or "unmatched"."""
    REQUESTS.labels(method, route, outcome).inc()
    REQUEST_SECONDS.labels(method, route).observe(seconds)


def count_requests(method: str, route: str, answers: Iterable[tuple[str, float]]) -> None:
    """Count many answers of one route, each with its outcome and seconds."""
    outcomes, seconds = zip(*answers, strict=True)
    for outcome, times in CountOf(outcomes).items():
        REQUESTS.labels(method, route, outcome).inc(times)
    REQUEST_SECONDS.labels(method, route).observe_all(seconds)


def count_groups(groups: Iterable[tuple[int, float, float]]) -> None:
    """Count groups, each with its events, the seconds of its statement, and the wait of its first event in seconds."""
    events, commit_seconds, wait_seconds = zip(*groups, strict=True)
    GROUP_EVENTS.observe_all(events)
    COMMIT_SECONDS.observe_all(commit_seconds)
    QUEUE_WAIT_SECONDS.observe_all(wait_seconds)


class MetricBuffer(Generic[Item]):
    """Defers counting (2 to 6 µs an item) on a hot path: `add` is an append, `flush` hands all items to `count`.

    For a variable of a module: a buffer stays registered for as long as the process lives.
    """

    def __init__(self, count: Callable[[list[Item]], None]) -> None:
        self._items: deque[Item] = deque()
        self._count = count
        self.add: Final = self._items.append
        self._reset()
        reset_after_fork(self, MetricBuffer._reset)
        _BUFFERS.append(self)

    def _reset(self) -> None:
        """Drop the parent's items: the parent counts them."""
        self._flushing = threading.Lock()
        self._items.clear()

    def flush(self) -> None:
        """Count all that was added before this call, also what another thread has taken and is counting."""
        with self._flushing:
            # Only the holder of the lock removes items, so at least as many are there.
            items = [self._items.popleft() for _ in range(len(self._items))]
            if items:
                self._count(items)


_BUFFERS: Final[list[MetricBuffer[Any]]] = []


def flush() -> None:
    """Count what all buffers hold: twenty times a second, before each scrape, and when the process ends."""
    for buffer in _BUFFERS:
        buffer.flush()
