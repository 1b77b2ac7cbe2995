"""The work of an export: the stream's bytes, whatever happens to its turns, its file, its folder and its names."""

import errno
import gzip
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import patch

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Settings
from app.context import Context
from app.errors import QueryTooBroad, Refusal, StorageUnavailable
from app.events import export as chunks
from app.events import walk
from app.jobs import export as work
from app.jobs import export_file
from app.jobs.export import write_export
from app.jobs.export_file import appending, sha256_of
from app.jobs.turns import ATTEMPTS_MAX
from app.models import Export
from tests.support.exporting import add_export, export_of, file_of, give_export_turn, part_of, row_of, turn_of, work_off
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant, execute
from tests.support.sending import event_for, send

_EVENTS = 23
_DIGITS = "12345678901234567890.0123456789"
_PATH = "/v1/exports"


@pytest.fixture(autouse=True)
def _small_chunks() -> Iterator[None]:
    with patch.object(chunks, "CHUNK_EVENTS", 4), patch.multiple(walk, _FIRST_ROWS=3, _CHUNK_ROWS=3):
        yield


@pytest.fixture(name="api")
def _api(app: Flask, client: FlaskClient, alice: Tenant) -> ApiClient:
    for n in range(_EVENTS):
        event = event_for(alice, severity=("info", "error")[n % 2], payload={"n": _DIGITS, "é": n})
        assert send(client, alice, event).status_code == 201
    return api_of(app, alice)


@pytest.fixture(name="made")
def _made(api: ApiClient, alice: Tenant) -> dict[str, Any]:
    return api.made(_PATH, {"project_id": alice.project_id})


@pytest.fixture(name="row")
def _row(context: Context, made: dict[str, Any]) -> int:
    return row_of(context, made["id"])


def _streamed(api: ApiClient, made: dict[str, Any]) -> bytes:
    query = {"q": made["query"]["normalized"], "format": made["format"]}
    bounds = {name: made["query"][name] for name in ("from", "to")}
    return bytes(api.get("/v1/events/export", project_id=made["project_id"], **query, **bounds).data)


def _content(context: Context, export: Export) -> bytes:
    return gzip.decompress(file_of(context, export).read_bytes())


def _step(context: Context, row: int, times: int = 1) -> Export:
    """So many turns of one chunk each."""
    for _ in range(times):
        give_export_turn(context, row, seconds=0.0)
    return export_of(context, row)


class TestContent:
    @pytest.mark.parametrize("form", ["ndjson", "csv"])
    @pytest.mark.parametrize("q", ["", "severity:error", "nowhere"])
    def test_is_the_streams_in_however_many_turns(
        self, api: ApiClient, context: Context, alice: Tenant, q: str, form: str
    ) -> None:
        made = [api.made(_PATH, {"project_id": alice.project_id, "q": q, "format": form}) for _ in range(2)]
        in_many = work_off(context, made[0]["id"])
        write_export(turn_of(context, row_of(context, made[1]["id"])))
        in_one = work_off(context, made[1]["id"])

        assert _content(context, in_many) == _streamed(api, made[0])
        assert _content(context, in_one) == _streamed(api, made[1])
        assert in_many.events == in_one.events == {"": 23, "severity:error": 11, "nowhere": 0}[q]

    def test_is_checked_by_its_sha256_and_private(self, context: Context, made: dict[str, Any]) -> None:
        export = work_off(context, made["id"])

        file = file_of(context, export)
        assert export.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert export.bytes == file.stat().st_size
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert not part_of(context, export).exists()

    def test_grows_and_says_how_far_it_is(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        seen = []
        while (shown := api.get(f"{_PATH}/{made['id']}").json or {})["state"] != "completed":
            seen.append((shown["progress"], shown["events"], shown["bytes"]))
            _step(context, row)

        assert seen[0] == (0, 0, 0)
        assert seen == sorted(seen)
        assert seen[-1][:2] == (1, _EVENTS)
        assert len(set(seen)) == len(seen) - (seen[-1] == seen[-2])

    def test_is_of_what_the_names_meant_when_it_was_asked_for(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        made = api.made(_PATH, {"project_id": alice.project_id, "q": "env:production"})
        _step(context, row_of(context, made["id"]))
        assert api.patch(f"/v1/environments/{alice.environment_id}", {"name": "old"}).status_code == 200
        api.made(f"/v1/projects/{alice.project_id}/environments", {"name": "production"})

        assert work_off(context, made["id"]).events == _EVENTS

    def test_lacks_what_was_deleted_meanwhile(
        self, context: Context, alice: Tenant, made: dict[str, Any], row: int
    ) -> None:
        written = _step(context, row).events
        with psycopg.connect(context.settings.admin_database_url) as owner:
            owner.execute("DELETE FROM events WHERE project_id = %s", [alice.project_row])

        export = work_off(context, made["id"])
        assert (export.state, export.events) == ("completed", written)


class TestKilled:
    def test_between_the_file_and_its_note_it_goes_on_from_the_note(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        before = _step(context, row, 2)
        with patch.object(work, "_note", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            _step(context, row)
        assert part_of(context, before).stat().st_size > before.bytes

        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)

    def test_in_the_middle_of_a_write_too(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        part = part_of(context, _step(context, row))
        with part.open("ab") as file:
            file.write(b"half a member")

        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)

    @pytest.mark.parametrize("last", ["name", "sha256_of", "end"])
    def test_at_the_end_it_is_completed_by_the_next_turn(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int, last: str
    ) -> None:
        while not _step(context, row).is_written:
            pass
        with patch.object(work, last, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            _step(context, row, 3)

        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)

    @pytest.mark.parametrize("is_written", [False, True])
    def test_with_its_disk_it_begins_anew(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int, *, is_written: bool
    ) -> None:
        export = _step(context, row, 2)
        while is_written and not export.is_written:
            export = _step(context, row)
        part_of(context, export).unlink()

        export = _step(context, row)
        assert (export.bytes, export.events, export.is_written, export.restarts) == (0, 0, False, 1)
        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)

    def test_what_lost_its_end_after_it_was_complete_is_not_given_a_checksum(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        export = _step(context, row)
        while not export.is_written:
            export = _step(context, row)
        with patch.object(work, "sha256_of", return_value=None):
            _step(context, row)
        os.truncate(file_of(context, export), export.bytes - 1)

        assert _step(context, row).bytes == 0
        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)


class TestMachines:
    """Two, whose workers take turns."""

    @pytest.fixture(name="other")
    def _other(self, context: Context, tmp_path: Path) -> Settings:
        return replace(context.settings, download_dir=str(tmp_path))

    def test_that_share_no_folder_fail_it_after_some_restarts(
        self, context: Context, row: int, other: Settings
    ) -> None:
        restarts = 0
        for turn in range(20):
            export = give_export_turn(context, row, seconds=0.0, settings=(context.settings, other)[turn // 2 % 2])
            assert export.restarts - restarts in (0, 1)
            restarts = export.restarts
            if export.ended_at is not None:
                break

        assert (export.state, export.failure, restarts) == ("failed", "file_lost", work.RESTARTS_MAX)

    def test_that_share_no_folder_go_on_with_no_file_that_was_given_up(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int, other: Settings
    ) -> None:
        _step(context, row, 3)
        for _ in range(2):
            written = give_export_turn(context, row, seconds=0.0, settings=other)
        assert (written.restarts, written.events) == (1, 4)

        assert _step(context, row).restarts == 2
        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)

    def test_that_share_no_folder_put_it_in_the_place_of_one_that_was_given_up(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        while not _step(context, row).is_written:
            pass
        file_of(context, export_of(context, row)).write_bytes(b"complete once")

        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)
        assert export_of(context, row).restarts == 0

    def test_where_one_dies_it_goes_on_from_the_note(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        for _ in range(4):
            with patch.object(work, "_note", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
                _step(context, row)
            assert _step(context, row).restarts == 0

        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)

    def test_that_write_at_once_do_not_note_over_each_other(self, context: Context, row: int) -> None:
        before = _step(context, row)

        def append_late(file: BinaryIO, content: bytes) -> int:
            size = export_file.append(file, content)
            execute(context, "UPDATE exports SET bytes = bytes + 7, events = 9 WHERE id = :id", id=row)
            return size

        with patch.object(work, "append", append_late):
            after = _step(context, row)
        assert (after.bytes, after.events) == (before.bytes + 7, 9)
        assert not part_of(context, after).exists()


class TestAtOnce:
    def test_a_turn_that_comes_while_another_writes_leaves_the_file_alone_and_waits(
        self, context: Context, row: int
    ) -> None:
        before = _step(context, row)
        with appending(part_of(context, before)):
            after = _step(context, row)

        assert (after.bytes, after.reached_at) == (before.bytes, before.reached_at)
        assert after.due_at > before.due_at
        assert _step(context, row).bytes > before.bytes

    def test_a_turn_that_waited_for_the_file_goes_on_from_what_is_noted_by_then(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        turn = turn_of(context, row, seconds=0.0)

        def late(path: Path) -> AbstractContextManager[BinaryIO | None]:
            with patch.object(work, "appending", appending):
                _step(context, row, 3)
            return appending(path)

        with patch.object(work, "appending", late):
            write_export(turn)

        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)


class TestEnd:
    def test_a_cancelled_one_leaves_nothing(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        def read_and_cancel(*arguments: Any) -> chunks.Chunk:
            assert api.post(f"{_PATH}/{made['id']}/cancel").status_code == 200
            return chunks.next_chunk(*arguments)

        with patch.object(work, "next_chunk", read_and_cancel):
            write_export(turn_of(context, row))
        export = export_of(context, row)
        assert (export.state, export.bytes, export.events) == ("cancelled", 0, 0)
        assert not part_of(context, export).exists()

    def test_one_that_is_cancelled_while_its_turn_opens_the_file_leaves_nothing(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int
    ) -> None:
        turn = turn_of(context, row)

        def cancel(path: Path) -> AbstractContextManager[BinaryIO | None]:
            assert api.post(f"{_PATH}/{made['id']}/cancel").status_code == 200
            return appending(path)

        with patch.object(work, "appending", cancel):
            write_export(turn)
        assert not part_of(context, export_of(context, row)).exists()

    @pytest.mark.parametrize("passing", [QueryTooBroad, StorageUnavailable])
    def test_a_statement_that_takes_too_long_leaves_it_as_it_is_unless_it_always_does(
        self, api: ApiClient, context: Context, made: dict[str, Any], row: int, passing: type[Refusal]
    ) -> None:
        before = _step(context, row)
        with patch.object(work, "next_chunk", side_effect=passing):
            assert _step(context, row).state == "running"
            assert part_of(context, before).exists()
            again = row_of(context, api.made(_PATH, {"project_id": made["project_id"]})["id"])
            failed = give_export_turn(context, again, attempts=ATTEMPTS_MAX)

        assert (failed.state, failed.failure) == ("failed", passing.code)
        assert not part_of(context, failed).exists()
        assert _content(context, work_off(context, made["id"])) == _streamed(api, made)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_is_waited_for_and_then_fails_it_and_gives_its_space_back(
        self, context: Context, row: int, number: int
    ) -> None:
        _step(context, row)
        with patch.object(export_file.os, "fsync", side_effect=OSError(number, "full")):  # type: ignore[attr-defined]
            assert _step(context, row).state == "running"
            export = give_export_turn(context, row, attempts=ATTEMPTS_MAX)

        assert (export.state, export.failure) == ("failed", "disk_full")
        assert not part_of(context, export).exists()

    def test_of_one_that_fails_a_folder_that_cannot_be_used_is_no_obstacle(self, context: Context, row: int) -> None:
        settings = replace(context.settings, download_dir="/dev/null/nowhere")

        export = give_export_turn(context, row, settings=settings, attempts=ATTEMPTS_MAX + 1)
        assert (export.state, export.failure) == ("failed", "internal_error")

    def test_some_space_is_left_to_others_on_the_disk(self, context: Context, row: int) -> None:
        with patch.object(work, "_FREE_BYTES_MIN", 1 << 60):
            assert give_export_turn(context, row, attempts=ATTEMPTS_MAX).failure == "disk_full"

    def test_files_of_a_workspace_that_take_more_than_they_may_fail_it(
        self, context: Context, alice: Tenant, row: int
    ) -> None:
        settings = replace(context.settings, download_bytes_max=1_000)
        add_export(
            context,
            alice,
            state="completed",
            ended_at=datetime.now(UTC),
            bytes=1_001,
            expires_at=datetime.now(UTC) + timedelta(hours=1),
        )

        assert give_export_turn(context, row, settings=settings).failure == "quota_exceeded"

    def test_a_checksum_that_takes_many_turns_is_no_job_that_does_not_get_on(self, context: Context, row: int) -> None:
        while not _step(context, row).is_written:
            pass
        with patch.object(work, "sha256_of", return_value=None):
            execute(context, "UPDATE exports SET attempts = 9 WHERE id = :id", id=row)
            assert _step(context, row).attempts == 0

    @pytest.mark.parametrize("folder", ["", "/nowhere"])
    def test_a_folder_that_cannot_be_used_is_waited_for(
        self, context: Context, made: dict[str, Any], row: int, folder: str
    ) -> None:
        settings = replace(context.settings, download_dir=folder)
        write_export(turn_of(context, row, settings=settings))

        export = export_of(context, row)
        assert export.state == "running"
        assert timedelta(seconds=20) < export.due_at - datetime.now(UTC) < timedelta(seconds=31)
        assert work_off(context, made["id"]).state == "completed"


class TestChecksum:
    def test_of_a_large_file_is_taken_in_turns(self, tmp_path: Path) -> None:
        file = tmp_path / "large"
        file.write_bytes(b"0123456789" * 10)

        with patch.object(export_file, "_PIECE_BYTES", 7):
            digests = [sha256_of(file, lambda: True) for _ in range(16)]
        assert digests == [None] * 15 + [hashlib.sha256(file.read_bytes()).hexdigest()]

    def test_of_a_file_that_was_made_anew_begins_anew(self, tmp_path: Path) -> None:
        file = tmp_path / "large"
        file.write_bytes(b"0123456789")
        with patch.object(export_file, "_PIECE_BYTES", 7):
            assert sha256_of(file, lambda: True) is None
        file.unlink()
        file.write_bytes(b"another one")

        assert sha256_of(file, lambda: False) == hashlib.sha256(b"another one").hexdigest()


def test_nothing_of_an_export_that_has_ended_is_written(context: Context, alice: Tenant) -> None:
    row = add_export(context, alice, state="cancelled", ended_at=datetime.now(UTC))

    assert not part_of(context, _step(context, row)).exists()
