"""Producers that send all the time, through several nodes of a cluster, and what became of their events."""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from flask import Flask
from werkzeug.test import TestResponse

from app.credentials.verification import Credentials
from tests.support.citus import CitusCell, Node
from tests.support.patient import patient_app
from tests.support.people import Tenant
from tests.support.sending import PATH, event_for, send

BATCH_PATH: Final = f"{PATH}/batch"
_IN_BATCH: Final = 5
_NUMBERS = itertools.count()


@contextmanager
def apps_on(cell: CitusCell, nodes: Sequence[Node], credentials: Credentials) -> Iterator[list[Flask]]:
    """An application for each of these nodes."""
    with ExitStack() as stack:
        yield [stack.enter_context(patient_app(cell.through(node), credentials)) for node in nodes]


class Load:
    """The events of one tenant; half of the producers send batches."""

    def __init__(self, apps: Sequence[Flask], tenant: Tenant) -> None:
        self._apps = apps
        self._tenant = tenant
        self._is_over = threading.Event()
        self.stored: dict[str, float] = {}
        """The ids that were answered as stored, with when they were sent (time.monotonic() seconds)."""
        self.not_stored: set[str] = set()
        """Those of which was said that nothing was stored, or that they were refused."""
        self.statuses: Counter[int] = Counter()

    @contextmanager
    def running(self) -> Iterator["Load"]:
        threads = [
            threading.Thread(target=work, args=(app,)) for app in self._apps for work in (self._singles, self._batches)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()

    def wait_for(self, events: int) -> None:
        """Until so many more have been stored."""
        until = len(self.stored) + events
        deadline = time.monotonic() + 60
        while len(self.stored) < until:
            assert time.monotonic() < deadline, self.statuses
            time.sleep(0.05)

    def _singles(self, app: Flask) -> None:
        client = app.test_client()
        while not self._is_over.is_set():
            name = f"load-{next(_NUMBERS)}"
            sent_at = time.monotonic()
            key = name if next(_NUMBERS) % 2 else None
            answer = send(client, self._tenant, event_for(self._tenant, event_id=name), idempotency_key=key)
            self._note([name], answer, sent_at, is_stored=answer.status_code == 201)

    def _batches(self, app: Flask) -> None:
        client = app.test_client()
        while not self._is_over.is_set():
            names = [f"load-{next(_NUMBERS)}" for _ in range(_IN_BATCH)]
            sent_at = time.monotonic()
            events = [event_for(self._tenant, event_id=name) for name in names]
            headers = {"X-API-Key": self._tenant.key}
            if next(_NUMBERS) % 2:
                headers["Idempotency-Key"] = names[0]
            answer = client.post(
                BATCH_PATH, data=json.dumps({"events": events}), headers=headers, content_type="application/json"
            )
            self._note(names, answer, sent_at, is_stored=answer.status_code == 200)

    def _note(self, names: list[str], answer: TestResponse, sent_at: float, *, is_stored: bool) -> None:
        self.statuses[answer.status_code] += 1
        if is_stored:
            self.stored.update(dict.fromkeys(names, sent_at))
            return
        if answer.status_code != 503 or answer.get_json()["error"]["message"].startswith("Nothing was stored"):
            self.not_stored.update(names)


def require_kept(cell: CitusCell, tenant: Tenant, load: Load) -> None:
    """Every event that was answered is stored once, and none of which the opposite was said."""
    statement = f'SELECT event_id FROM "{cell.schema}".events WHERE project_id = %s'
    with cell.coordinator() as connection:
        found = Counter(str(row[0]) for row in connection.execute(statement, [tenant.project_row]).fetchall())
    assert [name for name, times in found.items() if times > 1] == []
    assert set(load.stored) - set(found) == set()
    assert load.not_stored & set(found) == set()
