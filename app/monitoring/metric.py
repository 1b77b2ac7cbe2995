"""How a field of what is monitored says that it is a metric too."""

from typing import NamedTuple


class Metric(NamedTuple):
    """Of a field that is a metric too (status_metrics.py)."""

    name: str
    says: str
    """The help text, which documents the field."""
