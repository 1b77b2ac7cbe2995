"""What one process may hold at once, as multiples of LARIBA_SERVER_THREADS."""

from dataclasses import dataclass
from typing import Final, Self

from app.config import Settings
from app.wire.body_reads import BodyReadLimits

# No thread of the adapter reads a body. Its threads wait: for PostgreSQL, for a connection to it, for argon2. So there
# are more of them than a server has that reads bodies on its threads: 128 for the default of 16.
THREADS_FACTOR: Final = 8
# Of requests that follow a feed, which come by hundreds when an event does: more at once would be refused by the pool
# for reading, and keep the interpreter from the events that come in. 4 for the default, half of them for one workspace.
_FEED_THREADS_SHARE: Final = 4
# --backpressure of granian; 2,048 for the default. A stalled body costs a connection and a few kilobytes.
CONNECTIONS_FACTOR: Final = 128
# Of bodies, until their requests are answered: a whole one waits too, for a thread or a batch slot. 128 MiB for the
# default.
_HELD_BYTES_FACTOR: Final = 8 * 1024 * 1024
# Half of the bytes is the share of one owner. Also where the setting is 1, it must be enough for two of the largest
# bodies: a body that came in pieces is in memory twice while they are joined.
_HELD_BODIES_MIN: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The threads of the application are shared out by SharedThreads: one workspace has half of them at the most."""

    threads: int
    probe_threads: int
    feed_threads: int
    body_reads: BodyReadLimits
    held_bytes: int
    held_bytes_per_owner: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The bounds for these settings."""
        threads = settings.server_threads * THREADS_FACTOR
        connections = settings.server_threads * CONNECTIONS_FACTOR
        body_bytes = max(settings.batch_bytes_max, settings.request_bytes_max)
        held_bytes = max(settings.server_threads * _HELD_BYTES_FACTOR, _HELD_BODIES_MIN * body_bytes)
        return cls(
            threads=threads,
            probe_threads=max(1, threads // 64),
            feed_threads=max(2, settings.server_threads // _FEED_THREADS_SHARE),
            body_reads=BodyReadLimits(
                per_owner=connections // 4,
                stalled_per_owner=connections // 16,
                total=connections * 3 // 4,
                stalled_total=connections // 2,
            ),
            held_bytes=held_bytes,
            held_bytes_per_owner=held_bytes // 2,
        )
