"""Generates each client, compiles it and runs its scenario: `python -m contract.matrix build/clients`."""

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

from contract.matrix.build_folder import BuildFolder, missing
from local import demo_env
from local.product import is_ready

_START_SECONDS: Final = 180.0


@dataclass(frozen=True, slots=True)
class Check:
    """A generator that makes a client of the document, or a linter that reads it."""

    name: str
    programs: tuple[str, ...]
    """What the machine must have."""
    run: Callable[[BuildFolder], None]


def _redocly(build: BuildFolder) -> None:
    build.install_node()
    rules = str(build.rules / "redocly.yaml")
    build.run_node("redocly", "lint", str(build.document), "--config", rules)


def _spectral(build: BuildFolder) -> None:
    build.install_node()
    rules = str(build.rules / "spectral.yaml")
    build.run_node("spectral", "lint", str(build.document), "--ruleset", rules, "--fail-severity", "hint")


def _python_client(build: BuildFolder) -> None:
    build.run_python("python_client.py", build.folder)


def _fetch(build: BuildFolder) -> None:
    build.install_node()
    sources = build.folder / "fetch"
    sources.mkdir(exist_ok=True)
    build.run_node("openapi-typescript", str(build.document), "--output", str(sources / "document.ts"))
    build.run_typescript("fetch.ts", sources)


def _generated_python(build: BuildFolder) -> None:
    build.install_python()
    made = build.generate("python", packageName="lariba_generated")
    build.run_python("generated.py", made, build.python)


def _generated_typescript(build: BuildFolder) -> None:
    build.install_python()
    build.install_node()
    made = build.generate("typescript-fetch", importFileExtension=".js")
    build.run_typescript("generated.ts", made)


def _generated_go(build: BuildFolder) -> None:
    build.install_python()
    made = build.generate("go", packageName="lariba")
    build.run_go("scenario.go", made)


_CHECKS: Final = (
    Check("redocly", ("node", "npm"), _redocly),
    Check("spectral", ("node", "npm"), _spectral),
    Check("openapi-python-client", (), _python_client),
    Check("openapi-typescript and openapi-fetch", ("node", "npm"), _fetch),
    Check("openapi-generator, Python", ("java",), _generated_python),
    Check("openapi-generator, TypeScript", ("java", "node", "npm"), _generated_typescript),
    Check("openapi-generator, Go", ("java", "go"), _generated_go),
)


@contextmanager
def _product() -> Iterator[Mapping[str, str]]:
    """The whole product with an empty database, as `make run` starts it; yields the variables of its demo.env."""
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


def _run(check: Check, build: BuildFolder) -> bool:
    """Run a check and print its outcome. True if it passed, or if the machine lacks a program for it."""
    if absent := missing(*check.programs):
        print(f"{check.name}: left out, for there is no {', '.join(absent)} here", flush=True)
        return True
    began = time.monotonic()
    try:
        check.run(build)
    except subprocess.CalledProcessError as error:
        print(f"{check.name}: FAILED\n{' '.join(error.cmd)}\n{error.stdout}", flush=True)
        return False
    print(f"{check.name}: well, {time.monotonic() - began:.0f} s", flush=True)
    return True


def main(folder: Path, chosen: list[str]) -> int:
    """Run the checks whose names contain a word of `chosen`, or all. The exit status."""
    checks = [check for check in _CHECKS if not chosen or any(word in check.name for word in chosen)]
    with _product() as installation:
        build = BuildFolder(folder, installation)
        passed = [_run(check, build) for check in checks]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
