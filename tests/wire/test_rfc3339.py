"""moments: what names a time, which one, and what is said of what names none."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire.rfc3339 import EXAMPLE, read_common_moment, read_moment
from tests.support.examples import examples

_any_machine = settings(max_examples=examples(500), deadline=None, derandomize=True)
_offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=_offsets)  # noqa: DTZ001 - as asked for
_characters = st.text("0123456789-+:.,TtZzW ", max_size=30)


@_any_machine
@given(moment=_moments, separator=st.sampled_from("Tt "))
def test_every_time_of_rfc_3339_is_taken(moment: datetime, separator: str) -> None:
    assert read_moment(moment.isoformat(separator), needs_offset=True) == moment


@_any_machine
@given(text=_characters | st.text(max_size=12) | _moments.map(datetime.isoformat).map(lambda text: text[1:]))
def test_whatever_is_sent_is_a_moment_in_utc_or_a_reason_and_an_example(text: str) -> None:
    try:
        assert read_moment(text).utcoffset() == timedelta()
    except ValueError as error:
        assert EXAMPLE in str(error)  # noqa: PT017 - most of them are none
        assert read_common_moment(text) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-06-01", "2026-06-01T00:00:00"),
        ("20260601T100000+0200", "2026-06-01T08:00:00"),
        ("2026-06-01T10", "2026-06-01T10:00:00"),
        ("2026-06-01t10:00z", "2026-06-01T10:00:00"),
        ("2026-06-01 10:00:00-00:00", "2026-06-01T10:00:00"),
        ("2026-06-01T10:00:00.1Z", "2026-06-01T10:00:00.100000"),
        ("2026-06-01T10:00:00,123456Z", "2026-06-01T10:00:00.123456"),
        ("2026-06-01T10:00:00.1234569Z", "2026-06-01T10:00:00.123456"),
        ("2026-06-01T10:00:00.1234567890Z", "2026-06-01T10:00:00.123456"),
        (f"2026-06-01T10:00:00.{'9' * 5_000}+00:00", "2026-06-01T10:00:00.999999"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00"),
        ("2016-12-31T23:59:60.999Z", "2017-01-01T00:00:00"),
        ("20150630T235960", "2015-07-01T00:00:00"),
        ("1990-12-31T15:59:60-08:00", "1991-01-01T00:00:00"),
        ("2017-01-01T05:29:60+05:30", "2017-01-01T00:00:00"),
    ],
)
def test_what_names_a_moment_is_that_moment(text: str, moment: str) -> None:
    assert read_moment(text) == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1780000000", "since 1970"),
        ("1780000000123", "since 1970"),
        ("1780000000.5", "since 1970"),
        ("2026-W23-1", "Weeks"),
        ("2026W231T100000Z", "Weeks"),
        ("2026-152", "Days of the year"),
        ("2026152T10:00:00Z", "Days of the year"),
        ("0000-01-01T00:00:00Z", "no year 0000"),
        ("2026-13-01T10:00:00Z", "no month 13"),
        ("2026-02-30T10:00:00Z", "no day 30 in February 2026, which has 28 days"),
        ("20230229", "no day 29 in February 2023"),
        ("2026-06-01T24:00:00Z", "no hour 24: the day's end is 00:00 of the next day"),
        ("2026-06-01T25:00:00Z", "no hour 25"),
        ("2026-06-01T10:60:00Z", "no minute 60"),
        ("2026-06-01T10:00:61Z", "no second 61"),
        ("2026-06-01T10:00:60Z", "leap second"),
        ("2026-06-01T23:59:60Z", "leap second"),
        ("2026-06-30T23:59:60+02:00", "leap second"),
        ("2026-06-01T10:00:00+24:00", "no offset +24:00"),
        ("2026-06-01T10:00:00-0160", "no offset -0160"),
        ("0001-01-01T00:00:00+14:00", "years 0001 and 9999"),
        ("9999-12-31T23:59:59-00:01", "years 0001 and 9999"),
        ("2026-06-01T10:00:00 02:00", "%2B"),
        ("2026-06-01T10:00:00+02:00[Europe/Berlin]", "time zone"),
        ("yesterday", "no ISO 8601 time"),
        ("", "no ISO 8601 time"),
        ("2026-06-01T10:00:00Z\n", "no ISO 8601 time"),
        ("\u0662026-06-01T10:00:00Z", "no ISO 8601 time"),
    ],
)
def test_of_what_names_none_it_is_said_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("+", r"\+")) as refusal:
        read_moment(text)
    assert EXAMPLE in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["2026-06-01", "20260601", "2026-06-01T10:00:00", "20260601T1000", "2016-12-31T23:59:60"]
)
def test_a_time_without_an_offset_is_utc_or_refused_where_one_is_needed(text: str) -> None:
    read_moment(text)
    with pytest.raises(ValueError, match="offset"):
        read_moment(text, needs_offset=True)
