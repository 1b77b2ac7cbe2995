"""The folder in which clients are generated: the document, the installed generators, and how they are called."""

import filecmp
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from contract.client import generate

_HERE: Final = Path(__file__).parent
_SCENARIOS: Final = _HERE / "scenarios"
# Without these the generators send telemetry and look for newer versions.
_QUIET: Final = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "GOFLAGS": "-mod=mod"}


class BuildFolder:
    """Installs what it needs into itself, once, and changes nothing else on the machine."""

    def __init__(self, folder: Path, installation: Mapping[str, str]) -> None:
        """`installation` becomes part of the environment of every client: the URL and credentials of the product."""
        self.folder = folder.resolve()
        self._environment = {**os.environ, **_QUIET, **installation}
        self.python = self.folder / "tools" / "bin" / "python"
        """The interpreter that has requirements.txt installed."""
        generate(self.folder)  # also openapi-python-client's package
        self.document = self.folder / "openapi.json"

    def run(self, *command: str | Path, where: Path | None = None) -> None:
        """Run a program. Raises CalledProcessError with its output if it fails."""
        self._run(command, where or self.folder, self._environment)

    def _run(self, command: Sequence[str | Path], where: Path, environment: Mapping[str, str]) -> None:
        subprocess.run(
            [str(part) for part in command],
            cwd=where,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_python(self, scenario: str, package: Path, interpreter: Path | None = None) -> None:
        """Run a scenario that imports `package`, by our own interpreter or another."""
        environment = self._environment | {"PYTHONPATH": str(package)}
        self._run([interpreter or sys.executable, _SCENARIOS / scenario], self.folder, environment)

    def run_typescript(self, scenario: str, sources: Path) -> None:
        """Compile `sources` with a scenario among them, and run it."""
        shutil.copy(_SCENARIOS / scenario, sources / "scenario.ts")
        built = sources / "built"
        options = ["--strict", "--target", "es2022", "--module", "nodenext"]
        self.run_node("tsc", *options, "--types", "node", "--outDir", str(built), str(sources / "scenario.ts"))
        self.run("node", built / "scenario.js")

    def run_go(self, scenario: str, module: Path) -> None:
        """Compile `module` with a scenario as its program, and run it."""
        program = module / "scenario"
        program.mkdir()
        shutil.copy(_SCENARIOS / scenario, program / "main.go")
        # The generator requires the newest Go that it knows; its code needs no more than this one.
        self.run("go", "mod", "edit", "-go=1.18", where=module)
        self.run("go", "vet", ".", "./scenario", where=module)
        self.run("go", "run", "./scenario", where=module)

    def run_node(self, program: str, *arguments: str) -> None:
        """Run a program of package.json."""
        self.run(self.folder / "node_modules" / ".bin" / program, *arguments)

    def generate(self, generator: str, **properties: str) -> Path:
        """Run openapi-generator; the folder of its client."""
        made = self.folder / generator
        shutil.rmtree(made, ignore_errors=True)
        files: list[str | Path] = ["-i", self.document, "-o", made, "--git-host", "example.invalid"]
        names = ["--git-user-id", "lariba", "--git-repo-id", "lariba"]
        chosen = ",".join(f"{name}={value}" for name, value in properties.items())
        program = self.python.with_name("openapi-generator-cli")
        self.run(program, "generate", "-g", generator, *files, *names, f"--additional-properties={chosen}")
        return made

    def install_python(self) -> None:
        """Install requirements.txt, unless it is installed."""
        if self._is_installed("requirements.txt"):
            return
        venv.create(self.folder / "tools", with_pip=True, clear=True)
        wanted = str(_HERE / "requirements.txt")
        self.run(self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted)
        shutil.copy(wanted, self.folder)

    def install_node(self) -> None:
        """Install package.json, unless it is installed."""
        if self._is_installed("package.json") and (self.folder / "node_modules").exists():
            return
        shutil.copy(_HERE / "package.json", self.folder)
        try:
            self.run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
        except subprocess.CalledProcessError:
            (self.folder / "package.json").unlink()
            raise

    def _is_installed(self, name: str) -> bool:
        there = self.folder / name
        return there.exists() and filecmp.cmp(there, _HERE / name, shallow=False)

    @property
    def rules(self) -> Path:
        """The folder of the linters' rules."""
        return _HERE


def missing(*programs: str) -> list[str]:
    """The `programs` that this machine lacks."""
    return [program for program in programs if shutil.which(program) is None]
