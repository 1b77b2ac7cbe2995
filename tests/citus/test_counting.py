"""What the web servers count is in the usage, through a node that has not the cell's rows."""

import pytest
from flask import Flask

from app.context import Context
from app.ingest.services import EXTENSION, IngestServices
from tests.support.operating import api_of
from tests.support.people import Tenant, rows
from tests.support.sending import event_for, send

pytestmark = pytest.mark.citus
_REFUSED = "SELECT outcome, sum(events) AS events FROM usage_outbox WHERE source_key_id = :key GROUP BY 1"
_READ = "SELECT operation, sum(requests) AS requests FROM read_hours WHERE workspace_id = :workspace GROUP BY 1"


def test_refusals_are_counted_and_so_is_who_reads(app: Flask, context: Context, alice: Tenant) -> None:
    services: IngestServices = app.extensions[EXTENSION]
    for _ in range(2):
        assert send(app.test_client(), alice, event_for(alice, environment="staging")).status_code == 403
    assert api_of(app, alice).get("/v1/events", project_id=alice.project_id).status_code == 200

    services.refusals.flush()
    for _ in range(2):  # what was counted once is not counted again
        context.reads.flush()

    assert [tuple(row) for row in rows(context, _REFUSED, key=alice.key_row)] == [("environment_mismatch", 2)]
    assert [row.requests for row in rows(context, _READ, workspace=alice.workspace_row)] == [1]
