"""`flask --app wsgi status`: backlogs, partitions and tasks."""

from contextlib import suppress

import click
from flask.cli import with_appcontext

from app.cli.failures import one_line_failures
from app.context import current_context
from app.errors import StorageUnavailable
from app.monitoring import status as shown
from app.monitoring.shared_metrics import SharedMetrics
from app.monitoring.troubles import DATABASE_AWAY, troubles_of
from app.monitoring.upkeep import read_upkeep


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_appcontext
@one_line_failures()
def status(*, as_json: bool) -> None:
    """Show backlogs, partitions and tasks; ends with 1 if anything is wrong, which it names."""
    settings = current_context().settings
    upkeep, troubles = None, [DATABASE_AWAY]
    with suppress(StorageUnavailable):
        upkeep = read_upkeep(current_context().database)
        troubles = list(troubles_of(upkeep, settings))
    if as_json:
        click.echo(shown.as_json(upkeep, troubles))
    else:
        if upkeep is not None:
            processes = SharedMetrics(settings.metrics_dir).collect() if settings.metrics_dir else ()
            click.echo(shown.as_tables(upkeep, settings, processes))
        for trouble in troubles:
            click.echo(f"{trouble.alert}: {trouble.message}", err=True)
    if troubles:
        click.get_current_context().exit(1)
