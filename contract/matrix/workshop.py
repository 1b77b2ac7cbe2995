"""The folder in which clients are made: the document, the generators in it, and how they are called."""

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
_LIVES: Final = _HERE / "lives"
# Generators like to tell their makers how they are used, and to look for newer ones.
_QUIET: Final = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "GOFLAGS": "-mod=mod"}


class Workshop:
    """Installs what it needs into its own folder, once; nothing else on the machine is touched."""

    def __init__(self, folder: Path, installation: Mapping[str, str]) -> None:
        """`installation` is what a client reads of the running product from its environment."""
        self.folder = folder.resolve()
        self._environment = {**os.environ, **_QUIET, **installation}
        self.python = self.folder / "tools" / "bin" / "python"
        """The interpreter of what requirements.txt names."""
        generate(self.folder)  # also openapi-python-client's package
        self.document = self.folder / "openapi.json"

    def run(self, *command: str | Path, where: Path | None = None) -> None:
        """Run a program; raises CalledProcessError with what it has said if it fails."""
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

    def run_python(self, life: str, package: Path, interpreter: Path | None = None) -> None:
        """Lead the life in `lives` that uses `package`, with our own interpreter or with the workshop's."""
        environment = self._environment | {"PYTHONPATH": str(package)}
        self._run([interpreter or sys.executable, _LIVES / life], self.folder, environment)

    def run_typescript(self, life: str, sources: Path) -> None:
        """Compile `sources` with the life in `lives` among them, and lead it."""
        shutil.copy(_LIVES / life, sources / "life.ts")
        built = sources / "built"
        options = ["--strict", "--target", "es2022", "--module", "nodenext"]
        self.run_node("tsc", *options, "--types", "node", "--outDir", str(built), str(sources / "life.ts"))
        self.run("node", built / "life.js")

    def run_go(self, life: str, module: Path) -> None:
        """Compile `module` with the life in `lives` as its program, and lead it."""
        program = module / "life"
        program.mkdir()
        shutil.copy(_LIVES / life, program / "main.go")
        # The generator writes down the newest Go that it knows; what it writes needs no more than this.
        self.run("go", "mod", "edit", "-go=1.18", where=module)
        self.run("go", "vet", ".", "./life", where=module)
        self.run("go", "run", "./life", where=module)

    def run_node(self, program: str, *arguments: str) -> None:
        """Run a program out of package.json."""
        self.run(self.folder / "node_modules" / ".bin" / program, *arguments)

    def generate(self, generator: str, **properties: str) -> Path:
        """What openapi-generator makes of the document, in a folder of its own."""
        made = self.folder / generator
        shutil.rmtree(made, ignore_errors=True)
        files: list[str | Path] = ["-i", self.document, "-o", made, "--git-host", "example.invalid"]
        names = ["--git-user-id", "lariba", "--git-repo-id", "lariba"]
        chosen = ",".join(f"{name}={value}" for name, value in properties.items())
        program = self.python.with_name("openapi-generator-cli")
        self.run(program, "generate", "-g", generator, *files, *names, f"--additional-properties={chosen}")
        return made

    def install_python(self) -> None:
        """requirements.txt, unless it is installed already."""
        if self._is_installed("requirements.txt"):
            return
        venv.create(self.folder / "tools", with_pip=True, clear=True)
        wanted = str(_HERE / "requirements.txt")
        self.run(self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted)
        shutil.copy(wanted, self.folder)

    def install_node(self) -> None:
        """package.json, unless it is installed already."""
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
        """Where the linters' rules are."""
        return _HERE


def missing(*programs: str) -> list[str]:
    """Those of `programs` that this machine does not have."""
    return [program for program in programs if shutil.which(program) is None]
