"""As test_contract.py, of requests of which nothing may be stored."""

import pytest

from tests.ingest import test_batch_refusing, test_refusing
from tests.support.borrowed import borrowed_from

pytestmark = pytest.mark.citus

globals().update(borrowed_from(test_batch_refusing, test_refusing))
