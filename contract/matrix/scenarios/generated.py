"""openapi-generator's Python client (pydantic, urllib3)."""

import os
from uuid import uuid4

import lariba_generated as lariba
from lariba_generated.exceptions import UnauthorizedException

URL = os.environ["LARIBA_URL"]
operator = lariba.ApiClient(lariba.Configuration(host=URL, access_token=os.environ["LARIBA_MANAGEMENT_TOKEN"]))

project = lariba.ProjectsApi(operator).create_project(project_create=lariba.ProjectCreate(name=f"Shop {uuid4().hex}"))
environment = lariba.EnvironmentsApi(operator).list_environments(project.id).data[0]
source = lariba.SourcesApi(operator).create_source(
    environment.id, lariba.SourceCreate(name="checkout", type="backend", key=lariba.KeyCreate(label="first"))
)
assert source.key is not None
key = lariba.KeysApi(operator).issue_key(source.id, key_create=lariba.KeyCreate(label="second"))

producer = lariba.IngestApi(lariba.ApiClient(lariba.Configuration(host=URL, api_key={"sourceKey": key.key})))
event = lariba.Envelope(event_id="e1", event_type="a.b", source_id=source.id, payload={"amount": 49.99})
receipt = producer.ingest_event(event, idempotency_key="k1")
assert (receipt.accepted, receipt.status) == (True, "stored"), receipt
answer = producer.ingest_batch(lariba.EventBatch(events=[event, event.model_copy(update={"event_id": "e2"})]))
assert [verdict.status for verdict in answer.verdicts] == ["duplicate", "stored"], answer

lariba.KeysApi(operator).revoke_key(key.id)
try:
    producer.ingest_event(event)
    code = "none: a revoked key was taken"
except UnauthorizedException as error:
    code = error.data.error.code
assert code == "invalid_source_key", code
assert b'"complete": true' in bytes(lariba.AuditApi(operator).export_audit_entries())
