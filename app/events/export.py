"""Exports all events that a query finds, newest first, in chunks: of any number, in memory that does not grow.

Each chunk has a transaction of its own, so a slow reader holds no connection and no snapshot, and a token that is
revoked meanwhile reads no further. The range is frozen at the beginning, so nothing comes between two chunks.
"""

import csv
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from io import StringIO
from typing import Final, NamedTuple

import msgspec
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.errors import Fault, SchemaValidationFailed
from app.events.names import find_project, resolved
from app.events.query.identity import read_shown_id
from app.events.query.nodes import Node
from app.events.query.parsing import parse
from app.events.ranges import Bound, frozen_range
from app.events.search import read_horizon
from app.events.standby import Standby, read_up_to
from app.events.statements import EXPORT, reading
from app.events.transactions import FewDays
from app.events.view import ShownEvent, shown
from app.events.walk import Key, Walk
from app.management.common.operators import Operator
from app.management.common.token_validity import check_validity

CHUNK_EVENTS: Final = 2_000
"""About a megabyte, and some ten milliseconds of the database."""
SECONDS_MAX: Final = 4.0
"""How long a chunk looks for matches before it ends with what it has."""
_NOT_OURS: Final = "Must be the id of an event (evu_…): the last one that was received."


class Format(StrEnum):
    NDJSON = "ndjson"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """Which events; `after` is the last one of an export that broke off."""

    project_id: str
    q: str = ""
    begin: Bound | None = None
    end: Bound | None = None
    after: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """What is exported: what matches among the events of a project that were received at `begin` or later."""

    project_row: int
    node: Node
    """With its names resolved."""
    begin: datetime


class Chunk(NamedTuple):
    """The next matches, the newest first; perhaps none."""

    events: list[ShownEvent]
    upper: Key
    """All matches down to it are read."""
    is_last: bool


def next_chunk(transactions: FewDays, matches: Matches, upper: Key, until: float) -> Chunk:
    """The matches below `upper`: CHUNK_EVENTS at the most, and about those that are found `until` time.monotonic().

    Raises QueryTooBroad and StorageUnavailable.
    """
    walk = Walk(
        transactions=transactions,
        project_row=matches.project_row,
        node=matches.node,
        begin=matches.begin,
        upper=upper,
        limit=CHUNK_EVENTS,
        until=until,
    )
    walk.run()
    events = shown(transactions.session(), walk.found)
    return Chunk(events, walk.upper, is_last=walk.is_at_end)


def export_events(
    database: Database, operator: Operator, request: ExportRequest, standby: Standby | None = None
) -> Iterator[list[ShownEvent]]:
    """The matches in chunks, which may be empty; read on the standby if there is one.

    The token is checked on the primary, which has its revocation first.

    Raises SchemaValidationFailed and NotFound before the first chunk; InvalidManagementToken, QueryTooBroad and
    StorageUnavailable at any.
    """
    node = parse(request.q)
    begin = partial(reading, workspace_id=operator.workspace_id, query_class=EXPORT)
    matches: Matches | None = None
    is_over = False
    while not is_over:
        with FewDays(partial(begin, database)) as transactions:
            session = transactions.session()
            check_validity(session, operator)
            if matches is None:
                matches, end, upper = _begin(session, operator, request, node)
            read = partial(_read_chunk, matches, upper)
            events, upper, is_over = read_up_to(end, read, transactions, standby, begin)
        yield events


def _read_chunk(matches: Matches, upper: Key, transactions: FewDays) -> Chunk:
    return next_chunk(transactions, matches, upper, time.monotonic() + SECONDS_MAX)


def _begin(session: Session, operator: Operator, request: ExportRequest, node: Node) -> tuple[Matches, datetime, Key]:
    """What is exported, up to which moment, and below which event."""
    project = find_project(session, operator, request.project_id)
    within = frozen_range(request.begin, request.end, read_horizon(session, operator))
    upper = Key.before(within.end)
    if request.after is not None:
        last = read_shown_id(request.after)
        if last is None:
            raise SchemaValidationFailed(faults=(Fault("/after", _NOT_OURS),))
        upper = min(upper, Key(*last))
    node = resolved(session, operator, project.id, node)
    return Matches(project_row=project.id, node=node, begin=within.begin), within.end, upper


_ENCODER: Final = msgspec.json.Encoder()
_COLUMNS: Final = ShownEvent.__struct_fields__


def written(chunks: Iterable[list[ShownEvent]], form: Format) -> Iterator[tuple[bytes, int]]:
    """The chunks as text, each with the number of its events."""
    events = 0
    if first := head(form):
        yield first, 0
    for chunk in chunks:
        events += len(chunk)
        yield lines(chunk, form), len(chunk)
    if last := tail(events, form):
        yield last, 0


def head(form: Format) -> bytes:
    """What comes before the first event."""
    return _csv([_COLUMNS]) if form is Format.CSV else b""


def lines(events: Iterable[ShownEvent], form: Format) -> bytes:
    if form is Format.CSV:
        return _csv(_row_of(event) for event in events)
    return b"".join(_ENCODER.encode(event) + b"\n" for event in events)


def tail(events: int, form: Format) -> bytes:
    """What comes behind the last event. NDJSON ends with a line that says that it is whole, and how many there were."""
    return b"" if form is Format.CSV else _ENCODER.encode({"complete": True, "events": events}) + b"\n"


def _row_of(event: ShownEvent) -> list[str]:
    """Moments as in JSON; the payload as its JSON text."""
    members = {name: getattr(event, name) for name in _COLUMNS}
    moments = {name: _ENCODER.encode(members[name]).decode().strip('"') for name in ("timestamp", "received_at")}
    return list((members | moments | {"payload": bytes(event.payload).decode()}).values())


def _csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as one gzip member, each flushed, so that a slow query sends what it has."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for piece in pieces:
        if piece:
            yield compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()
