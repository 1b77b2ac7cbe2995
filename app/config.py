"""Every setting of the product as one frozen value, read once at the edge; fails by the variable's name.

A setting's environment variable is `LARIBA_` and its field name in capitals; docs/settings.md has the same table
(a test compares them). With `_FILE` behind it, the variable names a file that holds the value: what systemd and
containers hand secrets over in. Where a machine serves several cells, `LARIBA_EU1_DATABASE_URL` is that of the cell eu1
alone. No other module reads the environment.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from app.cells.names import read_name
from app.wire.client_address import read_network

PREFIX = "LARIBA_"
_FILE = "_FILE"
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
# 32 characters of anything a generator prints carry more than 128 bits; shorter ones are passwords.
_SECRET_CHARACTERS_MIN = 32
# A standby that is a second behind by what is known may be up to date: it is looked at once a second.
_READ_LAG_SECONDS_MIN = 2


class SettingsError(Exception):
    """A setting is missing or wrong; the message is one line and starts with the variable's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What an operator can choose. Units stand in the names."""

    database_url: str = field(repr=False)
    """The app's role. `postgresql://user@host/database`; PostgreSQL 15 or newer."""
    admin_database_url: str = field(repr=False)
    """The role that owns the tables: migrations, backup, audits, and the worker's maintenance of partitions.

    Falls back to `database_url`.
    """
    broker_url: str = field(repr=False)
    """Celery's broker: Redis 6.2 or newer, or RabbitMQ."""
    secret_key: tuple[str, ...] = field(repr=False)
    """Signs the checksum of keys and tokens and keys their digests. The first signs, all verify: see operations.md."""

    read_database_url: str = field(default="", repr=False)
    """A standby of `database_url`, on which events are searched, counted and exported; empty: none."""
    cells: tuple[str, ...] = ()
    """The one cell that these settings are for, by its name; none: the only one of an installation, without a name."""
    redis_url: str = field(default="", repr=False)
    """Redis 6.2 or newer, shared by all processes: how fast each key sends. May be absent or away."""

    allow_rls_bypass: str = "off"
    """`on` starts with a role that row level security does not bind: the code alone keeps workspaces apart then."""
    log_level: str = "INFO"
    log_accepted_one_in: int | None = 1
    """Of how many accepted or replayed requests of a key one leaves a line; slow ones always do. None: none."""
    fast_path: str = "on"
    """`off` sends every event through Flask: slower, and the same in all else."""
    database_pool_size: int = 16
    """Connections per process, for all but single events: those have the committer's own. Management has a third."""
    reading_pool_size: int = 4
    """Connections per process for reading events; one workspace has all but one of them at the most."""
    read_lag_seconds_max: float = 5.0
    """How far the standby may lag; beyond, the primary answers. It is looked at once a second."""
    granian_adapter: str = "on"
    """`off` ends the start of `wsgi:rsgi`, so that only `wsgi:app` is served: without app/granian/adapter.py."""
    server_threads: int = 16
    """How many threads a process of the web server has for requests; all bounds on bodies follow from it.

    The adapter for granian, whose threads read no bodies, has eight times as many.
    """
    body_seconds: float = 30.0
    """How long a body may take to arrive, under servers that allow a time-out for it."""
    storage_deadline_seconds: float = 1.8
    """How long one ingest may wait for PostgreSQL in all; under the two seconds that the contract promises."""
    idempotency_wait_seconds: float = 1.0
    """How long a request waits for another one with the same Idempotency-Key before it answers 409."""
    idempotency_ttl_seconds: int = 86_400
    """Life of an idempotency record: 24 hours, the window that Stripe and most others publish."""
    queue_events_max: int = 2048
    """How many single events may wait for their commit in a process, half of them of one workspace; more get a 503."""
    batch_bytes_max: int = 5_242_880
    """Largest body of a batch: 5 MiB, compressed and expanded."""
    batches_at_once_max: int = 4
    """Batches that a process works on at a time, all but one of one workspace; the next wait a second, then 503."""
    request_bytes_max: int = 524_288
    """Largest request body: a payload of 256 KiB and as much again for envelope and white space."""
    argon2_runs_max: int = 2
    """Argon2 runs at a time in a process, one less for issuing: 19 MiB and about 20 ms of a core each."""
    partitions_ahead_days: int = 7
    """How many days of event partitions are made ahead."""
    retention_days: int | None = 365
    """How long events are kept, in whole days (UTC); workspaces may keep theirs shorter. None: for ever."""
    event_id_days: int = 90
    """How long at least an event_id protects from a double: long after any producer has given up repeating."""
    export_dir: str = ""
    """Where the worker writes a day of events before it drops it; empty: it is dropped without."""
    download_dir: str = ""
    """Where the worker writes export files and web servers read them; empty: there are none."""
    download_bytes_max: int = 10_737_418_240
    """What the export files of one workspace may take together: 10 GiB."""
    metrics_dir: str = ""
    """Where all processes of a machine keep what they count, so that any of them can report all."""
    metrics_token: str = field(default="", repr=False)
    """What `/metrics` asks for as a bearer token; empty: it is open."""
    trusted_proxies: tuple[str, ...] = ()
    """Whose X-Forwarded-For is believed, as networks: the addresses of one's own proxies and no others."""

    source_key_events_per_second: int | None = 20_000
    """What one key may send; more than two web processes carry on two cores, so only a runaway program reaches it."""
    workspace_events_per_second: int | None = 100_000
    """What all keys of a workspace may send together."""
    management_token_requests_per_second: int | None = 50
    """What one management token may ask for; a dashboard asks for some, a loop that has gone wrong for thousands."""
    management_workspace_requests_per_second: int | None = 200
    """What all management tokens of a workspace may ask for together."""

    @property
    def cell(self) -> str:
        """The name of the one cell that these settings are for; empty if it has none."""
        return self.cells[0] if self.cells else ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read all settings from `environ`; raises SettingsError naming the first variable that is wrong."""
        first, *others = cls.of_cells(environ)
        if others:
            raise SettingsError(f"{variable_of('cells')} names several cells: name the one that this is for")
        return first

    @classmethod
    def of_cells(cls, environ: Mapping[str, str]) -> tuple[Self, ...]:
        """The settings of each cell that is named, or of the only one; raises as from_environment() does."""
        variable = variable_of("cells")
        names = _texts(variable, raw) if (raw := _given(environ, variable)) else ()
        for name in names:
            try:
                read_name(name)
            except ValueError as error:
                raise SettingsError(f"{variable}: {error}") from None
        if len(set(names)) < len(names):
            raise SettingsError(f"{variable} names a cell twice")
        return tuple(cls._of_cell(environ, name) for name in names) or (cls._of_cell(environ, ""),)

    @classmethod
    def _of_cell(cls, environ: Mapping[str, str], cell: str) -> Self:
        own = [setting for setting in dataclasses.fields(cls) if setting.name != "cells"]
        values = {
            setting.name: _READERS[setting.type](variable, raw)
            for named in ("", cell)
            for setting in own
            if (raw := _given(environ, variable := variable_of(setting.name, named)))
        }
        values.setdefault("admin_database_url", values.get("database_url"))
        for setting in dataclasses.fields(cls):
            if setting.default is dataclasses.MISSING and not values.get(setting.name):
                raise SettingsError(f"{variable_of(setting.name)} is missing; docs/settings.md says what it holds")
        settings = cls(**values, cells=(cell,) if cell else ())
        settings._check()
        return settings

    def _check(self) -> None:
        for name in ("database_url", "admin_database_url", "read_database_url"):
            url = getattr(self, name)
            if url and urlsplit(url).scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
                raise SettingsError(f"{variable_of(name)} must start with postgresql://")
        if self.redis_url and urlsplit(self.redis_url).scheme not in ("redis", "rediss", "unix"):
            raise SettingsError(f"{variable_of('redis_url')} must start with redis://, rediss:// or unix://")
        if any(len(secret) < _SECRET_CHARACTERS_MIN for secret in self.secret_key):
            raise SettingsError(
                f"{variable_of('secret_key')}: each secret needs {_SECRET_CHARACTERS_MIN} characters or more"
            )
        self._check_proxies()
        if self.read_lag_seconds_max < _READ_LAG_SECONDS_MIN:
            raise SettingsError(f"{variable_of('read_lag_seconds_max')} must be {_READ_LAG_SECONDS_MIN} or more")
        if self.event_id_days * 86_400 < self.idempotency_ttl_seconds:
            raise SettingsError(
                f"{variable_of('event_id_days')} must be no shorter than {variable_of('idempotency_ttl_seconds')}"
            )
        for name in ("fast_path", "allow_rls_bypass", "granian_adapter"):
            if getattr(self, name) not in ("on", "off"):
                raise SettingsError(f"{variable_of(name)} must be on or off")
        if self.log_level not in _LOG_LEVELS:
            raise SettingsError(f"{variable_of('log_level')} must be one of {', '.join(_LOG_LEVELS)}")

    def _check_proxies(self) -> None:
        for number, text in enumerate(self.trusted_proxies, start=1):
            try:
                read_network(text)
            except ValueError as error:
                raise SettingsError(f"{variable_of('trusted_proxies')}, network {number}: {error}") from None


def variable_of(setting_name: str, cell: str = "") -> str:
    """`database_url` → `LARIBA_DATABASE_URL`, of a cell alone `LARIBA_EU1_DATABASE_URL`."""
    return PREFIX + (f"{cell}_{setting_name}" if cell else setting_name).upper()


def _given(environ: Mapping[str, str], variable: str) -> str:
    """What the variable says, or the one line in the file that its sister with `_FILE` names; empty if neither is set.

    No error quotes what it could not read, nor the path: either may be a secret that was put into the wrong variable.
    """
    value, path = environ.get(variable, "").strip(), environ.get(variable + _FILE, "").strip()
    if not path:
        return value
    if value:
        raise SettingsError(f"{variable} and {variable}{_FILE} are both set: keep one of them")
    try:
        lines = Path(path).read_text(encoding="utf-8").strip().splitlines()
    except OSError as error:
        raise SettingsError(f"{variable}{_FILE} names a file that cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}{_FILE} names a file that is not UTF-8 text") from None
    if len(lines) != 1:
        # Two secrets, one to a line, would otherwise pass for a single one.
        raise SettingsError(f"{variable}{_FILE} names a file that must hold one line, not {len(lines)}")
    return lines[0]


def _text(_variable: str, raw: str) -> str:
    return raw


def _texts(variable: str, raw: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in raw.split(","))
    if not all(parts):
        raise SettingsError(f"{variable} holds an empty part between its commas")
    return parts


def _positive(kind: Callable[[str], Any], word: str) -> Callable[[str, str], Any]:
    def read(variable: str, raw: str) -> Any:
        try:
            number = kind(raw)
        except ValueError:
            raise SettingsError(f"{variable} must be {word}") from None
        if not 0 < number < float("inf"):
            raise SettingsError(f"{variable} must be greater than zero")
        return number

    return read


def _or_off(read: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    return lambda variable, raw: None if raw.lower() == "off" else read(variable, raw)


_READERS: dict[Any, Callable[[str, str], Any]] = {
    str: _text,
    tuple[str, ...]: _texts,
    int: _positive(int, "a whole number"),
    float: _positive(float, "a number"),
    int | None: _or_off(_positive(int, "a whole number, or off")),
}
