"""Fair shares of a bounded queue: how much a workspace may have waiting, and in which order it is served.

A workspace may hold as much as is still free, in number and in bytes: alone it gets half, two get a third each, and one
more always finds space. A fixed share would either waste space or leave none for a new workspace.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable

from app.ingest.pending_write import PendingWrite


class Shares:
    """Counts what waits; for many threads."""

    def __init__(self, number_max: int, bytes_max: int) -> None:
        self._mutex = threading.Lock()
        self._number_free = number_max
        self._bytes_free = bytes_max
        self._held: dict[int, list[int]] = {}
        """By workspace: number and bytes."""

    def take(self, write: PendingWrite) -> bool:
        """Whether it fits into its workspace's share; then it counts."""
        workspace_id, size = write.identity.workspace_id, write.payload_bytes
        with self._mutex:
            held = self._held.get(workspace_id) or [0, 0]
            if held[0] >= self._number_free or held[1] + size > self._bytes_free:
                return False
            held[0] += 1
            held[1] += size
            self._held[workspace_id] = held
            self._number_free -= 1
            self._bytes_free -= size
            return True

    def give_back(self, writes: Iterable[PendingWrite]) -> None:
        with self._mutex:
            for write in writes:
                held = self._held[write.identity.workspace_id]
                held[0] -= 1
                held[1] -= write.payload_bytes
                if not held[0]:
                    del self._held[write.identity.workspace_id]
                self._number_free += 1
                self._bytes_free += write.payload_bytes


class RoundRobin:
    """A queue in which workspaces take turns; for one thread."""

    def __init__(self) -> None:
        self._queues: OrderedDict[int, deque[PendingWrite]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, write: PendingWrite) -> None:
        workspace_id = write.identity.workspace_id
        waiting = self._queues.get(workspace_id)
        if waiting is None:
            waiting = self._queues[workspace_id] = deque()
        waiting.append(write)

    def take(self) -> PendingWrite:
        """The next one; there must be one."""
        workspace_id = next(iter(self._queues))
        waiting = self._queues[workspace_id]
        write = waiting.popleft()
        if not waiting:
            del self._queues[workspace_id]
        elif len(self._queues) > 1:
            self._queues.move_to_end(workspace_id)
        return write
