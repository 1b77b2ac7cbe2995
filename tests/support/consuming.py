"""A named consumer as its worker uses it: read, work, commit."""

from dataclasses import dataclass, field
from typing import Any

from werkzeug.test import TestResponse

from tests.support.operating import ApiClient

PATH = "/v1/consumers"


@dataclass
class Worker:
    """Reads the events of one consumer, and remembers the last cursor and all event ids that it was shown."""

    api: ApiClient
    name: str
    cursor: str = ""
    seen: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"{PATH}/{self.name}"

    def put(self, project_id: str, **body: Any) -> TestResponse:
        return self.api.call("PUT", self.path, {"project_id": project_id, **body})

    def read(self, **query: Any) -> list[str]:
        """The event ids of the next page."""
        response = self.api.get(f"{self.path}/events", **query)
        assert response.status_code == 200, response.text
        assert response.json is not None
        self.cursor = response.json["next_cursor"]
        ids = [each["event_id"] for each in response.json["data"]]
        self.seen += ids
        return ids

    def commit(self, cursor: str | None = None, **more: Any) -> TestResponse:
        return self.api.post(f"{self.path}/commit", {"cursor": cursor or self.cursor}, **more)

    def seek(self, to: str) -> TestResponse:
        return self.api.post(f"{self.path}/seek", {"to": to})

    def state(self) -> dict[str, Any]:
        response = self.api.get(self.path)
        assert response.status_code == 200, response.text
        state: dict[str, Any] = response.json or {}
        return state


def worker_of(api: ApiClient, name: str, project_id: str, **body: Any) -> Worker:
    """The worker of a new consumer."""
    worker = Worker(api, name)
    made = worker.put(project_id, **body)
    assert made.status_code == 201, made.text
    return worker
