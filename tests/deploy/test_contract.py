"""The API behind nginx and two cells keeps every word of its document, for the keys and tokens of each cell."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Settings
from bench.proxies import Proxy, missing, proxy
from tests.support.cells import Cell, cells
from tests.support.live import environment_of, live_server

pytestmark = pytest.mark.slow

_NAMES = ("eu1", "us1")
# As tests/contract/test_fuzz.py has it, and shorter: what differs here is the road.
_RUNS = ("--phases examples,coverage,fuzzing --max-time 20 --seed 1", "--phases stateful --max-time 15 --seed 1")


@pytest.fixture(name="pair", scope="module")
def _pair(server_url: str, migrated: Settings) -> Iterator[list[Cell]]:
    with cells(server_url, migrated, *_NAMES) as pair:
        yield pair


@pytest.fixture(name="front", scope="module")
def _front(pair: list[Cell], checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    if reason := missing("nginx"):
        pytest.skip(reason)
    with ExitStack() as stack:
        ports, downloads = {}, str(tmp_path_factory.mktemp("downloads"))
        for cell in pair:
            behind_it = replace(cell.settings, trusted_proxies=("127.0.0.1/32",), download_dir=downloads)
            ports[cell.name] = [stack.enter_context(live_server(behind_it, checkout)).port]
        yield stack.enter_context(proxy("nginx", checkout, tmp_path_factory.mktemp("front") / "nginx", ports))


@pytest.mark.parametrize("cell", range(len(_NAMES)), ids=_NAMES)
@pytest.mark.parametrize("run", _RUNS, ids=["each by itself", "one after the other"])
def test_the_api_keeps_every_word_of_its_document_behind_nginx(
    pair: list[Cell], front: Proxy, checkout: Path, cell: int, run: str
) -> None:
    program = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", "contract/schemathesis.toml"]
    environment = environment_of(pair[cell].settings) | {"PYTHONPATH": str(checkout), "LARIBA_LOG_LEVEL": "ERROR"}
    document = f"http://127.0.0.1:{front.port}/openapi.json"

    done = subprocess.run(
        [*program, "run", document, "--no-color", *run.split()], cwd=checkout, env=environment, check=False
    )

    assert done.returncode == 0, "schemathesis prints above what is wrong and how to reproduce it"
