"""Which failures of a command are one line, and which of them say what to run first."""

import click
import pytest
from psycopg.errors import InsufficientPrivilege, SyntaxError, UndefinedColumn, UndefinedTable  # noqa: A004
from sqlalchemy.exc import ProgrammingError

from app.cli.failures import one_line_failures


def _failing_with(error: Exception) -> str:
    with pytest.raises(click.ClickException) as failed, one_line_failures():
        raise error
    return failed.value.message


@pytest.mark.parametrize("missing", [UndefinedTable, UndefinedColumn])
def test_a_table_or_column_that_is_not_there_yet_asks_for_the_migration(missing: type[Exception]) -> None:
    assert "flask --app wsgi migrate" in _failing_with(ProgrammingError("SELECT 1", {}, missing("not there")))


@pytest.mark.parametrize("other", [InsufficientPrivilege, SyntaxError])
def test_another_mistake_in_a_statement_is_said_as_it_is(other: type[Exception]) -> None:
    message = _failing_with(ProgrammingError("SELECT 1", {}, other("permission denied\nDETAIL: more")))

    assert "migrate" not in message
    assert message.endswith("permission denied")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_line_failures():
        1 / 0  # noqa: B018
