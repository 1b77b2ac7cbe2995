"""Structured logs: one JSON object a line on standard error, with keys, tokens and payloads redacted."""

import logging
import re
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# A credential, also within a longer text, a traceback or a library's message. The key id stays: it is public, and
# operators search for it.
_CREDENTIAL = re.compile(r"(lrb_(?:sk|mt)_[0-9A-Za-z]{1,16})_[0-9A-Za-z]+")
# PostgreSQL's DETAIL shows the refused row with its payload, up to the next part of the message.
_REFUSED_ROW = re.compile(r"DETAIL:.*?(?=\n(?:HINT|CONTEXT|\[SQL|Traceback|The above|During)|\Z)", re.DOTALL)
_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s]{0,100}):[^@/\s]+@")

# Celery logs each tick three times, every few seconds. Our own line says what a run has done
# (app/maintenance/scheduler.py).
_ROUTINE = ("celery.beat", "celery.worker.strategy", "celery.app.trace")

_FIRST = {"timestamp": 0, "level": 1, "event": 2}


def configure(level: str, cell: str = "") -> None:
    """Send structlog's and the standard library's records through one formatter to standard error.

    Each line of a `cell` with a name bears it.
    """

    def in_cell(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        return {**event, "cell": cell} if cell else event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                in_cell,
                in_reading_order,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Alembic logs its dialect at each look at the schema, readiness checks included.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in _ROUTINE:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "DEBUG" else logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def redact(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Redact credentials and passwords in every value, however deep."""
    return {key: _redacted(value) for key, value in event.items()}


def in_reading_order(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Timestamp, level and event first, then all other fields by name."""
    return {name: event[name] for name in sorted(event, key=lambda name: (_FIRST.get(name, len(_FIRST)), name))}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        value = _REFUSED_ROW.sub("DETAIL: [redacted]", _CREDENTIAL.sub(r"\1_[redacted]", value))
        return _PASSWORD_IN_URL.sub(r"\1:[redacted]@", value)
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return value
