"""Bounds of the access log: what it writes at once, and what it remembers of keys."""

import json
import logging
import sys
from collections.abc import Iterator
from io import StringIO

import pytest

from app.telemetry import access_log
from app.telemetry.access_log import RequestLine, RequestLines, Sampling
from tests.support.logging_left_alone import logging_left_alone

# Linux writes as much into a pipe without other writers' bytes in between.
_PIPE_BUF = 4096


class _Writes(StringIO):
    """Standard error, which notes each write."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[str] = []

    def write(self, text: str) -> int:
        self.chunks.append(text)
        return len(text)


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was() -> Iterator[None]:
    with logging_left_alone():
        logging.getLogger().setLevel(logging.INFO)
        yield


def _written(monkeypatch: pytest.MonkeyPatch, *added: RequestLine) -> list[str]:
    """What one flush of these lines writes, by writes."""
    lines = RequestLines(Sampling())
    for line in added:
        lines.add(line)
    writes = _Writes()
    with monkeypatch.context() as process:
        process.setattr(sys, "stderr", writes)
        lines.flush()
    return writes.chunks


def _line(request_id: str, *, path: str = "/v1/events/ingest") -> RequestLine:
    return RequestLine(
        event="event_accepted",
        key="key_1",
        method="POST",
        milliseconds=1.0,
        path=path,
        remote_address="127.0.0.1",
        request_id=request_id,
        status=201,
    )


@pytest.mark.parametrize("letter", ["x", "é"])
def test_each_write_is_whole_lines_that_processes_who_share_a_pipe_cannot_interleave(
    monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    chunks = _written(monkeypatch, *(_line(f"req-{n}", path="/" + letter * (n * 7 % 300)) for n in range(200)))

    assert max(len(chunk.encode()) for chunk in chunks) <= _PIPE_BUF
    assert all(chunk.endswith("\n") for chunk in chunks)
    assert [json.loads(line)["request_id"] for line in "".join(chunks).splitlines()] == [f"req-{n}" for n in range(200)]


def test_many_lines_take_few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= len(_written(monkeypatch, *(_line(f"req-{n}") for n in range(200)))) < 200 / 10


def test_sampling_remembers_so_many_keys_and_then_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come and go for as long as a process lives."""
    monkeypatch.setattr(access_log, "_KEYS_MAX", 3)
    sampling = Sampling(10)

    def stands_for(key: str) -> int:
        return sampling.stands_for("event_accepted", key, 1.0)

    assert [stands_for("a"), stands_for("a")] == [10, 0]
    assert [stands_for(key) for key in "bcd"] == [10, 10, 10]
    assert stands_for("a") == 10
