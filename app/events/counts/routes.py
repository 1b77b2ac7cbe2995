"""/v1/events/counts: how many events, in buckets of time and by group."""

from flask import Response

from app.context import reading_database, reading_standby
from app.errors import NotFound, QueryTooBroad
from app.events.answers import respond, shown_query
from app.events.blueprint import ReadingBlueprint
from app.events.counts import domain as counts
from app.events.counts import schemas
from app.events.counts.domain import CountsRequest
from app.management.common.operators import Operator, Role

blueprint = ReadingBlueprint("counts", __name__, description="Count what is stored")


@blueprint.operation("GET", "/v1/events/counts", role=Role.AUDITOR, refuses=[NotFound, QueryTooBroad])
@blueprint.arguments(schemas.CountsQuerySchema, location="query")
@blueprint.response(200, schemas.EventCountsSchema)
def count_events(operator: Operator, query: CountsRequest) -> Response:
    """Count a project's events in buckets of time, by type, severity, source, environment, key or a payload's member.

    The total is the number of events that a search with the same query and range finds, and the sum of all buckets.
    Buckets without events are there too; an event is in one group.
    """
    counted = counts.count_events(reading_database(), operator, query, reading_standby())
    body = {
        "total": counted.total,
        "interval": counted.interval,
        "timezone": counted.timezone,
        "group_by": counted.group_by,
        "query": shown_query(counted.normalized, counted.range),
        "groups": counted.groups,
        "buckets": counted.buckets,
    }
    return respond(body)
