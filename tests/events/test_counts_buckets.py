"""Buckets of a range: where they begin in any time zone, and how many they are."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import SchemaValidationFailed
from app.events.counts.buckets import BUCKETS_MAX, Interval, buckets_of, find_zone, usual_interval
from app.events.ranges import DAYS_MAX, TimeRange
from tests.support.examples import examples

_MINUTE = timedelta(minutes=1)
# Days on which clocks change: by an hour, by half of one, at midnight, one minute past it, by a whole day.
_CHANGES = [
    *(("Europe/Berlin", day) for day in ("2026-03-29", "2026-10-25")),
    *(("America/New_York", day) for day in ("2026-03-08", "2026-11-01")),
    *(("Australia/Lord_Howe", day) for day in ("2026-04-05", "2026-10-04")),
    *(("America/Sao_Paulo", day) for day in ("2018-02-18", "2018-11-04")),
    *(("America/St_Johns", day) for day in ("2009-03-08", "2009-11-01")),
    *(("America/Havana", day) for day in ("2026-03-08", "2026-11-01")),
    *((zone, day) for zone, day in (("Pacific/Apia", "2011-12-30"), ("Pacific/Kwajalein", "1993-08-21"))),
    *((zone, "2026-06-01") for zone in ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Chatham")),
]


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _on_the_clock(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _start_on_the_clock(shown: datetime, interval: Interval) -> datetime:
    midnight = shown.replace(hour=0, minute=0, second=0, microsecond=0)
    if interval is Interval.MONTH:
        return midnight.replace(day=1)
    if interval is Interval.WEEK:
        return midnight - timedelta(days=midnight.weekday())
    return midnight + (shown - midnight) // interval.length * interval.length


def _watched(begin: datetime, end: datetime, interval: Interval, zone: ZoneInfo) -> Iterator[datetime]:
    """The starts that somebody would note who looks at the clock every minute."""
    latest = _start_on_the_clock(_on_the_clock(begin - _MINUTE, zone), interval)
    moment = begin
    while moment < end:
        shown = _on_the_clock(moment, zone)
        start = _start_on_the_clock(shown, interval)
        if interval.length <= timedelta(hours=1):
            before = _start_on_the_clock(_on_the_clock(moment - _MINUTE, zone), interval)
            is_start = shown == start or start > before
        else:
            is_start = start > latest
        if is_start:
            yield moment
        latest = max(latest, start)
        moment += _MINUTE


class TestStarts:
    @pytest.mark.parametrize("interval", list(Interval))
    @pytest.mark.parametrize(("name", "day"), _CHANGES)
    def test_are_where_the_clocks_show_them(self, name: str, day: str, interval: Interval) -> None:
        zone = ZoneInfo(name)
        around = timedelta(hours=6) if interval is Interval.MINUTE else timedelta(hours=36)
        within = TimeRange(_utc(day) - around, _utc(day) + around)

        buckets = buckets_of(within, interval, zone)

        watched = list(_watched(within.begin, within.end, interval, zone))
        assert [start for start in buckets.starts if start >= within.begin] == watched
        assert buckets.starts[0] <= within.begin
        assert buckets.end >= within.end

    @given(
        st.sampled_from(sorted(available_timezones())),
        st.datetimes(datetime(1973, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        st.timedeltas(timedelta(microseconds=1), timedelta(days=DAYS_MAX)),
        st.sampled_from(list(Interval)),
    )
    @settings(max_examples=examples(200), deadline=None)
    def test_follow_one_another_and_cover_the_range(
        self, name: str, begin: datetime, length: timedelta, interval: Interval
    ) -> None:
        zone = ZoneInfo(name)
        within = TimeRange(begin, begin + min(length, interval.length * (BUCKETS_MAX - 10)))

        buckets = buckets_of(within, interval, zone)

        assert list(buckets.starts) == sorted(set(buckets.starts))
        assert buckets.starts[0] <= within.begin
        assert all(start > within.begin for start in buckets.starts[1:])
        assert buckets.starts[-1] < within.end <= buckets.end
        assert all(start.tzinfo is UTC for start in buckets.starts)

    def test_a_day_of_25_hours_has_25_hours_and_one_of_23_has_23(self) -> None:
        zone = ZoneInfo("Europe/Berlin")
        long_day = TimeRange(_utc("2026-10-24T22:00"), _utc("2026-10-25T23:00"))
        short_day = TimeRange(_utc("2026-03-28T23:00"), _utc("2026-03-29T22:00"))

        for day, hours in ((long_day, 25), (short_day, 23)):
            assert buckets_of(day, Interval.DAY, zone).starts == [day.begin]
            assert len(buckets_of(day, Interval.HOUR, zone).starts) == hours

    def test_a_day_that_a_zone_has_left_out_has_no_bucket(self) -> None:
        zone = ZoneInfo("Pacific/Apia")
        within = TimeRange(_utc("2011-12-29T10:00"), _utc("2011-12-31T10:00"))

        days = [_on_the_clock(start, zone).day for start in buckets_of(within, Interval.DAY, zone).starts]

        assert days == [29, 31]

    def test_an_empty_range_has_none(self) -> None:
        moment = _utc("2026-06-01")

        assert list(buckets_of(TimeRange(moment, moment), Interval.DAY, ZoneInfo("UTC")).starts) == []


class TestNumber:
    def test_a_thousand_are_made_and_one_more_is_refused_with_the_interval_that_fits(self) -> None:
        begin, zone = _utc("2026-06-01"), ZoneInfo("UTC")
        whole = TimeRange(begin, begin + timedelta(minutes=BUCKETS_MAX))

        assert len(buckets_of(whole, Interval.MINUTE, zone).starts) == BUCKETS_MAX
        with pytest.raises(SchemaValidationFailed) as refused:
            buckets_of(TimeRange(whole.begin, whole.end + _MINUTE), Interval.MINUTE, zone)

        (fault,) = refused.value.faults
        assert (fault.pointer, fault.suggestions) == ("/interval", ("5m",))

    def test_what_would_be_half_a_million_is_refused_before_it_is_made(self) -> None:
        begin = _utc("2025-06-01")
        with pytest.raises(SchemaValidationFailed) as refused:
            buckets_of(TimeRange(begin, begin + timedelta(days=DAYS_MAX)), Interval.MINUTE, ZoneInfo("UTC"))

        assert refused.value.faults[0].suggestions == ("12h",)

    @given(st.timedeltas(timedelta(microseconds=1), timedelta(days=DAYS_MAX)))
    def test_is_about_a_hundred_at_most_if_none_is_asked_for(self, length: timedelta) -> None:
        begin = _utc("2026-06-01")
        within = TimeRange(begin, begin + length)

        interval = usual_interval(within)

        assert len(buckets_of(within, interval, ZoneInfo("UTC")).starts) <= 102
        assert length <= timedelta(hours=6) or interval.length >= timedelta(hours=1)


class TestZones:
    @pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+12"])
    def test_are_found_by_their_names(self, name: str) -> None:
        assert find_zone(name).key == name

    @pytest.mark.parametrize(
        "name", ["", "Europe", "../UTC", "/etc/passwd", "Europe/Berlin\0", "utc+2", "a" * 10_000, "é", ".", "C:\\a"]
    )
    def test_any_other_text_is_refused(self, name: str) -> None:
        with pytest.raises(SchemaValidationFailed) as refused:
            find_zone(name)

        assert refused.value.faults[0].pointer == "/timezone"

    def test_the_nearest_names_are_said(self) -> None:
        with pytest.raises(SchemaValidationFailed) as refused:
            find_zone("europe/berln")

        assert "Europe/Berlin" in refused.value.faults[0].suggestions
