"""What a fuzzing run has archived and not restored: where schemathesis is right that a deleted thing is still there.

Its check `use_after_free` knows that a POST to a collection makes a thing anew, and knows neither that `POST …/restore`
takes an archived one back into use, nor that usage outlives what it tells of.
"""

import re
from typing import Final

_RESTORE: Final = "/restore"
# Documented to count events "also of an archived one".
_HISTORY: Final = re.compile(r"/v1/(?:projects|sources)/[^/]+/usage")


class Archived:
    """The paths of the objects that are archived at this moment, as the answers of the run have it."""

    def __init__(self) -> None:
        self._paths: set[str] = set()

    def note(self, method: str, path: str, status: int, *, is_replayed: bool) -> None:
        """Follow a request and its answer; one that was answered as a repeated request has changed nothing."""
        if not 200 <= status < 300 or is_replayed:
            return
        if method == "DELETE":
            self._paths.add(path)
        elif method == "POST" and path.endswith(_RESTORE):
            self._paths.discard(path.removesuffix(_RESTORE))

    def forbids(self, method: str, path: str, *, deleted: str) -> bool:
        """Whether a request must not have been answered with success, after `deleted` was archived."""
        is_history = method in ("GET", "HEAD") and _HISTORY.fullmatch(path) is not None
        return deleted in self._paths and not is_history
