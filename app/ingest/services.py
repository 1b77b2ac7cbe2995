"""What the ingest path is given by the factory: one typed value, passed as an argument."""

from dataclasses import dataclass
from typing import Final

from app.cells.directory import OtherCells
from app.concurrency.limit import ConcurrencyLimit
from app.config import Settings
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.ingest.committer import Committer
from app.ingest.cors import Origins
from app.ingest.refusals import Refusals
from app.rate_limits import RateLimiter
from app.wire.body_reads import BodyReadLimiter

EXTENSION: Final = "lariba.ingest"
"""Where the factory keeps them in `app.extensions`."""


@dataclass(frozen=True, slots=True)
class IngestServices:
    """The services of one process."""

    settings: Settings
    database: Database
    credentials: Credentials
    committer: Committer
    rate_limiter: RateLimiter
    batch_slots: ConcurrencyLimit
    """Bounds how many batches are decoded and stored at once."""
    body_reads: BodyReadLimiter
    other_cells: OtherCells
    origins: Origins
    refusals: Refusals
