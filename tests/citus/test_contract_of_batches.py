"""As test_contract.py, of batches."""

import pytest

from tests.ingest import test_batch, test_batch_replaying
from tests.support.borrowed import borrowed_from

pytestmark = pytest.mark.citus

globals().update(borrowed_from(test_batch, test_batch_replaying))
