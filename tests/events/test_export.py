"""Export: all that a search finds, exact and whole, or it says that it is not."""

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from app.errors import InvalidManagementToken, StorageUnavailable
from app.events import export, walk
from app.events.statements import reading
from app.events.view import PAGE_BYTES
from tests.support.following import store_group
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant
from tests.support.sending import event_for, pointers_of, send

_EVENTS = 23
_DIGITS = "12345678901234567890.0123456789"


@pytest.fixture(name="api")
def _api(app: Flask, client: FlaskClient, alice: Tenant) -> ApiClient:
    """With events of two kinds, and a number that no float holds."""
    for n in range(_EVENTS):
        event = event_for(
            alice, event_id=f"e{n}", severity=("info", "error")[n % 2], payload={"n": "exact", "é": '"\n'}
        )
        sent = json.dumps(event).replace('"exact"', _DIGITS)
        assert send(client, alice, sent).status_code == 201
    return api_of(app, alice)


@pytest.fixture(autouse=True)
def _small_chunks() -> Iterator[None]:
    with patch.object(export, "CHUNK_EVENTS", 4), patch.multiple(walk, _FIRST_ROWS=3, _CHUNK_ROWS=3):
        yield


def _ids(*numbers: int) -> list[str]:
    return [f"e{n}" for n in numbers]


def _lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def _records(answer: TestResponse) -> list[list[str]]:
    return list(csv.reader(io.StringIO(answer.text, newline="")))


def _read(answer: TestResponse) -> tuple[bytes, Exception | None]:
    """What comes of a response that is streamed, and what ends it."""
    read = b""
    try:
        for piece in answer.iter_encoded():
            read += piece
    except Exception as error:  # noqa: BLE001 - it is returned
        return read, error
    return read, None


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_an_export_takes_the_memory_of_some_chunks_however_long_it_is(
    app: Flask, context: Context, alice: Tenant, form: str
) -> None:
    for group in range(20):
        ids = [f"{group}-{n}" for n in range(20)]
        store_group(context.database, alice, *ids, payload={"text": "x" * 200_000})
    size = 0

    with patch.object(export, "CHUNK_EVENTS", 1_000):
        answer = api_of(app, alice).get("/v1/events/export", project_id=alice.project_id, format=form)
        tracemalloc.start()
        try:
            for piece in answer.iter_encoded():
                size += len(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    # What PostgreSQL sends, its rows, what is shown and what is written, of this chunk and in part of the next one.
    assert peak < 12 * PAGE_BYTES < size


class TestNdjson:
    def test_has_a_line_for_each_event_of_the_query_and_says_that_it_is_whole(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        answer = api.get("/v1/events/export", project_id=alice.project_id, q="severity:error")

        assert answer.mimetype == "application/x-ndjson"
        *events, last = _lines(answer.text)
        assert [event["event_id"] for event in events] == _ids(*range(_EVENTS - 2, 0, -2))
        assert last == {"complete": True, "events": len(events)}
        searched = api.get("/v1/events", project_id=alice.project_id, q="severity:error", limit=500).json
        assert searched is not None
        assert events == searched["data"]

    @pytest.mark.parametrize("q", ["severity:error", "-severity:info payload.n>0", "has:payload.n severity:error"])
    def test_is_whole_if_more_than_a_chunk_is_found_where_the_skip_index_says(
        self, api: ApiClient, alice: Tenant, q: str
    ) -> None:
        """As on a machine that is too slow to read on in order."""
        with patch.object(walk, "_NEAR_SECONDS", 0.0):
            *events, last = _lines(api.get("/v1/events/export", project_id=alice.project_id, q=q).text)

        assert [event["event_id"] for event in events] == _ids(*range(_EVENTS - 2, 0, -2))
        assert last == {"complete": True, "events": len(events)}

    def test_keeps_every_digit(self, api: ApiClient, alice: Tenant) -> None:
        assert api.get("/v1/events/export", project_id=alice.project_id).text.count(_DIGITS) == _EVENTS

    def test_of_nothing_is_whole_too(self, api: ApiClient, alice: Tenant) -> None:
        answer = api.get("/v1/events/export", project_id=alice.project_id, q="nowhere")

        assert _lines(answer.text) == [{"complete": True, "events": 0}]

    def test_goes_on_behind_the_last_event_that_was_received(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        lines = _lines(api.get("/v1/events/export", project_id=alice.project_id).text)
        assert send(client, alice, event_for(alice, event_id="newer")).status_code == 201

        after = str(lines[9]["id"])
        rest = _lines(api.get("/v1/events/export", project_id=alice.project_id, after=after).text)
        assert rest[:-1] == lines[10:-1]
        assert rest[-1] == {"complete": True, "events": _EVENTS - 10}

    def test_that_breaks_off_does_not_say_that_it_is_whole(self, api: ApiClient, alice: Tenant) -> None:
        opened = []

        def break_off(*arguments: object, **named: object) -> object:
            opened.append(arguments)
            if len(opened) > 2:
                raise StorageUnavailable
            return reading(*arguments, **named)  # type: ignore[arg-type]

        with patch.object(export, "reading", break_off):
            answer = api.call("GET", f"/v1/events/export?project_id={alice.project_id}", buffered=False)
            read, error = _read(answer)
        assert isinstance(error, StorageUnavailable)
        assert answer.status_code == 200
        assert len(read.splitlines()) == 8
        assert b"complete" not in read

    def test_of_a_token_that_is_revoked_meanwhile_reads_no_further(
        self, app: Flask, api: ApiClient, alice: Tenant
    ) -> None:
        answer = api.call("GET", f"/v1/events/export?project_id={alice.project_id}", buffered=False)
        pieces = iter(answer.iter_encoded())
        first = next(pieces)
        assert api_of(app, alice).post(f"/v1/tokens/{alice.token_id}/revoke").status_code == 200

        with pytest.raises(InvalidManagementToken):
            next(pieces)
        assert len(first.splitlines()) == 4


class TestCsv:
    def test_has_a_row_for_each_event_and_the_payload_as_json(self, api: ApiClient, alice: Tenant) -> None:
        answer = api.get("/v1/events/export", project_id=alice.project_id, format="csv")

        assert answer.mimetype == "text/csv"
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert [row["event_id"] for row in rows] == _ids(*reversed(range(_EVENTS)))
        first = _lines(api.get("/v1/events/export", project_id=alice.project_id).text)[0]
        assert {**rows[0], "payload": json.loads(rows[0]["payload"])} == first
        assert _DIGITS in rows[0]["payload"]

    def test_goes_on_behind_the_last_event_that_was_received_and_begins_with_its_head_again(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        """Each answer is a CSV file of its own, whatever came before."""
        head, *whole = _records(api.get("/v1/events/export", project_id=alice.project_id, format="csv"))
        after = whole[9][head.index("id")]

        rest = api.get("/v1/events/export", project_id=alice.project_id, format="csv", after=after)
        assert _records(rest) == [head, *whole[10:]]
        nothing = api.get("/v1/events/export", project_id=alice.project_id, format="csv", after=whole[-1][0])
        assert _records(nothing) == [head]


def test_it_is_compressed_for_who_accepts_gzip(api: ApiClient, alice: Tenant) -> None:
    path = f"/v1/events/export?project_id={alice.project_id}"
    plain = api.call("GET", path)

    for accepted in ("gzip", "GZIP", "br, gzip;q=0.5", "gzip, identity;q=0.5", "identity;q=0, *"):
        packed = api.call("GET", path, headers={"Accept-Encoding": accepted})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.data) == plain.data
    for refused in ("", "identity", "gzip;q=0", "*", "*, gzip;q=0", "gzip;q=0.5, identity"):
        unpacked = api.call("GET", path, headers={"Accept-Encoding": refused})
        assert "Content-Encoding" not in unpacked.headers
        assert unpacked.data == plain.data


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"after": "evu_1"}, "/after"),
        ({"after": "evt_1"}, "/after"),
        ({"format": "xml"}, "/format"),
        ({"q": "sevrity:error"}, "/q"),
        ({"from": "-1h", "to": "-2h"}, "/to"),
        ({"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/to"),
        ({"from": "2016-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/from"),
        ({"limit": "5"}, "/limit"),
    ],
)
def test_what_is_wrong_is_refused_before_it_begins(
    app: Flask, alice: Tenant, query: dict[str, str], pointer: str
) -> None:
    answer = api_of(app, alice).get("/v1/events/export", project_id=alice.project_id, **query)

    assert answer.status_code == 422
    assert pointers_of(answer) == {pointer}


def test_a_project_of_another_workspace_is_not_found(app: Flask, alice: Tenant, charlie: Tenant) -> None:
    assert api_of(app, alice).get("/v1/events/export", project_id=charlie.project_id).status_code == 404
