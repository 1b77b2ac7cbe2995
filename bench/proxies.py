"""nginx and HAProxy in front of cells, from the files of deploy/ with names, addresses and paths filled in."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path
from typing import Literal

from app.cells.routing import FORMATS, Exceptions
from bench.installation import free_port

Program = Literal["nginx", "haproxy"]
PROGRAMS: tuple[Program, ...] = ("nginx", "haproxy")
SHIPPED: Mapping[Program, str] = {"nginx": "deploy/nginx/lariba.conf", "haproxy": "deploy/haproxy/lariba.cfg"}
_READY_SECONDS = 30.0
# What the distributions' own files say around ours. In one process, and its logs where a test can read them.
_AROUND_NGINX = """
daemon off;
worker_processes 1;
user {user};
pid {folder}/pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
    include {folder}/lariba.conf;
}}
"""
_AROUND_HAPROXY = """
global
    log stdout format raw local0
    nbthread 1
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    program: Program
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def logged(self) -> str:
        """All that it has written, also what its whole program writes."""
        return "".join(file.read_text() for file in sorted(self.folder.glob("*.log")))


def missing(program: Program) -> str | None:
    """What to say of it if it is not installed."""
    return None if _path_of(program) else f"{program} is not installed: apt-get install {program}"


@contextmanager
def proxy(
    program: Program,
    checkout: Path,
    folder: Path,
    servers: Mapping[str, Sequence[int]],
    exceptions: Exceptions | None = None,
) -> Iterator[Proxy]:
    """In front of the cells eu1 and us1, each with one or two servers by their ports; eu1 gets what is of none."""
    folder.mkdir()
    port = free_port()
    names = list(servers)
    (folder / "cells.map").write_text("\n".join([*FORMATS[program](names, exceptions or {}), ""]))
    (folder / SHIPPED[program].rpartition("/")[2]).write_text(_filled(program, checkout, folder, port, servers))
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(_command(program, folder), stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    running = Proxy(program, port, folder, process)
    try:
        until = time.monotonic() + _READY_SECONDS
        while not _listens(running):
            if time.monotonic() > until:
                raise TimeoutError(running.logged())
            time.sleep(0.02)
        yield running
    finally:
        process.terminate()
        process.wait()


def _filled(program: Program, checkout: Path, folder: Path, port: int, servers: Mapping[str, Sequence[int]]) -> str:
    lines = (checkout / SHIPPED[program]).read_text()
    for number, of_cell in enumerate(servers.values(), start=1):
        for place in (1, 2):
            address = f"10.0.{number}.1{place}:8000"
            assert address in lines
            if place <= len(of_cell):
                lines = lines.replace(address, f"127.0.0.1:{of_cell[place - 1]}")
            else:
                lines = re.sub(rf".*{re.escape(address)}.*\n", "", lines)
    own = {
        "/etc/nginx/lariba-cells.map": f"{folder}/cells.map",
        "/etc/haproxy/lariba-cells.map": f"{folder}/cells.map",
        "/var/log/nginx/": f"{folder}/",
        "listen 80;": f"listen 127.0.0.1:{port};",
        "bind :80\n": f"bind 127.0.0.1:{port}\n",
    }
    for shipped, ours in own.items():
        lines = lines.replace(shipped, ours)
    return lines


def _command(program: Program, folder: Path) -> list[str]:
    path = str(_path_of(program))
    around = folder / "around.conf"
    if program == "nginx":
        around.write_text(_AROUND_NGINX.format(folder=folder, user=getuser()))
        return [path, "-c", str(around), "-e", f"{folder}/error.log"]
    around.write_text(_AROUND_HAPROXY)
    return [path, "-db", "-f", str(around), "-f", f"{folder}/lariba.cfg"]


def _path_of(program: Program) -> str | None:
    # Debian puts both where a user's PATH may not lead.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _listens(running: Proxy) -> bool:
    if running.process.poll() is not None:
        raise ChildProcessError(running.logged())
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", running.port)) == 0
