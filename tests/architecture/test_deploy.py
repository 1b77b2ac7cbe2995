"""deploy/ says of the product what is true of it: commands, settings, secrets, folders, health, time to stop."""

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.bin.base import CLIContext
from celery.bin.celery import celery as celery_command
from flask import Flask
from granian.cli import cli as granian_command

from app.config import Settings, variable_of
from app.maintenance.schedule import TASKS
from app.maintenance.task import RUN_SECONDS
from app.worker import create_celery

_CHECKOUT = Path(__file__).parent.parent.parent
_DEPLOY = _CHECKOUT / "deploy"
_UNITS = _DEPLOY / "systemd"
_COMPOSE: dict[str, Any] = yaml.safe_load((_DEPLOY / "compose.yaml").read_text())
_OURS = {name: service for name, service in _COMPOSE["services"].items() if "build" in service}
# Not what an operator or Python has put there.
_FILES = sorted(
    path
    for path in _DEPLOY.rglob("*")
    if path.is_file() and not {"__pycache__", "secrets", "lariba.env"} & {*path.relative_to(_DEPLOY).parts}
)
_KINDS = ("web", "worker", "beat", "migrate")
_OPT = "/opt/lariba/"


@dataclass(frozen=True, slots=True)
class _Process:
    """One of the product's processes, as compose.yaml or a unit starts it."""

    where: str
    kind: str
    command: list[str]
    variables: dict[str, str]
    secrets: set[str]
    """The files that it is handed, as paths."""
    writable: set[str]
    """The folders in which it may write."""
    stop_seconds: int


def _directives(*files: Path) -> Iterator[tuple[str, str]]:
    """What units say, in their order; lines that end in a backslash go on."""
    for file in files:
        for line in file.read_text().replace("\\\n", " ").splitlines():
            if line and line[0] not in "#[":
                name, _, value = line.partition("=")
                yield name, value


def _unit(kind: str) -> _Process:
    said = list(_directives(_UNITS / "lariba-.service.d/common.conf", _UNITS / f"lariba-{kind}.service"))

    def words(*names: str) -> list[str]:
        return [word for name, value in said if name in names for word in shlex.split(value)]

    return _Process(
        where="systemd",
        kind=kind,
        command=[word.removeprefix(f"{_OPT}.venv/bin/") for word in words("ExecStart")],
        variables=dict(word.split("=", 1) for word in words("Environment")),
        secrets={f"%d/{word.split(':')[0]}" for word in words("LoadCredential")},
        writable={
            *words("ReadWritePaths"),
            *(f"/run/{folder}" for folder in words("RuntimeDirectory")),
            *(f"/var/lib/{folder}" for folder in words("StateDirectory")),
        },
        stop_seconds=int((words("TimeoutStopSec") or ["0"])[0]),
    )


def _service(kind: str) -> _Process:
    service = _OURS[kind]
    mounts = [*service.get("volumes", []), *(f":{folder}" for folder in service.get("tmpfs", []))]
    return _Process(
        where="compose",
        kind=kind,
        command=service.get("command") or _image_command(),
        variables=service["environment"],
        secrets={f"/run/secrets/{secret}" for secret in service["secrets"]},
        writable={mount.split(":")[1] for mount in mounts if not mount.endswith(":ro")},
        stop_seconds=int(service.get("stop_grace_period", "0s").removesuffix("s")),
    )


def _dockerfile() -> str:
    return (_DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")


def _image_command() -> list[str]:
    command = re.search(r"^CMD (\[.*\])$", _dockerfile(), re.MULTILINE)
    assert command
    words: list[str] = json.loads(command[1])
    return words


_PROCESSES = [make(kind) for make in (_unit, _service) for kind in _KINDS]
_EACH = pytest.mark.parametrize("process", _PROCESSES, ids=lambda process: f"{process.where}-{process.kind}")


def _entry_points() -> set[str]:
    """What wsgi.py gives to servers; importing it would start the product."""
    tree = ast.parse((_CHECKOUT / "wsgi.py").read_text())
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


@_EACH
def test_every_command_names_an_entry_point_and_options_that_exist(
    process: _Process, app: Flask, settings: Settings
) -> None:
    program, *arguments = process.command
    if program == "flask":
        assert arguments[:2] == ["--app", "wsgi"]
        assert arguments[2] in app.cli.commands
        return
    if program == "granian":
        parsed = granian_command.make_context(program, arguments)
        module, name = parsed.params["app"].split(":")
    else:
        assert (program, arguments[0]) == ("celery", "-A")
        module, name = arguments[1].split(".")
        context = CLIContext(create_celery(settings), no_color=True, workdir=None, quiet=True)
        celery_command.commands[arguments[2]].make_context(arguments[2], arguments[3:], obj=context)
    assert module == "wsgi"
    assert name in _entry_points()


def test_web_is_the_same_in_the_image_and_in_the_unit_but_for_its_address() -> None:
    image, unit = _service("web").command, _unit("web").command
    assert (image.pop(image.index("--host") + 1), unit.pop(unit.index("--host") + 1)) == ("0.0.0.0", "127.0.0.1")

    assert image == unit


@pytest.mark.parametrize("kind", ["worker", "beat", "migrate"])
def test_the_same_command_runs_in_compose_and_in_the_unit(kind: str) -> None:
    assert _service(kind).command == _unit(kind).command


@pytest.mark.parametrize("kind", _KINDS)
def test_operations_md_has_the_same_command(kind: str) -> None:
    documented = (_CHECKOUT / "docs" / "operations.md").read_text().replace("\\\n", " ")

    assert shlex.join(_service(kind).command) in re.sub(" +", " ", documented)


@pytest.mark.parametrize("file", _FILES, ids=lambda path: path.name)
def test_every_variable_is_a_setting_or_its_file(file: Path) -> None:
    known = {variable_of(name) for name in Settings.__dataclass_fields__}
    named = set(re.findall(r"\bLARIBA_[A-Z_]+", file.read_text()))

    assert {variable.removesuffix("_FILE") for variable in named} <= known


@_EACH
def test_every_process_has_what_it_cannot_start_without(process: _Process) -> None:
    given = {variable.removesuffix("_FILE") for variable in process.variables}

    assert {"LARIBA_DATABASE_URL", "LARIBA_BROKER_URL", "LARIBA_SECRET_KEY"} <= given


@_EACH
def test_every_file_of_a_setting_is_handed_over_and_nothing_else_is(process: _Process) -> None:
    files = {value for variable, value in process.variables.items() if variable.endswith("_FILE")}

    assert files == process.secrets


@_EACH
def test_only_who_changes_tables_is_given_their_owner(process: _Process) -> None:
    assert ("LARIBA_ADMIN_DATABASE_URL_FILE" in process.variables) is (process.kind in ("worker", "migrate"))


def test_every_secret_of_compose_is_made_by_make_secrets() -> None:
    made = set(re.findall(r"^write (\w+)", (_DEPLOY / "make-secrets").read_text(), re.MULTILINE))

    assert {secret["file"] for secret in _COMPOSE["secrets"].values()} == {f"secrets/{name}" for name in made}
    assert {name for service in _COMPOSE["services"].values() for name in service.get("secrets", [])} == made


@_EACH
def test_every_folder_that_a_process_writes_in_is_writable(process: _Process) -> None:
    folders = {variable: value for variable, value in process.variables.items() if variable.endswith("_DIR")}
    if process.kind == "worker":
        folders["LARIBA_EXPORT_DIR"] = "/var/lib/lariba/exports"
    if process.kind == "web":
        assert folders.pop("LARIBA_DOWNLOAD_DIR") not in process.writable

    assert set(folders.values()) <= process.writable


@pytest.mark.parametrize("make", [_unit, _service])
def test_web_servers_send_files_from_where_the_worker_writes_them(make: Callable[[str], _Process]) -> None:
    assert len({make(kind).variables["LARIBA_DOWNLOAD_DIR"] for kind in ("web", "worker")}) == 1
    if make is _service:
        mounted = {mount.split(":")[1] for mount in _OURS["web"]["volumes"]}
        assert make("web").variables["LARIBA_DOWNLOAD_DIR"] in mounted


def test_who_counts_shares_one_folder() -> None:
    for where in ("compose", "systemd"):
        counting = [process for process in _PROCESSES if process.where == where and process.kind != "migrate"]
        assert len({process.variables["LARIBA_METRICS_DIR"] for process in counting}) == 1
    assert _unit("metrics").writable == {_unit("web").variables["LARIBA_METRICS_DIR"]}


def test_the_time_to_stop_is_longer_than_what_is_under_way_may_take(settings: Settings) -> None:
    """Of a run with a long step the step may be given up, and is taken again: it may take half an hour."""
    celery = create_celery(settings)
    task_seconds = max(celery.tasks[task.celery_name].time_limit or 0 for task in TASKS if task.seconds == RUN_SECONDS)
    for make in (_unit, _service):
        web = make("web")
        assert web.stop_seconds > int(web.command[web.command.index("--workers-kill-timeout") + 1])
        assert make("worker").stop_seconds > task_seconds


def test_a_stop_is_asked_of_the_parent_alone() -> None:
    assert ("KillMode", "mixed") in _directives(_UNITS / "lariba-.service.d/common.conf")
    assert all(service["init"] for service in _OURS.values())


@pytest.mark.parametrize("name", sorted(_COMPOSE["services"]))
def test_no_container_may_write_be_root_or_gain_rights(name: str) -> None:
    service = _COMPOSE["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] not in ("root", "0")


@pytest.mark.parametrize("name", sorted(set(_COMPOSE["services"]) - {"migrate"}))
def test_every_container_that_stays_has_a_check_that_exists(name: str, app: Flask) -> None:
    test = _COMPOSE["services"][name]["healthcheck"]["test"]
    if name in _OURS:
        paths = re.findall(r"http://127\.0\.0\.1:8000(/\w+)", test[-1])
        modules = [test[index + 1] for index, word in enumerate(test) if word == "-m"]
        assert set(paths) <= {rule.rule for rule in app.url_map.iter_rules()}
        assert all((_CHECKOUT / module.replace(".", "/")).with_suffix(".py").exists() for module in modules)
        assert len(paths) + len(modules) == 1
    else:
        assert test[1] in ("pg_isready", "redis-cli")


def test_the_image_holds_what_is_run_and_its_build_sees_it() -> None:
    copied = [words.split()[0] for words in re.findall(r"^COPY (?!--from)(.+)$", _dockerfile(), re.MULTILINE)]
    allowed = re.findall(r"^!(.+)$", (_DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)

    assert sorted(copied) == sorted(allowed)
    assert all((_CHECKOUT / path).exists() for path in copied)
    assert {"wsgi.py", "app", "migrations", "deploy/canary.py"} <= set(copied)


def test_every_unit_is_wanted_or_required_and_every_wanted_unit_exists() -> None:
    said = {path.name: list(_directives(path)) for path in _UNITS.glob("lariba-*.service")}
    enabled = {unit for unit, lines in said.items() if ("WantedBy", "lariba.target") in lines}
    named = {
        word
        for lines in said.values()
        for name, value in lines
        if name in ("Wants", "Requires")
        for word in value.split()
    }

    assert named | enabled == set(said)
    assert enabled == {"lariba-web.service", "lariba-worker.service", "lariba-beat.service"}
