"""Makes replays as an operator would, and gives them turns as the worker would."""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from app.config import Settings
from app.context import Context
from app.database.engine import Database
from app.database.owner import Owner
from app.jobs.kinds import KINDS
from app.jobs.turns import Turn, give_turn
from app.maintenance.task import TaskContext
from app.models import Replay
from tests.support.operating import ApiClient
from tests.support.people import Tenant, execute, rows

PATH = "/v1/replays"


@dataclass(frozen=True)
class Replays:
    """Those of one tenant."""

    api: ApiClient
    context: Context
    tenant: Tenant

    def body(self, target: str, rate: int = 1_000, **query: Any) -> dict[str, Any]:
        asked = {"project_id": self.tenant.project_id} | query
        return {"query": asked, "target_source_id": target, "rate": rate}

    def make(self, target: str, rate: int = 1_000, **query: Any) -> dict[str, Any]:
        return self.api.made(PATH, self.body(target, rate, **query))

    def source(self, name: str = "again", **chosen: Any) -> str:
        """A further source in the tenant's environment; its id."""
        path = f"/v1/environments/{self.tenant.environment_id}/sources"
        return str(self.api.made(path, {"name": name, "type": "service"} | chosen)["id"])

    def read(self, replay: dict[str, Any]) -> dict[str, Any]:
        found = self.api.get(f"{PATH}/{replay['id']}").json
        assert isinstance(found, dict)
        return found

    def turn(self, replay: dict[str, Any], seconds: float = 60, **settings: Any) -> dict[str, Any]:
        """What the replay is after a turn of it; one that has ended gets none."""
        execute(
            self.context,
            "UPDATE replays SET state = 'running' WHERE public_id = :id AND state = 'queued'",
            id=replay["id"],
        )
        give_turn(KINDS[1], self.turn_of(replay, seconds, **settings))
        return self.read(replay)

    def turn_of(
        self, replay: dict[str, Any], seconds: float = 60, database: Database | None = None, **settings: Any
    ) -> Turn:
        given: Settings = replace(self.context.settings, **settings)
        context = TaskContext(
            database=database or self.context.database,
            owner=Owner(given.admin_database_url),
            settings=given,
            now=datetime.now(UTC),
        )
        row = model_row(self.context, replay)
        return Turn(context, self.tenant.workspace_row, row.id, time.monotonic() + seconds, row.due_at)

    def ids(self, project_id: str | None = None, **query: Any) -> list[str]:
        """The event ids of a project in the order of the feed."""
        return [event["event_id"] for event in self.events(project_id, **query)]

    def events(self, project_id: str | None = None, **query: Any) -> list[dict[str, Any]]:
        asked = {"project_id": project_id or self.tenant.project_id, "limit": 1_000, **query}
        found: list[dict[str, Any]] = []
        cursor, before = "start", ""
        # A page of a filter ends after half a second, which a busy machine may take over anything.
        while cursor != before:
            page = self.api.get("/v1/events/feed", cursor=cursor, **asked)
            assert page.json is not None, page.text
            found += page.json["data"]
            cursor, before = page.json["next_cursor"], cursor
        return found


def replay_of(api: ApiClient, tenant: Tenant) -> str:
    """The id of a replay of the tenant's project into the tenant's source; it is made once."""
    found = api.all_of(PATH)
    body = {"query": {"project_id": tenant.project_id}, "target_source_id": tenant.source_id}
    return str(found[0]["id"] if found else api.made(PATH, body)["id"])


def model_row(context: Context, replay: dict[str, Any]) -> Any:
    """All columns of the replay."""
    names = ", ".join(column.name for column in Replay.__table__.columns)
    (found,) = rows(context, f"SELECT {names} FROM replays WHERE public_id = :id", id=replay["id"])
    return found
