"""Processes that share a folder: each shows all, also those that are gone, and the folder stays small."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.config import Settings
from app.monitoring.shared_metrics import SharedMetrics
from tests.support.counting import Counts, count_of, counts_of_page, sum_of
from tests.support.live import Answer, LiveServer, environment_of, free_port, is_ready, live_server, workers_of
from tests.support.people import Tenant
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_STORED = {"method": "POST", "route": PATH, "outcome": "stored"}
_POOL = {"program": "lariba-web"}
_POOL_SIZE = 3


@pytest.fixture(name="shared")
def _shared(settings: Settings, tmp_path: Path) -> Settings:
    """With a folder that does not exist yet."""
    return replace(settings, metrics_dir=str(tmp_path / "made" / "metrics"), database_pool_size=_POOL_SIZE)


def _send(server: LiveServer, tenant: Tenant) -> None:
    headers = {"X-API-Key": tenant.key, "Content-Type": "application/json"}
    assert server.request("POST", PATH, json.dumps(event_for(tenant)).encode(), headers).status == 201


def _ask(server: LiveServer, path: str) -> bytes:
    """The answer of some process; one that is being killed may take the question along."""

    def answer() -> Answer | None:
        with contextlib.suppress(OSError):
            return server.request("GET", path)
        return None

    answered = wait_until(answer)
    assert answered is not None
    assert answered.status == 200
    return answered.body


def _scrape(server: LiveServer) -> Counts:
    return counts_of_page(_ask(server, "/metrics").decode())


def _stored(server: LiveServer) -> float:
    return count_of(_scrape(server), "lariba_requests_total", **_STORED)


def _says_the_same_at_each_of(server: LiveServer, scrapes: int, stored: float) -> bool:
    return all(_stored(server) == stored for _ in range(scrapes))


def _connected_processes(server: LiveServer) -> float:
    """How many processes that live have a pool: each asks the database when it is asked whether it is ready."""
    _ask(server, "/readyz")
    return count_of(_scrape(server), "lariba_pool_connections_max", **_POOL) / _POOL_SIZE


# A process with a limit on the size of its files counts in as many series as its argument says, and prints the result.
_CRAMPED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
from app.telemetry import logs
logs.configure("INFO")
from app.monitoring.shared_metrics import share
share(sys.argv[1], os.environ)
from app.telemetry import metrics
for n in range(int(sys.argv[3])):
    metrics.KEY_LOOKUPS.labels(f"place {n}").inc()
    metrics.QUEUE_EVENTS.set(n)
print("counted", flush=True)
"""


# A process that counts one run, has one connection open, and waits.
_PROCESS = """
import os, sys
from app.monitoring.shared_metrics import share
share(sys.argv[1], os.environ)
from app.telemetry import metrics
metrics.ARGON2_RUNS.labels("prove").inc()
metrics.POOL_IN_USE.labels("a test").inc()
print("counted", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _process(folder: Path, checkout: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(folder)], cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counted\n"
        yield process


def _collector(folder: Path) -> CollectorRegistry:
    return cast("CollectorRegistry", SharedMetrics(str(folder)))


def _counted(folder: Path) -> tuple[float, float]:
    """Runs of argon2, and connections in use."""
    counts = counts_of_page(generate_latest(_collector(folder)).decode())
    return sum_of(counts, "lariba_argon2_runs_total"), sum_of(counts, "lariba_pool_connections_in_use")


def test_of_a_process_that_is_gone_counters_stay_and_gauges_do_not(checkout: Path, tmp_path: Path) -> None:
    with _process(tmp_path, checkout), _process(tmp_path, checkout) as second:
        assert _counted(tmp_path) == (2, 2)
        second.kill()
        second.wait()
        assert _counted(tmp_path) == (2, 1)

    assert _counted(tmp_path) == (2, 0)


def test_a_process_takes_the_place_of_one_that_is_gone_with_its_counts_and_without_its_gauges(
    checkout: Path, tmp_path: Path
) -> None:
    with _process(tmp_path, checkout) as first:
        files = set(tmp_path.iterdir())
        first.kill()

    with _process(tmp_path, checkout):
        assert _counted(tmp_path) == (2, 1)
        assert set(tmp_path.iterdir()) == files


def test_a_folder_that_does_not_exist_has_no_metrics(tmp_path: Path) -> None:
    assert _counted(tmp_path / "metrics") == (0, 0)


@pytest.mark.slow
def test_each_of_two_processes_shows_both_and_a_killed_one_is_still_counted(
    shared: Settings, checkout: Path, alice: Tenant
) -> None:
    with live_server(shared, checkout, workers=2) as server:
        wait_until(lambda: _connected_processes(server) == 2)
        for _ in range(60):
            _send(server, alice)
        # Answers of the fast path are counted within a twentieth of a second.
        wait_until(lambda: _stored(server) == 60)
        assert _says_the_same_at_each_of(server, 20, 60)
        files = set(Path(shared.metrics_dir).iterdir())

        workers_of(server)[-1].kill()
        wait_until(lambda: _connected_processes(server) == 1)
        assert _says_the_same_at_each_of(server, 5, 60)

        wait_until(lambda: _connected_processes(server) == 2)
        for _ in range(40):
            _send(server, alice)
        wait_until(lambda: _stored(server) == 100)
        assert _says_the_same_at_each_of(server, 20, 100)
        assert set(Path(shared.metrics_dir).iterdir()) == files


@contextlib.contextmanager
def _gunicorn(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    port = free_port()
    command = ["-m", "gunicorn", "--preload", "--workers", "2", "--threads", "8", "--bind", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, *command, "--log-level", "error", "wsgi:app"],
        cwd=checkout,
        env=environment_of(settings),
        start_new_session=True,
    )
    server = LiveServer(port, process)
    try:
        wait_until(lambda: is_ready(server))
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_processes_forked_from_one_that_has_loaded_the_application_count_for_themselves(
    shared: Settings, checkout: Path, alice: Tenant
) -> None:
    with _gunicorn(shared, checkout) as server:
        wait_until(lambda: _connected_processes(server) == 2)
        for _ in range(60):
            _send(server, alice)
        wait_until(lambda: _stored(server) == 60)
        assert _says_the_same_at_each_of(server, 20, 60)
        # One for the parent, which has loaded the metrics too.
        assert len(list(Path(shared.metrics_dir).glob("*.lock"))) == 3

        workers_of(server)[-1].kill()
        wait_until(lambda: _connected_processes(server) == 2)
        assert _says_the_same_at_each_of(server, 5, 60)
        assert len(list(Path(shared.metrics_dir).glob("*.lock"))) == 3


@pytest.mark.slow
def test_what_was_counted_in_the_last_moment_before_an_orderly_end_is_there_afterwards(
    shared: Settings, checkout: Path, alice: Tenant
) -> None:
    with live_server(shared, checkout) as server:
        for _ in range(20):
            _send(server, alice)
        server.process.terminate()
        server.process.wait(30)

    with live_server(shared, checkout) as server:
        assert _stored(server) == 20


@pytest.mark.parametrize("arrange", ["a file", "no right"])
def test_a_folder_that_cannot_be_used_ends_the_start_with_one_line(
    settings: Settings, checkout: Path, tmp_path: Path, arrange: str
) -> None:
    path = tmp_path / "metrics"
    path.touch()
    if arrange == "no right":
        path = Path("/proc/metrics")

    ended = subprocess.run(
        [sys.executable, "-c", "import wsgi"],
        cwd=checkout,
        env=environment_of(replace(settings, metrics_dir=str(path))),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("lariba: LARIBA_METRICS_DIR cannot be used: ")


def _cramped(folder: Path, checkout: Path, *, file_bytes: int, series: int) -> list[str]:
    """The lines of its log."""
    arguments = [str(folder), str(file_bytes), str(series)]
    ended = subprocess.run(
        [sys.executable, "-c", _CRAMPED, *arguments], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "counted\n"), ended.stderr
    return ended.stderr.splitlines()


@pytest.mark.parametrize("series", [1, 2000])
def test_what_is_mapped_has_its_space_on_the_disk(checkout: Path, tmp_path: Path, series: int) -> None:
    """The kernel answers a write into a page for which there is none with SIGBUS."""
    assert _cramped(tmp_path, checkout, file_bytes=2**30, series=series) == []

    files = [file.stat() for file in tmp_path.glob("*.db")]
    assert files
    assert [file for file in files if file.st_blocks * 512 < file.st_size] == []


@pytest.mark.parametrize(("file_bytes", "series"), [(1000, 1), (1 << 16, 2000)])
def test_a_process_that_finds_no_space_counts_no_more_and_says_so_once(
    checkout: Path, tmp_path: Path, file_bytes: int, series: int
) -> None:
    """At its start, or when a file is to grow."""
    (line,) = _cramped(tmp_path, checkout, file_bytes=file_bytes, series=series)

    assert "metrics_switched_off" in line
    assert "File too large" in line
    assert sum_of(counts_of_page(generate_latest(_collector(tmp_path)).decode()), "lariba_key_lookups_total") < series


@pytest.mark.slow
def test_events_are_stored_by_web_processes_that_find_no_space_for_their_counts(
    shared: Settings, checkout: Path, alice: Tenant
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        server_without_space = live_server(shared, checkout, workers=2)
        server = server_without_space.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with contextlib.ExitStack() as stack:
        stack.push(server_without_space)
        for _ in range(20):
            _send(server, alice)
        _scrape(server)
