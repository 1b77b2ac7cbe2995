"""Files of exports are removed when they have no right to be there any more, rows of jobs long after their end."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask

from app.context import Context
from app.database.clock import ClockSkewError
from app.events.exports.files import KEPT_FOR
from app.jobs import purge
from app.jobs.kinds import KINDS
from app.jobs.purge import ENDED_KEPT_FOR, purge_ended_jobs, purge_export_files
from app.maintenance.schedule import TASKS
from app.maintenance.task import TaskContext, TaskResult, never
from tests.support.exporting import add_export, export_of
from tests.support.operating import api_of
from tests.support.people import Tenant, execute, rows
from tests.support.replaying import Replays

_NOW = datetime(2026, 6, 8, tzinfo=UTC)
_COMPLETED = {"state": "completed", "ended_at": _NOW - timedelta(days=7)}


def _file(context: Context, folder: Path, row: int, ending: str) -> Path:
    path = folder / f"{export_of(context, row).public_id}.{ending}"
    path.write_bytes(b"x")
    return path


def test_it_keeps_what_is_written_and_what_has_not_expired(context: Context, alice: Tenant, tmp_path: Path) -> None:
    queued = add_export(context, alice)
    running = add_export(context, alice, state="running")
    whole = add_export(context, alice, expires_at=_NOW + timedelta(seconds=1), **_COMPLETED)
    for row, ending in ((queued, "0.part"), (running, "0.part"), (running, "csv.gz"), (whole, "ndjson.gz")):
        _file(context, tmp_path, row, ending)

    assert purge_export_files(context.database, tmp_path, now=_NOW, is_over=never) == TaskResult(0)
    assert len(list(tmp_path.iterdir())) == 4


def test_it_removes_what_has_expired_ended_badly_was_deleted_or_belongs_to_nothing(
    context: Context, alice: Tenant, tmp_path: Path
) -> None:
    later = _NOW + timedelta(days=1)
    gone = [
        _file(context, tmp_path, add_export(context, alice, expires_at=_NOW, **_COMPLETED), "ndjson.gz"),
        _file(context, tmp_path, add_export(context, alice, state="failed", ended_at=_NOW), "0.part"),
        _file(context, tmp_path, add_export(context, alice, state="cancelled", ended_at=_NOW), "csv.gz"),
        _file(
            context,
            tmp_path,
            add_export(context, alice, expires_at=later, archived_at=_NOW, **_COMPLETED),
            "ndjson.gz",
        ),
        _file(context, tmp_path, add_export(context, alice, expires_at=later, **_COMPLETED), "0.part"),
    ]
    (orphan := tmp_path / "exp_0000000000000000.csv.gz").touch()

    assert purge_export_files(context.database, tmp_path, now=_NOW, is_over=never) == TaskResult(6)
    assert [path for path in (*gone, orphan) if path.exists()] == []


def test_it_leaves_other_files_alone(context: Context, tmp_path: Path) -> None:
    for name in (
        "exp_1.txt",
        "events_20260601.ndjson.zst",
        "exp_1.ndjson.gz.bak",
        "exp_.0.part",
        "exp_1.part",
        "notes",
    ):
        (tmp_path / name).touch()

    assert purge_export_files(context.database, tmp_path, now=_NOW, is_over=never) == TaskResult(0)
    assert len(list(tmp_path.iterdir())) == 6


def test_it_stops_between_two_batches_when_its_time_is_over(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "_BATCH_FILES", 1)
    for number in range(3):
        (tmp_path / f"exp_{number}.0.part").touch()
    answers = iter([False, False, True])

    result = purge_export_files(context.database, tmp_path, now=_NOW, is_over=lambda: next(answers))
    assert result == TaskResult(2, has_more=True)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["purge_export_files", "purge_ended_jobs"])
def test_a_worker_whose_clock_is_wrong_removes_none(context: Context, name: str) -> None:
    (task,) = (task for task in TASKS if task.name == name)
    context_of_run = TaskContext(
        database=context.database,
        owner=None,  # type: ignore[arg-type]
        settings=context.settings,
        now=_NOW,
        own_now=_NOW + timedelta(minutes=6),
    )

    with pytest.raises(ClockSkewError):
        task.work(context_of_run)


class TestRows:
    def _exports(self, context: Context, alice: Tenant) -> list[str]:
        found = rows(context, "SELECT format FROM exports WHERE workspace_id = :id ORDER BY id", id=alice.workspace_row)
        return [row.format for row in found]

    def test_of_jobs_that_ended_long_ago_go_and_of_others_stay(self, context: Context, alice: Tenant) -> None:
        long_ago, moment = _NOW - ENDED_KEPT_FOR, timedelta(microseconds=1)
        for state in ("completed", "failed", "cancelled"):
            add_export(context, alice, state=state, ended_at=long_ago)
        add_export(context, alice, state="completed", ended_at=long_ago + moment, format="csv")
        add_export(context, alice, created_at=long_ago - moment, format="csv")

        assert purge_ended_jobs(context.database, KINDS, now=_NOW) == TaskResult(3)
        assert self._exports(context, alice) == ["csv", "csv"]

    def test_go_in_batches_until_time_is_over(self, context: Context, alice: Tenant) -> None:
        for _ in range(5):
            add_export(context, alice, state="completed", ended_at=_NOW - ENDED_KEPT_FOR)

        first = purge_ended_jobs(context.database, KINDS, now=_NOW, batch_rows=2, is_over=lambda: True)
        assert first == TaskResult(2, has_more=True)
        assert purge_ended_jobs(context.database, KINDS, now=_NOW, batch_rows=2) == TaskResult(3)

    def test_stay_longer_than_files(self) -> None:
        assert ENDED_KEPT_FOR > 2 * KEPT_FOR

    def test_of_replays_go_and_leave_their_keys(self, app: Flask, context: Context, alice: Tenant) -> None:
        replays = Replays(api_of(app, alice), context, alice)
        replay = replays.turn(replays.make(replays.source()))
        ended = "UPDATE replays SET ended_at = :at WHERE public_id = :id"
        execute(context, ended, at=_NOW - ENDED_KEPT_FOR, id=replay["id"])

        assert purge_ended_jobs(context.database, KINDS, now=_NOW) == TaskResult(1)
        assert replays.api.get(f"/v1/replays/{replay['id']}").status_code == 404
        assert (replays.api.get(f"/v1/keys/{replay['key_id']}").json or {})["state"] == "revoked"

    def test_that_go_between_two_pages_end_no_list(self, app: Flask, context: Context, alice: Tenant) -> None:
        for ended_at in (_NOW, _NOW - ENDED_KEPT_FOR, _NOW):
            add_export(context, alice, state="completed", ended_at=ended_at)
        newest, long_ago, oldest = (each["id"] for each in api_of(app, alice).all_of("/v1/exports"))
        first = api_of(app, alice).get("/v1/exports", limit=2).json or {}
        assert [each["id"] for each in first["data"]] == [newest, long_ago]

        purge_ended_jobs(context.database, KINDS, now=_NOW)
        second = api_of(app, alice).get("/v1/exports", cursor=first["next_cursor"]).json or {}
        assert [each["id"] for each in second["data"]] == [oldest]
