"""How many examples Hypothesis tries: all of them in `make test-all` and CI, a fifth in `make test`."""

import os
from typing import Final

_SHARE: Final = 1 if os.environ.get("TEST_ALL_EXAMPLES") else 5
_LEAST: Final = 10


def examples(number: int) -> int:
    """Of `number`, those for this run."""
    return max(min(number, _LEAST), number // _SHARE)
