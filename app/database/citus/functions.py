"""The stored functions, made anew on the names of a cell's shards.

Citus plans no statement that writes in a WITH clause for one node, although all of the cell's tables are there: storing
an event would take ten times as long. So the functions that ingest and readers call name the shards, which are plain
tables, and are run where these are (statements.py). A shard keeps its name when it moves.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from app.database.citus.statements import JUDGE_APART, READING, STORE_TEXT, WRITING

_CELL: Final = (Path(__file__).parent / "cell.sql").read_text()
_HOME: Final = "position_ranges"
# The tables of these functions and no more: a name may be that of a column too.
_TABLE: Final = re.compile(r"\b(FROM|JOIN|INTO|UPDATE|USING)(\s+)([a-z_]+)\b(?!\()")
_LITERAL: Final = re.compile(r"'([a-z_]+)'(?=::regclass|\))")
_BEGIN: Final = re.compile(r"^BEGIN$", re.MULTILINE)
# What a function knows of the names of partitions, and of where positions come from.
_PARTITION_NAMES: Final = ("^events_[0-9]{8}$", "^events_[0-9]{8}_[0-9]+$")
_LAST_POSITION: Final = (
    "SELECT last_value, clock_timestamp() FROM event_positions INTO",
    "SELECT last_position(), clock_timestamp() INTO",
)
_DEFINITIONS: Final = text("""
    SELECT proname AS name, pg_get_functiondef(oid) AS definition
    FROM pg_proc WHERE pronamespace = current_schema()::text::regnamespace AND proname = ANY (:names)
    ORDER BY proname
""")
_SHARDS: Final = text("""
    SELECT relname, shardid FROM pg_dist_shard JOIN pg_class ON pg_class.oid = logicalrelid
    WHERE relnamespace = current_schema()::text::regnamespace
""")
_HAS_HOME: Final = text(f"SELECT to_regclass('{_HOME}') IS NOT NULL")
_MAKE_HOME: Final = text(f"""
    CREATE TABLE {_HOME} (
        -- One row; without a primary key Citus would move no cell while it is written to.
        is_only boolean PRIMARY KEY CHECK (is_only),
        group_id integer NOT NULL,
        first_position bigint NOT NULL,
        last_position bigint NOT NULL CHECK (last_position < x'ffffffffffff'::bigint)
    )
""")
_LAST_VALUE: Final = text("SELECT last_value FROM event_positions")
# Of no node, so that the first group of events begins a range where it is; behind the positions that were given before.
_FILL_HOME: Final = text(f"INSERT INTO {_HOME} VALUES (true, -1, 1, :last)")
_DISTRIBUTE: Final = text("""
    SELECT create_distributed_function(pg_proc.oid, colocate_with := 'workspaces')
    FROM pg_proc LEFT JOIN pg_dist_object ON classid = 'pg_proc'::regclass AND objid = pg_proc.oid
    WHERE pronamespace = current_schema()::text::regnamespace AND proname = ANY (:names) AND colocationid IS NULL
""")
# Citus hides shards from who asks the catalogs for them, unless it is a node.
_OF_CATALOGS: Final = ("event_days_after",)
_OURS: Final = (
    "enter_cell",
    "enter_cell_for_app",
    "begin_positions",
    "last_position",
    "run_on_shards",
    JUDGE_APART,
    STORE_TEXT,
)
_PREPARE: Final = (
    # As of the functions that migrations make (migrations/env.py).
    text("SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"),
    # No shard is on the coordinator that the bodies could be checked against; Citus sends them unchecked.
    text("SET LOCAL check_function_bodies = off"),
    text("SET LOCAL citus.multi_shard_modify_mode = 'sequential'"),
)
_RESULT: Final = text("""
    SELECT pg_get_function_result(oid) FROM pg_proc
    WHERE pronamespace = current_schema()::text::regnamespace AND proname = :name
""")
_WRAPPER: Final = """
    DROP FUNCTION IF EXISTS {name};
    CREATE FUNCTION {name}({parameters}) RETURNS {result}
    LANGUAGE plpgsql {volatility} AS $$
    #variable_conflict use_column
    BEGIN
        RETURN QUERY SELECT * FROM {call};
    END $$;
    REVOKE ALL ON FUNCTION {name} FROM PUBLIC
"""
_WRAPPERS: Final = {
    # PostgreSQL writes the body of judge_callers into the statement that calls it, on whatever node that is planned.
    "judge_callers": {
        "name": JUDGE_APART,
        "parameters": "callers jsonb, judged timestamptz, held bigint[]",
        "volatility": "STABLE",
        "call": "judge_callers($1, $2, $3)",
    },
    # As text a group passes through another node as it is: that node would read the JSON and write it again.
    "store_events": {
        "name": STORE_TEXT,
        "parameters": "callers text, items text, workspaces bigint[], ttl interval, lock_wait text, waits boolean",
        "volatility": "VOLATILE",
        "call": "store_events($1::jsonb, $2::jsonb, $3, $4, $5, $6)",
    },
}


def make_home(connection: Connection) -> None:
    """Make the table of the cell's positions, unless it is there."""
    if not connection.execute(_HAS_HOME).scalar_one():
        last = connection.execute(_LAST_VALUE).scalar_one()
        connection.execute(_MAKE_HOME)
        connection.execute(_FILL_HOME, {"last": last})


def name_shards(connection: Connection) -> None:
    """Make the functions of a distributed schema call the shards, on all nodes. Safe to repeat: shards stay named."""
    shards = {row.relname: f"{row.relname}_{row.shardid}" for row in connection.execute(_SHARDS)}
    for setting in _PREPARE:
        connection.execute(setting)
    anchor = shards["workspaces"].rpartition("_")[2]
    _run(connection, _on_shards(_CELL.replace("{shard}", anchor), shards))
    for wrapped, wrapper in _WRAPPERS.items():
        result = connection.execute(_RESULT, {"name": wrapped}).scalar_one()
        _run(connection, _WRAPPER.format(result=result, **wrapper))
    # First: Citus would check the bodies of what it distributes against the tables of the other nodes.
    connection.execute(_DISTRIBUTE, {"names": [*_OURS, *WRITING, *READING]})
    for function in connection.execute(_DEFINITIONS, {"names": [*WRITING, *READING]}).all():
        definition = _on_shards(function.definition, shards)
        if function.name in WRITING:
            definition = _with_setting(_entering(definition), "citus.enable_manual_changes_to_shards", "on")
        if function.name in _OF_CATALOGS:
            definition = _with_setting(definition, "citus.override_table_visibility", "off")
        _run(connection, definition)


def _on_shards(definition: str, shards: Mapping[str, str]) -> str:
    named = _TABLE.sub(lambda found: found[1] + found[2] + shards.get(found[3], found[3]), definition)
    named = _LITERAL.sub(lambda found: f"'{shards.get(found[1], found[1])}'", named)
    return named.replace(*_PARTITION_NAMES).replace(*_LAST_POSITION)


def _entering(definition: str) -> str:
    """With the call of enter_cell() at its beginning."""
    if "enter_cell()" in definition:
        return definition
    return _BEGIN.sub("BEGIN\n    PERFORM enter_cell();", definition, count=1)


def _with_setting(definition: str, name: str, value: str) -> str:
    if f'"{name}"' in definition:
        return definition
    return definition.replace("AS $function$", f"SET \"{name}\" TO '{value}'\nAS $function$", 1)


def _run(connection: Connection, statements: str) -> None:
    """As they stand: no driver looks for parameters in them."""
    connection.exec_driver_sql(statements, execution_options={"no_parameters": True})
