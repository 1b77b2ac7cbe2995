"""`flask --app wsgi status`: backlogs, partitions and tasks."""

from contextlib import suppress

import click
from flask.cli import with_appcontext

from app.cli.failures import one_line_failures
from app.context import current_context
from app.errors import StorageUnavailable
from app.monitoring import status_report
from app.monitoring.health_issues import DATABASE_AWAY, health_issues_of
from app.monitoring.shared_metrics import SharedMetrics
from app.monitoring.system_status import read_system_status


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_appcontext
@one_line_failures()
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
