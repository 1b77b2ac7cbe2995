"""What each part of a query means, as docs/reading.md says it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from app.events.query.evaluation import matches
from app.events.query.identity import shown_id
from app.events.query.parsing import parse
from app.events.query.words import read_payload
from tests.events.query.meanings import COMPARED, LISTS, WORDS
from tests.events.query.strategies import Stored, events, true_of
from tests.support.examples import examples

_NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class _Event:
    id: str = shown_id(_NOON, UUID(int=7))
    event_id: str = "order-7"
    event_type: str = "payment.card.failed"
    source_id: str = "src_1"
    environment: str = "production"
    environment_id: str = "env_1"
    key_id: str = "key_1"
    severity: str = "error"
    timestamp: datetime = _NOON
    payload: dict[str, Any] = field(default_factory=dict)


def _is_found(query: str, payload: str = "{}") -> bool:
    return matches(parse(query), _Event(payload=read_payload(payload)))


@pytest.mark.parametrize(
    "query",
    [
        *(
            "",
            "type:payment.card.failed",
            "type:payment.*",
            "type:payment.card.*",
            "type:pay*",
            "type:[login, payment.*]",
        ),
        *("severity:error", "severity>=error", "severity>info", "severity<critical", "severity:warning..critical"),
        *("source:src_1", "source:[src_2, src_1]", "key:key_1", "env:production", "-env:staging"),
        *("environment:env_1", "type:[login, payment.*]"),
        *("id:order-7", "id:order*", f"id:{shown_id(_NOON, UUID(int=7))}", "NOT id:order-8"),
        *("timestamp:2026-06-01T12:00:00Z", "timestamp>=2026-06-01T14:00:00+02:00", "timestamp<2026-06-01T12:00:01Z"),
        *("timestamp:2026-06-01T12:00:00Z..2026-06-01T12:00:00Z", "severity:info OR severity:error"),
        "severity:error (type:login OR type:payment.*) -(env:staging OR source:src_2)",
    ],
)
def test_a_field_of_the_event_is_found(query: str) -> None:
    assert _is_found(query)


@pytest.mark.parametrize(
    "query",
    [
        *("type:payment", "type:payment.card", "type:payment.card.failed.*", "type:login", "-type:payment.*"),
        *(
            "severity>error",
            "severity<error",
            "severity:debug..warning",
            "severity<debug",
            "source:src_2",
            "env:Production",
        ),
        *(
            "id:evu_1",
            "id:evu_*",
            "timestamp>2026-06-01T12:00:00Z",
            "severity:error AND type:login",
            "-(env:production)",
        ),
    ],
)
def test_what_is_not_asked_for_is_not_found(query: str) -> None:
    assert not _is_found(query)


@pytest.mark.parametrize(("query", "payload", "is_found"), COMPARED)
def test_a_member_of_the_payload_is_compared_by_kind_and_exactly(query: str, payload: str, *, is_found: bool) -> None:
    assert _is_found(query, payload) is is_found


@pytest.mark.parametrize(("query", "payload", "is_found"), LISTS)
def test_a_list_is_any_of_its_elements_and_a_missing_member_nothing(
    query: str, payload: str, *, is_found: bool
) -> None:
    assert _is_found(query, payload) is is_found


@pytest.mark.parametrize(("query", "payload", "is_found"), WORDS)
def test_a_word_is_found_whole_and_a_phrase_in_one_text(query: str, payload: str, *, is_found: bool) -> None:
    assert _is_found(query, payload) is is_found


@hypothesis_settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(stored=events)
def test_an_event_is_found_by_whatever_its_payload_holds(stored: Stored) -> None:
    for leaf in true_of(stored.payload):
        assert matches(leaf, stored)
