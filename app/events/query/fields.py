"""The fields of an event that a query can name, and what each of them takes."""

from enum import Enum
from typing import Final

SEVERITIES: Final = ("debug", "info", "warning", "error", "critical")
"""In their order."""
PAYLOAD: Final = "payload"


class Field(Enum):
    """A field that every event has, by the name under which it is printed."""

    TYPE = "type"
    SEVERITY = "severity"
    SOURCE = "source"
    ENVIRONMENT = "env"
    KEY = "key"
    ID = "id"
    TIMESTAMP = "timestamp"


FIELDS: Final = {field.value: field for field in Field} | {"environment": Field.ENVIRONMENT}
"""By every name that may be written."""
NAMED: Final = frozenset({Field.SOURCE, Field.ENVIRONMENT, Field.KEY})
"""Fields whose values are names of objects, which resolution.py looks up."""
ORDERED: Final = frozenset({Field.SEVERITY, Field.TIMESTAMP})
ROLLED_UP: Final = frozenset({Field.TYPE, Field.SEVERITY, *NAMED})
"""Fields by which the hourly counts are split."""
