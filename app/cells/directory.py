"""The other cells of the installation, and whose keys and tokens are theirs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy import text

from app.cells.names import CELL_HEADER, named_in
from app.database.engine import Database, TenantScope
from app.errors import InvalidManagementToken, InvalidSourceKey, StorageUnavailable, WrongCell

_OTHERS: Final = text("SELECT name FROM cells WHERE NOT is_own")
# A new cell is made before its first key is: until it is known here, its keys are answered as unknown ones.
_REMEMBERED_SECONDS: Final = 10.0
_DEADLINE_SECONDS: Final = 1.0


MOVING: Final = (
    "Nothing was stored or changed: this workspace is moving to another cell. Repeat the same request later."
)


def wrong_cell(name: str) -> WrongCell:
    """The refusal that says where to go."""
    refusal = WrongCell(f"This key or token is of the cell {name}: send the request there.")
    refusal.headers = {CELL_HEADER: name}
    return refusal


class OtherCells:
    """Those of one process. Read again when an unknown key comes, every ten seconds at the most."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._names: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._reading = threading.Lock()

    @contextmanager
    def naming_theirs(self, credential: str | None) -> Iterator[None]:
        """Raise WrongCell instead of a refusal of `credential`, if it is of another cell.

        Its id says so: no secret is proven, and only what the id says is answered.
        """
        try:
            yield
        except (InvalidSourceKey, InvalidManagementToken) as refusal:
            name = named_in(credential or "")
            if name in self._known():
                raise wrong_cell(name) from refusal
            raise

    def _known(self) -> frozenset[str]:
        """Their names; those read last while the database is away, or while another thread reads them."""
        now = self._clock()
        if now - self._read_at >= _REMEMBERED_SECONDS and self._reading.acquire(blocking=False):
            try:
                self._read_at = now
                with suppress(StorageUnavailable):
                    self._names = self._read()
            finally:
                self._reading.release()
        return self._names

    def _read(self) -> frozenset[str]:
        with self._database.transaction(TenantScope.NONE, deadline_seconds=_DEADLINE_SECONDS) as session:
            return frozenset(session.execute(_OTHERS).scalars())
