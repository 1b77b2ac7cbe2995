"""Statements as they must be sent on a Citus cluster, so that they run where the cell's tables lie.

A statement without a table runs on the node that it was sent to. There a stored function finds no rows, an advisory
lock meets none of the cell's, and set_config() sets nothing for the node that has the rows. Citus sends a SELECT with
all that it calls to the node of the table that it names: so these name alembic_version, which has one row.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from psycopg import sql

WRITING: Final = ("store_events", "build_event_segment")
"""The functions that write to the cell's shards, which Citus does not notice."""
READING: Final = ("judge_callers", "is_origin_allowed", "event_horizon", "event_days_after")
JUDGE_APART: Final = "judge_callers_apart"
"""What statements call in place of judge_callers."""
STORE_TEXT: Final = "store_events_text"
"""What a group of events is given to in place of store_events: the same, with text for JSON."""

_ONE_ROW: Final = "alembic_version"
_CALLED: Final = "|".join((*WRITING, *READING, JUDGE_APART))
_FROM_CALL: Final = re.compile(rf"\bFROM ({_CALLED}|unnest)\(")
_BOUND_TO_ROWS: Final = re.compile(rf"\b(?:{_CALLED}|run_on_shards|pg_advisory_xact_lock(?:_shared)?|last_position)\(")
# Of the sequence that this node has; the cell's last position is where the cell is.
_LAST_VALUE: Final = "pg_sequence_last_value('event_positions')"
_WRITES: Final = re.compile(rf"\b(?:{'|'.join(WRITING)}|run_on_shards)\(")
# An INSERT of what the statement reads: Citus would collect the rows and send them to the node by COPY, which
# row security forbids.
_INSERTS_WHAT_IT_READS: Final = re.compile(r"\bINSERT INTO\b.*\bjsonb_to_recordset\(", re.DOTALL)
# Below it the further call takes more than the JSON (bench/citus.py).
_TEXT_CHARACTERS: Final = 4096
_PARAMETER: Final = re.compile(r"%\((\w+)\)s")
_CASTS: Final = {UUID: "::uuid", int: "::bigint"}
_NAMES_TABLE: Final = re.compile(r"\bFROM\b")
_SETTING: Final = re.compile(r"set_config\('([a-z_.]+)', (?:'([^']*)'|%(?:\((\w+)\))?s)(?:::\w+)?, true\)")
_ONLY_SETTINGS: Final = re.compile(rf"\s*SELECT\s+{_SETTING.pattern}(?:\s*,\s*{_SETTING.pattern})*\s*")

Parameters = Sequence[Any] | Mapping[str, Any] | None


@lru_cache(maxsize=2048)
def at_the_rows(statement: str) -> str:
    """`statement`, to be run on the node that has the cell's rows."""
    statement = statement.replace(_LAST_VALUE, "last_position()").replace("judge_callers(", f"{JUDGE_APART}(")
    if not _BOUND_TO_ROWS.search(statement) or _ONE_ROW in statement:
        return statement
    if not _NAMES_TABLE.search(statement):
        return f"{statement.rstrip()} FROM {_ONE_ROW}"
    return _FROM_CALL.sub(rf"FROM {_ONE_ROW} CROSS JOIN LATERAL \1(", statement, count=1)


def with_text(statement: str, parameters: Parameters) -> str:
    """A call that is a transaction of its own, without much JSON that a node on the way would read and write again."""
    is_large = (
        isinstance(parameters, Sequence) and "store_events(" in statement and len(parameters[1]) >= _TEXT_CHARACTERS
    )
    if not is_large:
        return statement
    return statement.replace("store_events(%s::jsonb, %s::jsonb,", f"{STORE_TEXT}(%s::text, %s::text,")


@lru_cache(maxsize=2048)
def writes_to_shards(statement: str) -> bool:
    """Whether `statement` calls a function that writes to the cell's shards."""
    return bool(_WRITES.search(statement))


@lru_cache(maxsize=2048)
def _only_sets(statement: str) -> bool:
    return bool(_ONLY_SETTINGS.fullmatch(statement))


def as_set_local(statement: str, parameters: Parameters) -> list[sql.Composed] | None:
    """`SET LOCAL` for each setting, if `statement` does nothing but set_config() until the transaction ends.

    Citus sends these, and no set_config(), to each node that takes part in the transaction.
    """
    if not _only_sets(statement):
        return None
    places = iter(parameters) if isinstance(parameters, Sequence) else iter(())
    named = parameters if isinstance(parameters, Mapping) else {}
    commands = []
    for setting in _SETTING.finditer(statement):
        name, literal, parameter = setting.groups()
        value = literal if literal is not None else named[parameter] if parameter else next(places)
        path = sql.SQL(".").join(sql.Identifier(part) for part in name.split("."))
        commands.append(sql.SQL("SET LOCAL {} = {}").format(path, sql.Literal(value)))
    return commands


@lru_cache(maxsize=2048)
def _inserts_what_it_reads(statement: str) -> bool:
    return bool(_INSERTS_WHAT_IT_READS.search(statement))


def on_shards(statement: str, parameters: Parameters) -> tuple[str, Parameters]:
    """The call that runs an INSERT of what it reads on the node that has the cell's rows; else the statement itself."""
    if not isinstance(parameters, Mapping) or not _inserts_what_it_reads(statement):
        return statement, parameters
    inner = _PARAMETER.sub(lambda found: f"($1->>'{found[1]}'){_CASTS.get(type(parameters[found[1]]), '')}", statement)
    given = json.dumps({name: str(value) for name, value in parameters.items()})
    return "SELECT run_on_shards(%(statement)s, %(given)s::jsonb)", {"statement": inner, "given": given}
