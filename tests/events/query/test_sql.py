"""The condition that PostgreSQL judges by means what the Python evaluator says."""

import secrets
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB

from app.config import Settings
from app.events.query.evaluation import matches
from app.events.query.nodes import Node
from app.events.query.parsing import parse
from app.events.query.resolution import bound
from app.events.query.sql import condition
from app.events.query.words import event_text, read_payload
from app.events.view import EVENTS
from tests.events.query.meanings import COMPARED, LISTS, WORDS
from tests.events.query.strategies import KNOWN, Stored, events, queries, true_of
from tests.support.examples import examples
from tests.support.servers import database_url

_TABLE = """
    CREATE TEMPORARY TABLE readable_events (
        project_id bigint NOT NULL, received_at timestamptz NOT NULL, event_uid uuid NOT NULL,
        workspace_id bigint NOT NULL, environment_id bigint NOT NULL, source_id bigint NOT NULL,
        source_key_id bigint NOT NULL, event_id text COLLATE "C" NOT NULL, event_type text COLLATE "C" NOT NULL,
        severity text COLLATE "C" NOT NULL, occurred_at timestamptz NOT NULL, payload jsonb NOT NULL,
        is_occurred_at_far boolean NOT NULL, position bigint NOT NULL, line integer NOT NULL)
"""
_some = hypothesis_settings(
    max_examples=examples(15), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
_many = hypothesis_settings(_some, max_examples=examples(300), derandomize=False)
_cases = given(stored=st.lists(events, min_size=15, max_size=30), asked=st.lists(queries, min_size=15, max_size=25))


@pytest.fixture(scope="module", name="database")
def _database(settings: Settings, checkout: Path) -> Iterator[sa.Connection]:
    """The tables' owner with a table in the view's place, in a transaction that is rolled back."""
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(settings.admin_database_url), poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        script = (checkout / "app/database/sql/event_text.sql").read_text()
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})
        connection.exec_driver_sql(_TABLE)
        yield connection
        connection.rollback()


def _store(database: sa.Connection, stored: list[Stored]) -> list[Any]:
    """The rows' payload and its words, as PostgreSQL has them."""
    database.exec_driver_sql("DELETE FROM readable_events")
    placeholders = ", ".join(["%s"] * 11 + ["%s::jsonb", "%s", "%s", "%s"])
    rows: Any = [(*event.row, line) for line, event in enumerate(stored)]
    database.exec_driver_sql(f"INSERT INTO readable_events VALUES ({placeholders})", rows)
    found = database.exec_driver_sql("SELECT payload::text, event_text(payload) FROM readable_events ORDER BY line")
    return list(found)


def _judged(database: sa.Connection, asked: list[Node]) -> list[list[bool]]:
    conditions = [condition(bound(node, KNOWN), EVENTS.c) for node in asked]
    columns = [found.label(f"c{n}") for n, found in enumerate(conditions)]
    statement = sa.select(*columns).select_from(EVENTS).order_by(sa.text("line"))
    return [list(row) for row in database.execute(statement)]


def _check(database: sa.Connection, stored: list[Stored], asked: list[Node]) -> None:
    for event, (payload, text) in zip(stored, _store(database, stored), strict=True):
        assert text == event_text(event.payload) == event_text(read_payload(payload))
    asked = [*asked, *islice((leaf for event in stored for leaf in true_of(event.payload)), 40)]
    judged = _judged(database, asked)
    for event, row in zip(stored, judged, strict=True):
        for node, is_found in zip(asked, row, strict=True):
            assert is_found is matches(node, event), (node, event)


@_some
@_cases
def test_a_condition_finds_the_events_that_the_evaluator_finds(
    database: sa.Connection, stored: list[Stored], asked: list[Node]
) -> None:
    _check(database, stored, asked)


@pytest.mark.slow
@_many
@_cases
def test_a_condition_finds_them_whatever_is_stored_and_asked(
    database: sa.Connection, stored: list[Stored], asked: list[Node]
) -> None:
    _check(database, stored, asked)


def test_every_meaning_that_the_page_describes_is_postgresqls_too(database: sa.Connection) -> None:
    for query, payload, is_found in [*COMPARED, *LISTS, *WORDS]:
        columns = {"payload": sa.cast(sa.literal(payload, sa.String), JSONB)}
        found = database.execute(sa.select(condition(parse(query), columns))).scalar_one()
        assert found is is_found, (query, payload)


def test_a_query_whose_names_are_not_resolved_has_no_condition() -> None:
    with pytest.raises(ValueError, match="not resolved"):
        condition(parse("env:production"), EVENTS.c)


def test_the_words_of_a_payload_are_read_within_the_statement(database: sa.Connection) -> None:
    """As an expression: a function that PostgreSQL calls would take as long again."""
    plan = database.exec_driver_sql("EXPLAIN (VERBOSE) SELECT event_text(payload) FROM readable_events")

    assert not any("event_text" in line for (line,) in plan)


def test_only_the_letters_of_ascii_lose_their_case_whatever_the_databases_language(
    server_url: str, checkout: Path
) -> None:
    name = f"lariba_test_{secrets.token_hex(4)}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C.UTF-8'"
        )
        try:
            with psycopg.connect(database_url(server_url, "postgres", name)) as other:
                other.execute((checkout / "app/database/sql/event_text.sql").read_text())
                found = other.execute("SELECT lower('É'), event_text(%s::jsonb)", ['{"A": "ÉTÉ Été"}']).fetchone()
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")

    assert found == ("é", ' " a " " ÉtÉ Été " ')
