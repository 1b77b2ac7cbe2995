"""`flask --app wsgi key`: revokes source keys of any workspace and reports the stale ones."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

import click
from flask.cli import AppGroup

from app.cli.failures import one_line_failures
from app.cli.revocation import revoke_any_key
from app.context import current_context
from app.management.common.lifetimes import DAYS_MAX
from app.management.keys import queries
from app.management.keys.queries import StaleKey, Staleness

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
@one_line_failures()
def revoke_key(key_id: str) -> None:
    """Revoke a source key of any workspace: once this returns, nothing more is stored with it."""
    click.echo(f"{revoke_any_key(current_context().database, key_id).id} is revoked")


@key.command("report")
@click.option("--unused-for-days", type=_DAYS, help="Keys that brought no event for so long, nor were issued since.")
@click.option("--expires-within-days", type=_DAYS, help="Keys that end so soon, or are over and not revoked.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, with all ids and exact times.")
@one_line_failures()
def report(unused_for_days: int | None, expires_within_days: int | None, *, as_json: bool) -> None:
    """Report the stale keys of all workspaces; without an option, those unused for 90 days or over within 30."""
    if unused_for_days is None and expires_within_days is None:
        unused_for_days, expires_within_days = _UNUSED_FOR_DAYS, _EXPIRES_WITHIN_DAYS
    stale = Staleness(unused_for_days=unused_for_days, expires_within_days=expires_within_days)
    keys = queries.report_keys(current_context().database, stale)
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
