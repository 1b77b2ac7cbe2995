"""Our own id of an event says when it was received, and which event it is."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events.query.fields import SEVERITIES
from app.events.query.identity import read_shown_id, shown_id
from app.ingest import envelope

_moments = st.datetimes(timezones=st.just(UTC))


@given(received_at=_moments, event_uid=st.uuids())
def test_an_id_is_read_back(received_at: datetime, event_uid: UUID) -> None:
    text = shown_id(received_at, event_uid)

    assert len(text) == len("evu_") + 33
    assert read_shown_id(text) == (received_at, event_uid)


@given(one=_moments, other=_moments, event_uid=st.uuids())
def test_ids_sort_as_their_times(one: datetime, other: datetime, event_uid: UUID) -> None:
    assert (shown_id(one, event_uid) < shown_id(other, event_uid)) is (one < other)


@given(text=st.from_regex(r"evu_[0-9A-Za-z]{33}", fullmatch=True))
def test_any_text_of_that_form_is_one_event_or_none(text: str) -> None:
    read = read_shown_id(text)

    assert read is None or shown_id(*read) == text


@pytest.mark.parametrize(
    "text", ["", "evu_", "evt_" + "0" * 33, "evu_" + "0" * 32, "evu_" + "z" * 33, "evu_" + "0" * 33 + "\n"]
)
def test_another_text_is_none(text: str) -> None:
    assert read_shown_id(text) is None


def test_times_are_exact_to_the_microsecond() -> None:
    moment = datetime(2026, 6, 1, 10, 0, 0, 123_456, tzinfo=UTC)

    assert shown_id(moment, UUID(int=0)) != shown_id(moment + timedelta(microseconds=1), UUID(int=0))


def test_severities_are_those_that_ingest_takes_in_their_order() -> None:
    assert SEVERITIES == envelope.SEVERITIES
