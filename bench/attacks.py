"""What a second tenant, or an operator's accident in its data, can do to a product: one function an attack.

Each takes an Attack, goes on until `attack.is_over`, and returns a note for the table (what the attacker itself met).
"""

import gzip
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.client import HTTPException

import psycopg

from bench.victim import Tenant

_HELD = 200
_STALLED = 300
_DEFAULT_PARTITION_ROWS = 3_000_000
# As app/database/advisory_locks.py numbers a workspace's barrier.
_BARRIER_SPACE = 0x6C72_0000_0000_0000


@dataclass(slots=True)
class Attack:
    """An attack under way: who attacks, and the operator's way to the database for what no caller can do alone."""

    tenant: Tenant
    admin_database_url: str
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        return self.over.is_set()

    def in_threads(self, count: int, step: Callable[[], str]) -> Counter[str]:
        """Repeat `step` in `count` threads until the attack is over; what it returned, counted."""
        outcomes: Counter[str] = Counter()
        mutex = threading.Lock()

        def loop() -> None:
            while not self.is_over:
                try:
                    outcome = step()
                except (OSError, HTTPException) as error:
                    outcome = type(error).__name__
                    # A server that is down is asked again, but not a million times.
                    self.over.wait(0.05)
                with mutex:
                    outcomes[outcome] += 1

        threads = [threading.Thread(target=loop, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    def send_single(self, **members: object) -> str:
        headers = {"Idempotency-Key": str(members.pop("idempotency_key"))} if "idempotency_key" in members else {}
        return str(self.tenant.send("/v1/events/ingest", json.dumps(self.tenant.event(**members)).encode(), headers))


def nothing(attack: Attack) -> str:
    """The measure of all others: the victim alone."""
    attack.over.wait()
    return ""


def deep_payloads(attack: Attack) -> str:
    """Single events that nest 600 and 9,000 levels, from 8 connections."""
    bodies = []
    for levels in (600, 9_000):
        event = json.dumps(attack.tenant.event(payload=0))
        bodies.append(event.replace('"payload": 0', f'"payload": {{"v": {"[" * levels}{"]" * levels}}}').encode())

    def step() -> str:
        return " ".join(str(attack.tenant.send("/v1/events/ingest", body)) for body in bodies)

    return _counts(attack.in_threads(8, step))


def held_workspace(attack: Attack) -> str:
    """200 events at once of a workspace whose barrier another session holds."""
    with psycopg.connect(attack.admin_database_url) as connection:
        query = "SELECT workspace_id FROM sources WHERE public_id = %s"
        ((workspace_id,),) = connection.execute(query, [attack.tenant.source_id]).fetchall()
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_BARRIER_SPACE | workspace_id])
        return _counts(attack.in_threads(_HELD, attack.send_single))


def held_keys(attack: Attack) -> str:
    """200 events at once whose Idempotency-Keys an open transaction has claimed."""
    claim = """
        INSERT INTO idempotency_records (project_id, source_id, workspace_id, idempotency_key, fingerprint, event_uid,
            response_status, response_body, created_at, expires_at)
        SELECT project_id, id, workspace_id, 'held-' || n, '', gen_random_uuid(), 201, '', now(),
            now() + interval '1 day'
        FROM sources, generate_series(0, %s) AS n WHERE public_id = %s
    """
    numbers = iter(range(10**9))
    with psycopg.connect(attack.admin_database_url) as connection:
        connection.execute(claim, [_HELD, attack.tenant.source_id])
        outcomes = attack.in_threads(_HELD, lambda: attack.send_single(idempotency_key=f"held-{next(numbers) % _HELD}"))
        connection.rollback()
    return _counts(outcomes)


def keys_come_and_go(attack: Attack) -> str:
    """Loops of issuing a key and of disabling and enabling the source, from 100 connections, and events beside them."""
    source = f"/v1/sources/{attack.tenant.source_id}"

    def manage() -> str:
        statuses = [attack.tenant.manage("POST", f"{source}/keys", {"label": "loop"})[0]]
        statuses += [attack.tenant.manage("POST", f"{source}/{verb}")[0] for verb in ("disable", "enable")]
        return " ".join(map(str, statuses))

    with ExitStack() as stack:
        sending = threading.Thread(target=attack.in_threads, args=(100, attack.send_single))
        sending.start()
        stack.callback(sending.join)
        return _counts(attack.in_threads(100, manage))


def revoke_under_issuing(attack: Attack) -> str:
    """Six loops issue keys with a stolen token, which its owner revokes after a second."""
    status, stolen = attack.tenant.manage("POST", "/v1/tokens", {"label": "stolen", "role": "admin"})
    if status != 201:
        return f"no token: {status}"
    thief = Tenant(attack.tenant.port, attack.tenant.source_id, "", str(stolen["token"]))
    issued_after = 0
    revoked_at = float("inf")

    def issue() -> str:
        nonlocal issued_after
        began = time.monotonic()
        status, _ = thief.manage("POST", f"/v1/sources/{thief.source_id}/keys", {"label": "loop"})
        issued_after += status == 201 and began > revoked_at
        return str(status)

    loops = threading.Thread(target=attack.in_threads, args=(6, issue))
    loops.start()
    time.sleep(1)
    began = time.monotonic()
    status, _ = attack.tenant.manage("POST", f"/v1/tokens/{stolen['id']}/revoke")
    took = time.monotonic() - began
    revoked_at = time.monotonic()
    loops.join()
    return f"revoke: {status} after {took:.1f} s, {issued_after} keys issued afterwards"


def many_key_issues(attack: Attack) -> str:
    """64 key issues at once, again and again: an argon2 run each."""
    path = f"/v1/sources/{attack.tenant.source_id}/keys"
    return _counts(attack.in_threads(64, lambda: str(attack.tenant.manage("POST", path, {"label": "loop"})[0])))


def numbers_in_gzip(attack: Attack) -> str:
    """A batch of some KB that expands to 1.2 million numbers, from 4 connections."""
    payload = {"v": [1] * 64_000}
    events = [attack.tenant.event(payload=payload) for _ in range(19)]
    # json.dumps knows no 1e1; and three bytes a number leave each payload below its limit of 256 KiB.
    text = json.dumps({"events": events}, separators=(",", ":")).replace("[1,", "[1e1,").replace(",1", ",1e1")
    body = gzip.compress(text.encode())
    headers = {"Content-Encoding": "gzip"}
    return _counts(attack.in_threads(4, lambda: str(attack.tenant.send("/v1/events/ingest/batch", body, headers))))


def stalled_management_bodies(attack: Attack) -> str:
    """300 bodies of one management token that never come to their end."""
    header = f"POST /v1/projects HTTP/1.1\r\nAuthorization: Bearer {attack.tenant.token}\r\n"
    return _stall(attack, [header] * _STALLED)


def stalled_ingest_bodies(attack: Attack) -> str:
    """300 bodies of one source key that never come to their end, and quick events in between."""
    header = f"POST /v1/events/ingest HTTP/1.1\r\nX-API-Key: {attack.tenant.key}\r\n"
    quick = threading.Thread(target=attack.in_threads, args=(4, attack.send_single))
    quick.start()
    note = _stall(attack, [header] * _STALLED)
    quick.join()
    return note


def stalled_bodies_without_a_key(attack: Attack) -> str:
    """300 bodies of callers who have no credential at all."""
    return _stall(attack, ["POST /v1/events/ingest HTTP/1.1\r\n"] * _STALLED)


def full_default_partition(attack: Attack) -> str:
    """Three million events of three days ago in the default partition, which the worker then puts right."""
    fill = """
        INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,
            event_id, event_type, severity, occurred_at, payload)
        SELECT sources.project_id, now() - interval '3 days', gen_random_uuid(), sources.workspace_id, environment_id,
            sources.id, key.id, gen_random_uuid()::text, 'bench.stranded', 'info', now(), '{"n": 1}'
        FROM sources JOIN LATERAL (SELECT id FROM source_keys WHERE source_id = sources.id LIMIT 1) AS key ON true,
            generate_series(1, %s) WHERE sources.public_id = %s
    """
    with psycopg.connect(attack.admin_database_url, autocommit=True) as connection:
        connection.execute(fill, [_DEFAULT_PARTITION_ROWS, attack.tenant.source_id])
        connection.execute("DELETE FROM maintenance_tasks WHERE name LIKE '%stranded%' OR name LIKE '%default%'")
        left = _DEFAULT_PARTITION_ROWS
        while left and not attack.is_over:
            attack.over.wait(2)
            ((left,),) = connection.execute("SELECT count(*) FROM events_default").fetchall()
    return f"{left:,} of {_DEFAULT_PARTITION_ROWS:,} left there"


ATTACKS: dict[str, Callable[[Attack], str]] = {
    attack.__name__: attack
    for attack in (
        nothing,
        deep_payloads,
        held_workspace,
        held_keys,
        keys_come_and_go,
        revoke_under_issuing,
        many_key_issues,
        numbers_in_gzip,
        stalled_management_bodies,
        stalled_ingest_bodies,
        stalled_bodies_without_a_key,
        full_default_partition,
    )
}

# What the worker begins at its next tick, a minute later at the most, and needs its time for.
LONGER = {full_default_partition.__name__: 240.0}


def _stall(attack: Attack, headers: list[str]) -> str:
    rest = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    stalled: list[socket.socket] = []
    try:
        for header in headers:
            with suppress(OSError):
                stalled.append(socket.create_connection(("127.0.0.1", attack.tenant.port), timeout=5))
                stalled[-1].sendall((header + rest).encode())
        attack.over.wait()
        return f"{sum(map(_has_answer, stalled))} of {len(headers)} were answered"
    finally:
        for connection in stalled:
            connection.close()


def _has_answer(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(16).startswith(b"HTTP/1.1")
    except OSError:
        return False


def _counts(outcomes: Counter[str]) -> str:
    return ", ".join(f"{times} x {outcome}" for outcome, times in outcomes.most_common(4))
