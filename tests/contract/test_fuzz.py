"""Every operation of the OpenAPI document, with data that fit it and data that do not: the API does what it says."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import Settings
from tests.support.live import LiveServer, environment_of, live_server

pytestmark = pytest.mark.slow

# A fixed seed: a failure belongs to the change that caused it, not to the next one. `make fuzz` takes another seed each
# time. Two runs: the last phase gets the time that the others leave, and the phase of the links is the last.
_BOUNDED = {
    "each operation by itself": "--phases examples,coverage,fuzzing --max-time 25 --seed 1",
    "one after the other, by the links": "--phases stateful --max-time 25 --seed 1",
}
_ASKED_FOR = os.environ.get("FUZZ_ARGS")
_RUNS = _BOUNDED if _ASKED_FOR is None else {"as asked for": _ASKED_FOR}


@pytest.fixture(scope="module", name="server")
def _server(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    with live_server(settings, checkout) as server:
        yield server


@pytest.mark.parametrize("kind", _RUNS)
def test_the_api_keeps_every_word_of_its_document(
    settings: Settings, checkout: Path, server: LiveServer, kind: str
) -> None:
    program = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", "contract/schemathesis.toml"]
    environment = environment_of(settings) | {"PYTHONPATH": str(checkout), "LARIBA_LOG_LEVEL": "ERROR"}
    document = f"http://127.0.0.1:{server.port}/openapi.json"
    command = [*program, "run", document, "--no-color", *shlex.split(_RUNS[kind])]

    run = subprocess.run(command, cwd=checkout, env=environment, check=False)

    assert run.returncode == 0, "schemathesis prints above what is wrong and how to reproduce it"
