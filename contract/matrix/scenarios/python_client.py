"""openapi-python-client's client (attrs, httpx)."""

import os
from uuid import uuid4

from lariba_client import AuthenticatedClient
from lariba_client.api.audit import export_audit_entries
from lariba_client.api.environments import list_environments
from lariba_client.api.ingest import ingest_batch, ingest_event
from lariba_client.api.keys import issue_key, revoke_key
from lariba_client.api.projects import create_project
from lariba_client.api.sources import create_source
from lariba_client.models import (
    Envelope,
    EnvelopePayload,
    EventBatch,
    KeyCreate,
    ProjectCreate,
    SourceCreate,
    SourceCreateType,
)

URL = os.environ["LARIBA_URL"]
operator = AuthenticatedClient(base_url=URL, token=os.environ["LARIBA_MANAGEMENT_TOKEN"])

project = create_project.sync(client=operator, body=ProjectCreate(name=f"Shop {uuid4().hex}"))
environment = list_environments.sync(project.id, client=operator).data[0]
new_source = SourceCreate(name="checkout", type_=SourceCreateType.BACKEND, key=KeyCreate(label="first"))
source = create_source.sync(environment.id, client=operator, body=new_source)
assert source.key is not None
key = issue_key.sync(source.id, client=operator, body=KeyCreate(label="second"))

producer = AuthenticatedClient(base_url=URL, token=key.key, prefix="", auth_header_name="X-API-Key")
payload = EnvelopePayload.from_dict({"amount": 49.99})
events = [Envelope(event_id=name, event_type="a.b", source_id=source.id, payload=payload) for name in ("e1", "e2")]
receipt = ingest_event.sync(client=producer, body=events[0], idempotency_key="k1")
assert (receipt.accepted, receipt.status) == (True, "stored"), receipt
answer = ingest_batch.sync(client=producer, body=EventBatch(events=events))
assert [verdict.status for verdict in answer.verdicts] == ["duplicate", "stored"], answer

revoke_key.sync(key.id, client=operator)
refused = ingest_event.sync(client=producer, body=events[0])
assert refused.error.code == "invalid_source_key", refused
assert b'"complete": true' in export_audit_entries.sync_detailed(client=operator).content
