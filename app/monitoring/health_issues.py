"""Health issues: which values of the system status are beyond the bounds of the alert rules.

deploy/alert-rules.yaml has a rule with the same name and bound for each (a test compares them). A rule fires after some
minutes; an issue is of the moment.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from app.config import Settings
from app.monitoring.system_status import SystemStatus, TaskStatus

_DAY_SECONDS: Final = 86_400

CLOCK_SKEW_SECONDS_MAX: Final = 60
"""Machines that synchronise time are within a second. From five minutes on a worker deletes nothing."""
FAILURES_IN_A_ROW_MAX: Final = 2
"""One or two failures are normal: a deploy, a database that restarts."""
OUTBOX_LAG_SECONDS_MAX: Final = 300
"""Folding runs every five seconds. Until then "last used" of keys is late, and usage queries read the outbox too."""
EXPIRED_LAG_SECONDS_MAX: Final = 3600
"""Purging runs every minute. A lag changes no answer, but the table grows."""
STALLED_JOB_SECONDS_MAX: Final = 3600
"""A job gets a turn every few seconds, beside many others every few minutes; what meets the same in ten of them in a
row has failed by then.
"""
FROZEN_SECONDS_MAX: Final = 30
"""The last part of a move takes a second or two. If it was cut off, its workspace is answered 503 until the next."""
PARTITIONS_AHEAD_SECONDS_MIN: Final = 2 * _DAY_SECONDS
"""Less would not last a weekend; after that, events go to the default partition."""
RETENTION_SLACK_SECONDS: Final = 2 * _DAY_SECONDS
"""A day is dropped as a whole, so its first event is a day older than its last; and one day to drop it in."""


class HealthIssue(NamedTuple):
    alert: str
    """The name of the rule in deploy/alert-rules.yaml, whose runbook helps."""
    message: str


DATABASE_AWAY: Final = HealthIssue("LaribaDatabaseAway", "PostgreSQL is away or too slow")


def health_issues_of(system: SystemStatus, settings: Settings) -> Iterator[HealthIssue]:
    for task in system.tasks:
        yield from _issues_of_task(task)
    if abs(system.clock_skew_seconds) > CLOCK_SKEW_SECONDS_MAX:
        message = f"this machine's clock is {system.clock_skew_seconds:+.0f} s from PostgreSQL's"
        yield HealthIssue("LaribaClockSkewed", message)
    if system.outbox_lag_seconds > OUTBOX_LAG_SECONDS_MAX:
        yield HealthIssue("LaribaUsageOutboxLags", f"usage waits for {system.outbox_lag_seconds:.0f} s to be folded")
    if system.expired_lag_seconds > EXPIRED_LAG_SECONDS_MAX:
        yield HealthIssue(
            "LaribaExpiredRecordsPileUp", f"records have been expired for {system.expired_lag_seconds:.0f} s"
        )
    if system.stalled_job_seconds > STALLED_JOB_SECONDS_MAX:
        message = f"an export or replay has done nothing for {system.stalled_job_seconds:.0f} s"
        yield HealthIssue("LaribaJobStalls", message)
    if system.frozen_seconds > FROZEN_SECONDS_MAX:
        message = f"a workspace has waited for {system.frozen_seconds:.0f} s for the last part of its move"
        yield HealthIssue("LaribaMoveCutOff", message)
    yield from _issues_of_days(system, settings)


def _issues_of_days(system: SystemStatus, settings: Settings) -> Iterator[HealthIssue]:
    if system.default_partition_rows > 0:
        yield HealthIssue("LaribaEventsInDefaultPartition", "events of days without a partition are in events_default")
    if system.partitions_ahead_seconds < PARTITIONS_AHEAD_SECONDS_MIN:
        days = system.partitions_ahead_seconds / _DAY_SECONDS
        yield HealthIssue("LaribaPartitionsRunOut", f"there are partitions for {days:.1f} days ahead")
    if settings.retention_days is not None and system.oldest_partition_at is not None:
        age_seconds = (system.read_at - system.oldest_partition_at).total_seconds()
        if age_seconds - settings.retention_days * _DAY_SECONDS > RETENTION_SLACK_SECONDS:
            yield HealthIssue("LaribaRetentionBehind", f"a partition is {age_seconds / _DAY_SECONDS:.0f} days old")


def _issues_of_task(task: TaskStatus) -> Iterator[HealthIssue]:
    if task.is_overdue:
        since = f"since {task.succeeded_at:%Y-%m-%dT%H:%M:%SZ}" if task.succeeded_at else "ever"
        yield HealthIssue("LaribaTaskOverdue", f"{task.name} has not succeeded {since}")
    if task.failures_in_a_row > FAILURES_IN_A_ROW_MAX:
        yield HealthIssue(
            "LaribaTaskFailing", f"{task.name} failed {task.failures_in_a_row} times in a row: {task.error}"
        )
