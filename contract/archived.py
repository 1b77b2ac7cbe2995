"""What a fuzzing run has archived and not restored: there alone schemathesis' check `use_after_free` is right.

The check knows that a POST to a collection creates an object again. It does not know that `POST …/restore` and a
PUT do too, nor that the usage of an archived object stays readable.
"""

import re
from typing import Final

_RESTORE: Final = "/restore"
# Documented to count events "also of an archived one".
_HISTORY: Final = re.compile(r"/v1/(?:projects|sources)/[^/]+/usage")


class Archived:
    """The paths of the objects that are archived at this moment, by the responses of the run."""

    def __init__(self) -> None:
        self._paths: set[str] = set()

    def record(self, method: str, path: str, status: int, *, is_replayed: bool) -> None:
        """Record a request and its response; a replayed one has changed nothing."""
        if not 200 <= status < 300 or is_replayed:
            return
        if method == "DELETE":
            self._paths.add(path)
        elif method == "PUT":
            self._paths.discard(path)
        elif method == "POST" and path.endswith(_RESTORE):
            self._paths.discard(path.removesuffix(_RESTORE))

    def forbids(self, method: str, path: str, *, deleted: str) -> bool:
        """Whether a request after `deleted` was archived must fail."""
        is_history = method in ("GET", "HEAD") and _HISTORY.fullmatch(path) is not None
        return deleted in self._paths and not is_history
