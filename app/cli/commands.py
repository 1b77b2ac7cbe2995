"""The operator's shell: `flask --app wsgi …`. Whoever may run it stands above all workspaces."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

import click
from alembic.util import CommandError
from flask import Flask
from flask.cli import AppGroup, with_appcontext
from psycopg import Error as PsycopgError
from psycopg.errors import UndefinedColumn, UndefinedTable
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from app.context import current_context
from app.database import schema
from app.database.engine import TenantScope
from app.errors import OutcomeUnknown, Refusal, StorageUnavailable
from app.management import shell
from app.management.common.lifetimes import DAYS_MAX
from app.management.common.operators import Role
from app.management.keys import report as key_report
from app.management.keys.report import StaleKey, Staleness
from app.management.workspace import domain as workspaces
from app.models import WorkspaceStatus
from app.monitoring import status_report
from app.monitoring.health_issues import DATABASE_AWAY, health_issues_of
from app.monitoring.shared_metrics import SharedMetrics
from app.monitoring.system_status import read_system_status
from app.rate_limits.window import EVENTS_PER_SECOND_MAX

_OUTCOME_UNKNOWN = "The database was lost while it committed: the change may have been made or not. Look first."
_SCHEMA_BEHIND = "The schema is behind this code: run `flask --app wsgi migrate` first."
_NAMESAKES_MAX: Final = 3
_REVISION = text("SELECT version_num FROM alembic_version")


def register(app: Flask) -> None:
    """Hang the commands on `app`."""
    for command in (migrate, status, workspace, token, key):
        app.cli.add_command(command)


@contextmanager
def _failing_in_one_line() -> Iterator[None]:
    """A trouble that is not ours to fix is told in one line, with a non-zero status and no traceback."""
    try:
        yield
    except OutcomeUnknown as error:
        raise click.ClickException(_OUTCOME_UNKNOWN) from error
    except Refusal as error:
        cause = f" ({_first_line(error.__cause__)})" if error.__cause__ else ""
        raise click.ClickException(f"{error.message}{cause}") from error
    except ProgrammingError as error:
        says_missing = isinstance(error.orig, UndefinedTable | UndefinedColumn)
        raise click.ClickException(_SCHEMA_BEHIND if says_missing else _first_line(error)) from error
    except (SQLAlchemyError, PsycopgError, CommandError, ValueError, OSError) as error:
        raise click.ClickException(_first_line(error)) from error


@click.command
@with_appcontext
@_failing_in_one_line()
def migrate() -> None:
    """Bring the database's schema to head, as the owner."""
    context = current_context()
    schema.migrate(context.settings)
    with context.database.transaction(TenantScope.NONE) as session:
        click.echo(f"schema at {session.execute(_REVISION).scalar_one()}")


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_appcontext
@_failing_in_one_line()
def status(*, as_json: bool) -> None:
    """Show backlogs, partitions and tasks; ends with 1 if anything is wrong, which it names."""
    settings = current_context().settings
    system, issues = None, [DATABASE_AWAY]
    with suppress(StorageUnavailable):
        system = read_system_status(current_context().database)
        issues = list(health_issues_of(system, settings))
    if as_json:
        click.echo(status_report.as_json(system, issues))
    else:
        if system is not None:
            processes = SharedMetrics(settings.metrics_dir).collect() if settings.metrics_dir else ()
            click.echo(status_report.as_tables(system, settings, processes))
        for issue in issues:
            click.echo(f"{issue.alert}: {issue.message}", err=True)
    if issues:
        click.get_current_context().exit(1)


workspace = AppGroup("workspace", help="Create, list, suspend, resume and limit workspaces.")


@workspace.command("create")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_failing_in_one_line()
def create(name: str, *, as_json: bool) -> None:
    """Create a workspace and its first management token, which is shown this once."""
    context = current_context()
    new, issued = workspaces.create_workspace(context.database, context.credentials, name)
    _show({"workspace_id": new.id, "token_id": issued.id, "management_token": issued.token}, as_json=as_json)
    if others := workspaces.namesakes(context.database, new):
        click.echo(
            f"Note: {len(others)} more of this name: {', '.join(others[:_NAMESAKES_MAX])}. If one of them was meant,"
            f" suspend the new one (flask --app wsgi workspace suspend {new.id}) and issue a token for that one.",
            err=True,
        )


@workspace.command("list")
@_failing_in_one_line()
def list_all() -> None:
    """List all workspaces: id, status, time of creation, name."""
    for each in workspaces.list_workspaces(current_context().database):
        click.echo(f"{each.id}\t{each.status}\t{each.created_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}\t{each.name}")


@workspace.command("suspend")
@click.argument("workspace_id")
@_failing_in_one_line()
def suspend(workspace_id: str) -> None:
    """Stop a workspace: once this returns, nothing is stored for it. Its management API goes on."""
    _set_status(workspace_id, WorkspaceStatus.SUSPENDED)


@workspace.command("resume")
@click.argument("workspace_id")
@_failing_in_one_line()
def resume(workspace_id: str) -> None:
    """Let a suspended workspace ingest again."""
    _set_status(workspace_id, WorkspaceStatus.ACTIVE)


@workspace.command("limit")
@click.argument("workspace_id")
@click.option("--events-per-second", type=click.IntRange(1, EVENTS_PER_SECOND_MAX), help="For all its keys together.")
@click.option("--default", "is_default", is_flag=True, help="What LARIBA_WORKSPACE_EVENTS_PER_SECOND says.")
@_failing_in_one_line()
def limit(workspace_id: str, *, events_per_second: int | None, is_default: bool) -> None:
    """Limit what a workspace may send, within seconds on every process; with --default, lift its own limit."""
    if is_default is (events_per_second is not None):
        raise click.UsageError("Give either --events-per-second or --default.")
    changed = workspaces.set_workspace_limit(current_context().database, workspace_id, events_per_second)
    rate = changed.events_per_second
    click.echo(f"{changed.id} may send {f'{rate} events per second' if rate else 'what the default says'}")


token = AppGroup("token", help="Issue and revoke management tokens.")


@token.command("issue")
@click.argument("workspace_id")
@click.option("--label", default="", help="What the token is for.")
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.OWNER.value, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_failing_in_one_line()
def issue(workspace_id: str, label: str, role: str, *, as_json: bool) -> None:
    """Issue a further management token, which is shown this once."""
    context = current_context()
    issued = workspaces.issue_workspace_token(context.database, context.credentials, workspace_id, label, Role(role))
    _show({"token_id": issued.id, "management_token": issued.token}, as_json=as_json)


@token.command("revoke")
@click.argument("token_id")
@_failing_in_one_line()
def revoke_token(token_id: str) -> None:
    """Revoke a management token of any workspace: once this returns, it opens and changes nothing."""
    click.echo(f"{shell.revoke_any_token(current_context().database, token_id).id} is revoked")


key = AppGroup("key", help="Revoke and report on source keys.")

_UNUSED_FOR_DAYS: Final = 90
_EXPIRES_WITHIN_DAYS: Final = 30
_DAYS: Final = click.IntRange(1, DAYS_MAX)
# Headings and the widths below them, days in UTC; --json cuts nothing off.
_REPORT: Final = {
    "WORKSPACE": 20,
    "PROJECT": 16,
    "SOURCE": 16,
    "KEY": 20,
    "LABEL": 16,
    "CREATED": 10,
    "LAST USED": 10,
    "EXPIRES": 10,
    "STATE": 7,
}


@key.command("revoke")
@click.argument("key_id")
@_failing_in_one_line()
def revoke_key(key_id: str) -> None:
    """Revoke a source key of any workspace: once this returns, nothing more is stored with it."""
    click.echo(f"{shell.revoke_any_key(current_context().database, key_id).id} is revoked")


@key.command("report")
@click.option("--unused-for-days", type=_DAYS, help="Keys that brought no event for so long, nor were issued since.")
@click.option("--expires-within-days", type=_DAYS, help="Keys that end so soon, or are over and not revoked.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, with all ids and exact times.")
@_failing_in_one_line()
def report(unused_for_days: int | None, expires_within_days: int | None, *, as_json: bool) -> None:
    """Report the stale keys of all workspaces; without an option, those unused for 90 days or over within 30."""
    if unused_for_days is None and expires_within_days is None:
        unused_for_days, expires_within_days = _UNUSED_FOR_DAYS, _EXPIRES_WITHIN_DAYS
    stale = Staleness(unused_for_days=unused_for_days, expires_within_days=expires_within_days)
    keys = key_report.report_keys(current_context().database, stale)
    count = 0
    for count, each in enumerate(keys, 1):
        # The heading comes with the first line, so that a database that is away leaves none.
        if count == 1 and not as_json:
            click.echo(_row(_REPORT))
        click.echo(_as_json(each) if as_json else _as_row(each))
    click.echo(f"stale keys: {count}", err=True)


def _as_json(stale: StaleKey) -> str:
    return json.dumps(asdict(stale), default=_exact)


def _as_row(stale: StaleKey) -> str:
    days = map(_day, (stale.created_at, stale.last_used_at, stale.expires_at))
    return _row((stale.workspace, stale.project, stale.source, stale.key_id, stale.label, *days, stale.state))


def _row(cells: Iterable[str]) -> str:
    widths = _REPORT.values()
    cut = (cell if len(cell) <= width else f"{cell[: width - 1]}…" for cell, width in zip(cells, widths, strict=True))
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cut, widths, strict=True)).rstrip()


def _day(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d}"


def _exact(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _set_status(workspace_id: str, status: WorkspaceStatus) -> None:
    changed = workspaces.set_workspace_status(current_context().database, workspace_id, status)
    click.echo(f"{changed.id} is {changed.status}")


def _show(values: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values))
        return
    for name, value in values.items():
        click.echo(f"{name.replace('_', ' '):16}  {value}")
    click.echo("The token is shown this once: keep it safe.", err=True)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
