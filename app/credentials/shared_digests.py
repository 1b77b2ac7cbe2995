"""The second tier of what is warm: sealed entries in Redis under their digests, shared by all processes.

Knows Redis and bytes; what an entry says and whether its seal is whole is Credentials' affair. Redis is optional at
every moment: away, frozen, flushed or full of rubbish, it costs the road one short wait and never an answer.

Cost (bench/prices.py): 10,000 entries load in about 30 ms, once per process and in the background; one look-up is a
round trip.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.concurrency.fork import reset_after_fork
from app.credentials.signing import DIGEST_BYTES
from app.credentials.warm_digests import ENTRIES_MAX

Entries = Iterable[tuple[bytes, bytes]]

_log = structlog.get_logger()

# A hash per week; this week's and the last one's are read, this week's is written. So an entry that nobody renews lives
# one to two weeks, and Redis itself forgets the rest (a hash's fields have no life of their own before Redis 7.4).
_WEEK_SECONDS = 7 * 24 * 3600
# What is warm is written again this often: a week's turn is seen, and after a flush a deploy is cheap again within it.
_RENEWAL_SECONDS = 3600.0
# A healthy Redis answers in one millisecond. This is what a frozen one costs, once.
_TIMEOUT_SECONDS = 0.1
# While it is away, only the keeper asks, so often.
_RETRY_SECONDS = 2.0
# Who needs an entry while the first load runs waits for it so long: 10,000 single look-ups are forty times as dear.
_LOAD_WAIT_SECONDS = 0.25
_CHUNK = 1000
# Waiting to be written. What does not fit is written at the next renewal.
_UNWRITTEN_MAX = 10_000
# Ours have about 70; whatever is longer is no entry and is not kept.
_SEALED_BYTES_MAX = 200


class SharedDigests:
    """Entries that outlive the process: loaded in bulk at the first use, looked up singly after that.

    A thread of its own, the keeper, loads, writes and renews, so none of these delays a request. It starts with the
    first use and not before, and a forked child begins anew.
    """

    def __init__(self, url: str, *, entries_max: int = ENTRIES_MAX) -> None:
        self._url = url
        self._entries_max = entries_max
        self._renewable: Callable[[], Entries] = tuple
        self._begin()
        reset_after_fork(self, SharedDigests._begin)

    def _begin(self) -> None:
        self._client = redis.Redis.from_url(
            self._url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),  # redis-py's own default asks up to eleven times
        )
        self._mutex = threading.Lock()
        self._keeper: threading.Thread | None = None
        self._loaded: dict[bytes, bytes] = {}
        self._unwritten: deque[tuple[bytes, bytes]] = deque(maxlen=_UNWRITTEN_MAX)
        self._wake = threading.Event()
        self._is_closed = threading.Event()
        self._has_tried = threading.Event()
        self._is_here = False
        self._is_refused = False

    def renew_from(self, renewable: Callable[[], Entries]) -> None:
        """Let the keeper ask `renewable` what is to be kept alive."""
        self._renewable = renewable

    def loaded(self, digest: bytes) -> bytes | None:
        """What the bulk load has brought for `digest`, from memory. Nobody has looked at the seal yet."""
        return self._loaded.get(digest)

    def drop_loaded(self, digest: bytes) -> None:
        """`digest` is remembered elsewhere by now."""
        self._loaded.pop(digest, None)

    def find(self, digest: bytes) -> bytes | None:
        """What is shared under `digest`, in one round trip at the most; None also if Redis is away. Never raises."""
        self._start_keeper()
        self._has_tried.wait(_LOAD_WAIT_SECONDS)
        loaded = self._loaded.get(digest)
        if loaded is not None or not self._is_here:
            return loaded
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for name, _ in _hashes():
                    pipeline.hget(name, digest)
                found = pipeline.execute()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here, argon2 still knows the answer
            self._leave(error)
            self._wake.set()
            return None
        return next((sealed for sealed in found if isinstance(sealed, bytes)), None)

    def remember(self, digest: bytes, sealed: bytes) -> None:
        """Share an entry, soon: the keeper writes it. Never raises."""
        self._unwritten.append((digest, sealed))
        self._start_keeper()
        self._wake.set()

    def close(self) -> None:
        """End the keeper and let the connections go. What was not written yet is lost, and proven again."""
        self._is_closed.set()
        self._wake.set()
        if self._keeper is not None:
            self._keeper.join()
        self._client.close()

    def _start_keeper(self) -> None:
        if self._keeper is not None:
            return
        with self._mutex:
            if self._keeper is None:
                keeper = threading.Thread(target=self._keep, name="shared-digests", daemon=True)
                # A machine out of threads: then there is no second tier until there is room for one.
                with contextlib.suppress(RuntimeError):
                    keeper.start()
                    self._keeper = keeper

    def _keep(self) -> None:
        """The keeper's life: load, write what is new, renew; when Redis is away, knock until it is back."""
        renewal_at = 0.0
        while not self._is_closed.is_set():
            try:
                if not self._is_here:
                    self._load()
                    renewal_at = time.monotonic()  # at once: it may have come back empty
                self._has_tried.set()
                if time.monotonic() >= renewal_at:
                    self._write(self._renewable())
                    renewal_at = time.monotonic() + _RENEWAL_SECONDS
                self._wake.wait(renewal_at - time.monotonic())
                self._wake.clear()
                self._write(self._take_unwritten())
            except Exception as error:  # noqa: BLE001 - the keeper outlives whatever Redis does
                self._leave(error)
                self._has_tried.set()
            if not self._is_here:
                self._is_closed.wait(_RETRY_SECONDS)

    def _load(self) -> None:
        """Fill the memory from Redis, this week's entries first; each is there for the road as its chunk arrives."""
        loaded: dict[bytes, bytes] = {}
        self._loaded = loaded
        for digest, sealed in self._scan():
            if len(loaded) >= self._entries_max:
                break
            if len(digest) == DIGEST_BYTES and len(sealed) <= _SEALED_BYTES_MAX:
                loaded.setdefault(digest, sealed)
        self._is_here = True
        _log.info("shared_digests_loaded", entries=len(loaded))

    def _scan(self) -> Entries:
        for name, _ in _hashes():
            cursor = -1
            while cursor:
                chunk: dict[bytes, bytes]
                cursor, chunk = self._client.hscan(name, max(cursor, 0), count=_CHUNK)  # type: ignore[assignment]
                # From here on single look-ups are worth asking: whoever has waited long enough need not run argon2.
                self._is_here = True
                yield from chunk.items()

    def _take_unwritten(self) -> Entries:
        while self._is_here:
            try:
                yield self._unwritten.popleft()
            except IndexError:
                return

    def _write(self, entries: Entries) -> None:
        name, ends_at = _hashes()[0]
        chunk: dict[Any, Any] = {}
        for digest, sealed in entries:
            chunk[digest] = sealed
            if len(chunk) == _CHUNK:
                self._write_chunk(name, ends_at, chunk)
                chunk = {}
        if chunk:
            self._write_chunk(name, ends_at, chunk)

    def _write_chunk(self, name: str, ends_at: int, chunk: dict[Any, Any]) -> None:
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                pipeline.hset(name, mapping=chunk)
                pipeline.expireat(name, ends_at)
                pipeline.execute()
        except redis.ResponseError as error:
            # Full, or a replica: it answers, so reading goes on.
            if not self._is_refused:
                _log.warning("shared_digests_not_written", reason=type(error).__name__)
            self._is_refused = True
        else:
            self._is_refused = False

    def _leave(self, error: Exception) -> None:
        """Ask no more until the keeper has had an answer."""
        # Not the error's text: it may quote what was sent.
        if self._is_here or not self._has_tried.is_set():
            _log.warning("shared_digests_away", reason=type(error).__name__)
        self._is_here = False


def _hashes() -> list[tuple[str, int]]:
    """This week's hash and the last one's: their names, and when each ends (Unix seconds)."""
    week = int(time.time()) // _WEEK_SECONDS
    return [(f"lariba:warm:{number}", (number + 2) * _WEEK_SECONDS) for number in (week, week - 1)]
