"""A client generated from the OpenAPI document calls a running server, from the first project to a revoked key."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.config import Settings
from contract.client import PACKAGE, generate
from tests.support.live import LiveServer, live_server
from tests.support.people import Tenant

pytestmark = pytest.mark.slow  # the generator takes seconds


class Caller:
    """Calls operations by the names of their views, with bodies made of the client's own models."""

    def __init__(self, package: ModuleType, client: Any) -> None:
        self._client = client
        self._models = importlib.import_module(f"{package.__name__}.models")
        modules = (Path(str(package.__file__)).parent / "api").glob("*/*.py")
        self._modules = {path.stem: f"{package.__name__}.api.{path.parent.name}.{path.stem}" for path in modules}

    def model(self, name: str, /, **members: Any) -> Any:
        return getattr(self._models, name).from_dict(members)

    def call(self, operation: str, *path: str, status: int = 200, **named: Any) -> Any:
        """What the operation answers, read into the model that the document names for `status`."""
        response = importlib.import_module(self._modules[operation]).sync_detailed(*path, client=self._client, **named)
        assert response.status_code == status, response.content
        return response.parsed


@pytest.fixture(scope="module", name="package")
def _package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("client")
    generate(folder)
    sys.path.insert(0, str(folder))
    yield importlib.import_module(PACKAGE)
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(scope="module", name="server")
def _server(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    with live_server(settings, checkout) as server:
        yield server


@pytest.fixture(name="operator")
def _operator(package: ModuleType, server: LiveServer, alice: Tenant) -> Iterator[Caller]:
    with package.AuthenticatedClient(base_url=f"http://127.0.0.1:{server.port}", token=alice.token) as client:
        yield Caller(package, client)


@contextmanager
def _producer(package: ModuleType, server: LiveServer, key: str) -> Iterator[Caller]:
    url = f"http://127.0.0.1:{server.port}"
    with package.AuthenticatedClient(base_url=url, token=key, prefix="", auth_header_name="X-API-Key") as client:
        yield Caller(package, client)


def _event(caller: Caller, source_id: str, event_id: str) -> Any:
    payload = {"amount": 49.99}
    return caller.model("Envelope", event_id=event_id, event_type="a.b", source_id=source_id, payload=payload)


def test_the_generated_client_goes_from_a_project_to_a_revoked_key(
    package: ModuleType, server: LiveServer, operator: Caller
) -> None:
    project = operator.call("create_project", status=201, body=operator.model("ProjectCreate", name="Shop"))
    environment = project.environments[0]
    assert environment.name == "production"
    assert operator.call("list_environments", project.id).data == project.environments
    new = operator.model("SourceCreate", name="checkout", type="backend")
    source = operator.call("create_source", environment.id, status=201, body=new)
    key = operator.call("issue_key", source.id, status=201, body=operator.model("KeyCreate", label="first"))

    with _producer(package, server, key.key) as producer:
        receipt = producer.call("ingest_event", status=201, body=_event(producer, source.id, "evt_1"))
        events = [_event(producer, source.id, "evt_1"), _event(producer, "src_other", "evt_2")]
        batch = producer.model("EventBatch", events=[event.to_dict() for event in events])
        answer = producer.call("ingest_batch", body=batch)
    assert (receipt.accepted, receipt.event_id, receipt.status) == (True, "evt_1", "stored")
    assert [verdict.status for verdict in answer.verdicts] == ["duplicate", "rejected"]

    usage = operator.call("read_usage_of_key", key.id)
    assert (usage.total.stored, usage.total.duplicate) == (1, 1)
    assert [counts.key_id for counts in usage.data] == [key.id]

    rotation = operator.model("Rotation", grace_seconds=600)
    successor = operator.call("rotate_key", key.id, status=201, body=rotation)
    assert (successor.replaces, operator.call("read_key", key.id).replaced_by) == (key.id, successor.id)
    for plain_text, event_id in ((key.key, "evt_2"), (successor.key, "evt_3")):
        with _producer(package, server, plain_text) as producer:
            producer.call("ingest_event", status=201, body=_event(producer, source.id, event_id))

    assert operator.call("revoke_key", successor.id).revoked_at is not None
    with _producer(package, server, successor.key) as producer:
        refused = producer.call("ingest_event", status=401, body=_event(producer, source.id, "evt_4"))
    assert refused.error.code == "invalid_source_key"
    assert operator.call("read_usage_of_source", source.id).total.stored == 3
    entries = operator.call("list_audit_entries", action="source_key.*").data
    assert [entry.action.partition(".")[2] for entry in entries] == ["revoke", "rotate", "issue", "issue"]


def test_pages_follow_one_another_through_the_generated_client(operator: Caller) -> None:
    for name in "abc":
        operator.call("create_project", status=201, body=operator.model("ProjectCreate", name=name))

    first = operator.call("list_projects", limit=2)
    second = operator.call("list_projects", limit=2, cursor=first.next_cursor)

    assert [each.name for each in first.data + second.data] == ["c", "b", "a", "shop"]
    assert second.next_cursor is None


def test_a_change_for_a_stated_state_and_a_refusal_are_models_too(operator: Caller, alice: Tenant) -> None:
    change = operator.model("SourceChange", name="renamed")

    changed = operator.call("update_source", alice.source_id, body=change, if_match="*")
    refused = operator.call("update_source", alice.source_id, body=change, if_match='"old"', status=412)

    assert changed.name == "renamed"
    assert (refused.error.code, refused.error.retryable) == ("precondition_failed", False)
