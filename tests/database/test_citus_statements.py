"""What is sent on a Citus cluster in place of a statement; tests/citus holds that it does what it should."""

from typing import Any

import pytest
from psycopg import sql

from app.database import advisory_locks
from app.database.citus.statements import as_set_local, at_the_rows, on_shards, with_text, writes_to_shards


@pytest.mark.parametrize(
    ("statement", "sent"),
    [
        (
            "SELECT place FROM event_horizon(%s)",
            "SELECT place FROM alembic_version CROSS JOIN LATERAL event_horizon(%s)",
        ),
        ("SELECT is_origin_allowed(%(o)s)", "SELECT is_origin_allowed(%(o)s) FROM alembic_version"),
        ("SELECT pg_advisory_xact_lock_shared(%s)", "SELECT pg_advisory_xact_lock_shared(%s) FROM alembic_version"),
        ("SELECT pg_sequence_last_value('event_positions')", "SELECT last_position() FROM alembic_version"),
        (
            "SELECT refusal FROM judge_callers(%s) AS caller LEFT JOIN x ON true",
            (
                "SELECT refusal FROM alembic_version CROSS JOIN LATERAL judge_callers_apart(%s) AS caller"
                " LEFT JOIN x ON true"
            ),
        ),
        (
            "SELECT workspace, (event_horizon(workspace)).place FROM unnest(%s) AS workspace",
            (
                "SELECT workspace, (event_horizon(workspace)).place"
                " FROM alembic_version CROSS JOIN LATERAL unnest(%s) AS workspace"
            ),
        ),
    ],
)
def test_a_call_without_a_table_names_one_that_lies_where_the_rows_are(statement: str, sent: str) -> None:
    assert at_the_rows(statement) == sent
    assert at_the_rows(sent) == sent


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT id FROM source_keys WHERE public_id = %s",
        "SELECT pg_advisory_xact_lock(%s) FROM workspaces WHERE id = %s",
        "INSERT INTO cells (name) VALUES (%s)",
        "SELECT 1",
    ],
)
def test_other_statements_are_sent_as_they_are(statement: str) -> None:
    assert at_the_rows(statement) == statement
    assert as_set_local(statement, ()) is None


def test_a_call_that_writes_is_known() -> None:
    assert writes_to_shards("SELECT n FROM store_events(%s)")
    assert not writes_to_shards("SELECT place FROM event_horizon(%s)")


@pytest.mark.parametrize(
    ("statement", "parameters", "sent"),
    [
        ("SELECT set_config('lock_timeout', '3s', true)", (), ["SET LOCAL \"lock_timeout\" = '3s'"]),
        (
            "SELECT set_config('lariba.workspace', %(a)s, true), set_config('lariba.all_workspaces', %(b)s, true)",
            {"a": "7", "b": ""},
            ['SET LOCAL "lariba"."workspace" = \'7\'', 'SET LOCAL "lariba"."all_workspaces" = \'\''],
        ),
        ("SELECT set_config('work_mem', %s::text, true)", ("1'MB",), ["SET LOCAL \"work_mem\" = '1''MB'"]),
    ],
)
def test_settings_of_a_transaction_are_set_so_that_they_are_passed_on(
    statement: str, parameters: Any, sent: list[str]
) -> None:
    commands = as_set_local(statement, parameters)

    assert commands is not None
    assert [command.as_string(None) for command in commands] == sent
    assert all(isinstance(command, sql.Composed) for command in commands)


def test_a_lock_on_a_row_is_left_to_the_row() -> None:
    statement = str(advisory_locks._EXCLUDE)  # noqa: SLF001
    assert as_set_local(statement, {}) is None
    assert at_the_rows(statement) == statement


def test_an_insert_of_what_it_reads_is_given_its_values_by_name() -> None:
    statement = "INSERT INTO a SELECT n, %(no)s FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS it (n bigint)"

    call, given = on_shards(statement, {"rows": "[]", "no": 7})

    assert at_the_rows(call) == f"{call} FROM alembic_version"
    assert given == {
        "statement": (
            "INSERT INTO a SELECT n, ($1->>'no')::bigint"
            " FROM jsonb_to_recordset(CAST(($1->>'rows') AS jsonb)) AS it (n bigint)"
        ),
        "given": '{"rows": "[]", "no": "7"}',
    }
    assert writes_to_shards(call)


def test_a_large_group_of_events_is_sent_as_text() -> None:
    statement = "SELECT n FROM store_events(%s::jsonb, %s::jsonb, %s::bigint[])"

    assert with_text(statement, ("[]", "[]", [])) == statement
    assert with_text(statement, ("[]", "x" * 9000, [])) == (
        "SELECT n FROM store_events_text(%s::text, %s::text, %s::bigint[])"
    )
