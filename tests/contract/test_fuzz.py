"""Every operation of the OpenAPI document, with data that fit it and data that do not: the API does what it says."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from app.config import Settings
from tests.live import environment_of, live_server

# A fixed seed: what fails here failed for whoever changed something, and not for whoever came next. `make fuzz` has
# another one each time.
_BOUNDED = "--max-time 35 --seed 1"


def test_the_api_keeps_every_word_of_its_document(settings: Settings, checkout: Path) -> None:
    program = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", "contract/schemathesis.toml"]
    arguments = shlex.split(os.environ.get("FUZZ_ARGS", _BOUNDED))
    environment = environment_of(settings) | {"PYTHONPATH": str(checkout), "LARIBA_LOG_LEVEL": "ERROR"}

    with live_server(settings, checkout) as server:
        document = f"http://127.0.0.1:{server.port}/openapi.json"
        command = [*program, "run", document, "--no-color", *arguments]
        run = subprocess.run(command, cwd=checkout, env=environment, check=False)

    assert run.returncode == 0, "schemathesis tells above what is wrong, and how to see it again"
