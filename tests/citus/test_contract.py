"""The contract of ingest on a Citus cluster, through a node that has not the cell's rows: its own tests, again."""

import pytest

from tests.ingest import (
    test_accepting,
    test_ended_keys,
    test_mismatch,
    test_policies,
    test_races,
    test_receipts,
    test_timestamps,
)
from tests.support.borrowed import borrowed_from

pytestmark = pytest.mark.citus

globals().update(
    borrowed_from(
        test_accepting, test_ended_keys, test_mismatch, test_policies, test_races, test_receipts, test_timestamps
    )
)
