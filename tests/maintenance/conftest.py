"""A database of a test's own, for what looks at all partitions or all rows at once."""

from collections.abc import Iterator

import pytest

from app.cells.directory import OtherCells
from app.concurrency.limit import ConcurrencyLimit
from app.config import Settings
from app.context import Context, ManagementContext
from app.counting.reads import Reads
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.database.owner import Owner
from app.rate_limits import RateLimiter, Rates
from app.wire.body_reads import BodyReadLimiter, BodyReadLimits
from tests.support.databases import close, copied_database
from tests.support.installation import Installation

_NO_LIMIT = ConcurrencyLimit(99, at_once_per_client=99, waiting_per_client=0, wait_seconds=0, busy="")


@pytest.fixture(name="installation")
def _installation(server_url: str, migrated: Settings, credentials: Credentials) -> Iterator[Installation]:
    with copied_database(server_url, migrated) as settings:
        database = Database(settings.database_url, pool_size=6, lock_timeout_seconds=5)
        limiter = RateLimiter(Rates(key=None, workspace=None))
        context = Context(
            settings=settings,
            database=database,
            credentials=credentials,
            rate_limiter=limiter,
            management=ManagementContext(database, _NO_LIMIT, limiter),
            reading=database,
            other_cells=OtherCells(database),
            body_reads=BodyReadLimiter(BodyReadLimits.of_threads(settings.server_threads)),
            reads=Reads(database, flush_seconds=None),
        )
        installation = Installation(context, Owner(settings.admin_database_url))
        # The days that migrating has made are those of the real clock; a test has one of its own.
        installation.sql(f"DROP TABLE {', '.join(f'events_{day:%Y%m%d}' for day in installation.days())}")
        yield installation
        close(database)
