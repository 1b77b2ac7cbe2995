"""The kinds of queries that are measured, each as requests over projects of all sizes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from flask.testing import FlaskClient

_PROJECTS: Final = (0, 1, 3, 8, 20, 49)
"""By size: the largest, and down to the smallest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What queries ask beforehand, so that they look for values that exist."""

    client: FlaskClient
    headers: dict[str, str]

    def newest(self, project: int, **query: str) -> list[dict[str, Any]]:
        answer = self.client.get(_events(project, **query), headers=self.headers)
        assert answer.json is not None, answer.text
        found: list[dict[str, Any]] = answer.json["data"]
        return found


def _events(project: int, **query: str) -> str:
    return f"/v1/events?{urlencode({'project_id': f'prj_bench{project}', 'from': '-29d'} | query)}"


def _by_our_id(asked: Asked) -> Iterator[str]:
    for project in _PROJECTS:
        for event in asked.newest(project, limit="10"):
            yield f"/v1/events/{event['id']}"


def _by_event_id(asked: Asked) -> Iterator[str]:
    for project in _PROJECTS:
        for event in asked.newest(project, limit="10"):
            yield f"/v1/sources/{event['source_id']}/events/{event['event_id']}"


def _each(*queries: str, since: str = "-29d") -> Callable[[Asked], Iterator[str]]:
    def requests(_asked: Asked) -> Iterator[str]:
        for project in _PROJECTS:
            for q in queries:
                yield _events(project, q=q.format(project=project), **{"from": since})

    return requests


def _rare_values(member: str, template: str, since: str) -> Callable[[Asked], Iterator[str]]:
    """Values of events from some days ago, or of the morning."""

    def requests(asked: Asked) -> Iterator[str]:
        for project in _PROJECTS:
            until = {"to": "-6d", "from": "-7d"} if since == "-29d" else {"to": "-1h", "from": since}
            for event in asked.newest(project, limit="5", **until):
                value = event["payload"][member]
                if member == "message":
                    value = value.rsplit('"', 2)[1]
                yield _events(project, q=template.format(value=value), **{"from": since})

    return requests


def _histograms(_asked: Asked) -> Iterator[str]:
    """Of the largest project, today among the days."""
    query = {"project_id": "prj_bench0", "from": "-7d", "interval": "1h", "group_by": "type"}
    for _ in range(10):
        yield f"/v1/events/counts?{urlencode(query)}"


_SCALARS: Final = (
    "",
    "type:payment.failed",
    "type:payment.*",
    "type:payment.disputed",
    "severity>=error",
    "severity:critical",
    "env:staging",
    "source:src_bench{project}_2",
    "key:key_bench{project}_3",
    "type:payment.* severity>=error env:production",
)
_NO_SCALARS: Final = ("type:never.seen", "type:never.*", "type:order.created env:staging id:evt_none")
QUERIES: Final[dict[str, Callable[[Asked], Iterator[str]]]] = {
    "by our id": _by_our_id,
    "by event id": _by_event_id,
    "newest 50 by a scalar, 29 days": _each(*_SCALARS),
    "newest 50 by a scalar, nothing, 29 days": _each(*_NO_SCALARS),
    "payload equality, rare, 29 days": _rare_values("order_id", 'payload.order_id:"{value}"', "-29d"),
    "payload equality, nothing, 29 days": _each("payload.order_id:ord_nothing", "payload.attempt:77"),
    "payload equality, dense, 29 days": _each("payload.reason:card_declined", "payload.currency:EUR"),
    "payload comparison, 29 days": _each("payload.amount>990", "payload.amount>999.9"),
    "a rare word, 29 days": _rare_values("message", "{value}", "-29d"),
    "a word that is nowhere, 29 days": _each("nowhere", '"processor refused"'),
    "hourly histogram by type, 7 days": _histograms,
    "today: newest 50 by a scalar": _each(*_SCALARS, since="-8h"),
    "today: payload equality, rare": _rare_values("order_id", 'payload.order_id:"{value}"', "-8h"),
    "today: payload equality, nothing": _each("payload.order_id:ord_nothing", since="-8h"),
    "today: a rare word": _rare_values("message", "{value}", "-8h"),
    "today: a word that is nowhere": _each("nowhere", since="-8h"),
}
