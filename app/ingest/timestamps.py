"""Says of a timestamp that its source refuses how far it is from our clock."""

from datetime import timedelta

from app.errors import Fault, TimestampOutOfRange


def timestamp_refusal(detail: str) -> TimestampOutOfRange:
    """The refusal for what the ingest function says: how many seconds ahead of receipt (negative: behind), and how many
    the source takes.
    """
    seconds, seconds_max = (abs(round(float(each))) for each in detail.split())
    side = "behind" if detail.startswith("-") else "ahead of"
    apart, bound = timedelta(seconds=seconds), timedelta(seconds=seconds_max)
    said = f"It is {apart} {side} our clock, and this source takes {bound} at the most."
    return TimestampOutOfRange(faults=(Fault("/timestamp", said),))
