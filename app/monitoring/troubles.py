"""What is wrong with the upkeep of an installation, by the same bounds as the alert rules.

deploy/alert-rules.yaml has a rule of each name with the same bound (a test compares them); a rule waits for some
minutes before it calls anybody, and this tells of the moment.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from app.config import Settings
from app.monitoring.upkeep import TaskUpkeep, Upkeep

_DAY_SECONDS: Final = 86_400

CLOCK_SKEW_SECONDS_MAX: Final = 60
"""Machines that keep time are within a second of one another. From five minutes on a worker deletes nothing."""
FAILURES_IN_A_ROW_MAX: Final = 2
"""Once and twice happens: a deploy, a database that restarts."""
OUTBOX_LAG_SECONDS_MAX: Final = 300
"""Folding comes round every five seconds; "last used" of keys is that late, and usage has to read the rest."""
EXPIRED_LAG_SECONDS_MAX: Final = 3600
"""Purging comes round every minute; nothing is answered wrongly meanwhile, but the table grows."""
PARTITIONS_AHEAD_SECONDS_MIN: Final = 2 * _DAY_SECONDS
"""A weekend would use up what is left; after that, events go to the default partition."""
RETENTION_SLACK_SECONDS: Final = 2 * _DAY_SECONDS
"""A day goes as a whole, so its first event is a day older than its last one; and a day in which to drop it."""


class Trouble(NamedTuple):
    """One thing that is wrong."""

    alert: str
    """The name of the rule in deploy/alert-rules.yaml, which says what to look at."""
    message: str


DATABASE_AWAY: Final = Trouble("LaribaDatabaseAway", "PostgreSQL is away or too slow")


def troubles_of(upkeep: Upkeep, settings: Settings) -> Iterator[Trouble]:
    """Whatever is beyond its bound."""
    for task in upkeep.tasks:
        yield from _troubles_of_task(task)
    if abs(upkeep.clock_skew_seconds) > CLOCK_SKEW_SECONDS_MAX:
        yield Trouble(
            "LaribaClockSkewed", f"this machine's clock is {upkeep.clock_skew_seconds:+.0f} s from PostgreSQL's"
        )
    if upkeep.outbox_lag_seconds > OUTBOX_LAG_SECONDS_MAX:
        yield Trouble("LaribaUsageOutboxLags", f"usage waits for {upkeep.outbox_lag_seconds:.0f} s to be folded")
    if upkeep.expired_lag_seconds > EXPIRED_LAG_SECONDS_MAX:
        yield Trouble("LaribaExpiredRecordsPileUp", f"records have been expired for {upkeep.expired_lag_seconds:.0f} s")
    if upkeep.default_partition_rows > 0:
        yield Trouble("LaribaEventsInDefaultPartition", "events of days without a partition are in events_default")
    if upkeep.partitions_ahead_seconds < PARTITIONS_AHEAD_SECONDS_MIN:
        days = upkeep.partitions_ahead_seconds / _DAY_SECONDS
        yield Trouble("LaribaPartitionsRunOut", f"there are partitions for {days:.1f} days ahead")
    if settings.retention_days is not None and upkeep.oldest_partition_at is not None:
        age_seconds = (upkeep.read_at - upkeep.oldest_partition_at).total_seconds()
        if age_seconds - settings.retention_days * _DAY_SECONDS > RETENTION_SLACK_SECONDS:
            yield Trouble("LaribaRetentionBehind", f"a partition is {age_seconds / _DAY_SECONDS:.0f} days old")


def _troubles_of_task(task: TaskUpkeep) -> Iterator[Trouble]:
    if task.is_overdue:
        since = f"since {task.succeeded_at:%Y-%m-%dT%H:%M:%SZ}" if task.succeeded_at else "ever"
        yield Trouble("LaribaTaskOverdue", f"{task.name} has not succeeded {since}")
    if task.failures_in_a_row > FAILURES_IN_A_ROW_MAX:
        yield Trouble("LaribaTaskFailing", f"{task.name} failed {task.failures_in_a_row} times in a row: {task.error}")
