"""Makes each client, compiles it and leads it through a whole life: `python -m contract.matrix build/clients`."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.matrix.workshop import Workshop, missing
from local import demo_env
from local.product import is_ready

_START_SECONDS: Final = 180.0


@dataclass(frozen=True, slots=True)
class Trial:
    """Something that others make of the document, or say of it."""

    name: str
    programs: tuple[str, ...]
    """What has to be on the machine."""
    run: Callable[[Workshop], None]


def _redocly(workshop: Workshop) -> None:
    workshop.install_node()
    rules = str(workshop.rules / "redocly.yaml")
    workshop.run_node("redocly", "lint", str(workshop.document), "--config", rules)


def _spectral(workshop: Workshop) -> None:
    workshop.install_node()
    rules = str(workshop.rules / "spectral.yaml")
    workshop.run_node("spectral", "lint", str(workshop.document), "--ruleset", rules, "--fail-severity", "hint")


def _python_client(workshop: Workshop) -> None:
    workshop.run_python("python_client.py", workshop.folder)


def _fetch(workshop: Workshop) -> None:
    workshop.install_node()
    sources = workshop.folder / "fetch"
    sources.mkdir(exist_ok=True)
    workshop.run_node("openapi-typescript", str(workshop.document), "--output", str(sources / "document.ts"))
    workshop.run_typescript("fetch.ts", sources)


def _generated_python(workshop: Workshop) -> None:
    workshop.install_python()
    made = workshop.generate("python", packageName="lariba_generated")
    workshop.run_python("generated.py", made, workshop.python)


def _generated_typescript(workshop: Workshop) -> None:
    workshop.install_python()
    workshop.install_node()
    made = workshop.generate("typescript-fetch", importFileExtension=".js")
    workshop.run_typescript("generated.ts", made)


def _generated_go(workshop: Workshop) -> None:
    workshop.install_python()
    made = workshop.generate("go", packageName="lariba")
    workshop.run_go("life.go", made)


_TRIALS: Final = (
    Trial("redocly", ("node", "npm"), _redocly),
    Trial("spectral", ("node", "npm"), _spectral),
    Trial("openapi-python-client", (), _python_client),
    Trial("openapi-typescript and openapi-fetch", ("node", "npm"), _fetch),
    Trial("openapi-generator, Python", ("java",), _generated_python),
    Trial("openapi-generator, TypeScript", ("java", "node", "npm"), _generated_typescript),
    Trial("openapi-generator, Go", ("java", "go"), _generated_go),
)


@contextmanager
def _product() -> Iterator[Mapping[str, str]]:
    """The whole product with an empty database, as `make run` starts it; what demo.env says of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="lariba-") as folder:
        environment = {**os.environ, "PORT": str(port), "VAR_DIR": folder}
        command = [sys.executable, "-m", "local"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not (is_ready(port) and (said := demo_env.read(Path(folder, "demo.env")))):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("The product did not start.")
                time.sleep(0.1)
            yield said
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _pass(trial: Trial, workshop: Workshop) -> bool:
    """Whether the trial went well, or could not be made here; says which, and what went wrong."""
    if absent := missing(*trial.programs):
        print(f"{trial.name}: left out, for there is no {', '.join(absent)} here", flush=True)
        return True
    began = time.monotonic()
    try:
        trial.run(workshop)
    except subprocess.CalledProcessError as error:
        print(f"{trial.name}: FAILED\n{' '.join(error.cmd)}\n{error.stdout}", flush=True)
        return False
    print(f"{trial.name}: well, {time.monotonic() - began:.0f} s", flush=True)
    return True


def main(folder: Path, chosen: list[str]) -> int:
    """0 if all is well with those trials whose names hold one of the words that are `chosen`, or with all."""
    trials = [trial for trial in _TRIALS if not chosen or any(word in trial.name for word in chosen)]
    with _product() as installation:
        workshop = Workshop(folder, installation)
        passed = [_pass(trial, workshop) for trial in trials]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
