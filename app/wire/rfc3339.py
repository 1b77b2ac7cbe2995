"""Parses times for ingest and management, and says what is wrong with a text that is none.

Accepted are RFC 3339 and the part of ISO 8601 that names a calendar day: also dates alone, times without an offset or
without seconds, and the basic form without hyphens and colons. The pattern is written out, because Python's own parser
accepts more, and more with each version.
"""

import re
from calendar import month_name, monthrange
from datetime import MAXYEAR, UTC, datetime, timedelta
from typing import Final

EXAMPLE: Final = "2026-06-01T10:00:00Z"
NOT_A_NUMBER: Final = f"Seconds or milliseconds since 1970 are not taken. Send a text such as {EXAMPLE}."

_CLOCK = r"(?:[01]\d|2[0-3])(?::?[0-5]\d(?::?[0-5]\d(?:[.,]\d+)?)?)?"
_OFFSET = r"[Zz]|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?"
_COMMON = re.compile(rf"\d{{4}}-?\d\d-?\d\d(?:[Tt ]{_CLOCK}(?:{_OFFSET})?)?", re.ASCII)
# The same with any number in each field, so that a message can name the wrong one.
_ANY = re.compile(
    r"(\d{4})(?P<hyphen>-?)(\d\d)(?P=hyphen)(\d\d)"
    r"(?:[Tt ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,]\d+)?)?)?([Zz]|[+-]\d\d(?::?\d\d)?|)?)?",
    re.ASCII,
)
# Behind the date, which may itself have hyphens.
_OFFSET_SIGNS = frozenset("Zz+-")
_DATE_CHARACTERS_MIN = 8
_LEAP_SECOND = re.compile(r"(.*\d\d:?\d\d:?)60(?:[.,]\d+)?((?:[Zz]|[+-]\d\d(?::?\d\d)?)?)", re.ASCII)
_LOST_PLUS = re.compile(r"(.+[Tt ]\d\d(?::?\d\d){0,2}(?:[.,]\d+)?) (\d\d(?::?\d\d)?)", re.ASCII)
_OTHERS: Final = (
    (re.compile(r"[+-]?\d{9,}(?:[.,]\d*)?|[+-]?\d+[.,]\d+"), "Seconds or milliseconds since 1970 are not taken."),
    (re.compile(r"\d{4}-?[Ww]\d\d.*"), "Weeks are not taken: name the month and its day."),
    (re.compile(r"\d{4}-?\d{3}(?:[Tt ].*)?"), "Days of the year are not taken: name the month and its day."),
    (re.compile(r".+\[[^\]]*\]"), "The name of a time zone is not taken: its offset from UTC says enough."),
)


def read_common_moment(text: str) -> datetime | None:
    """The moment in UTC, which is also the default offset; None if only read_moment() can decide."""
    try:
        moment = datetime.fromisoformat(text.upper() if _COMMON.fullmatch(text) else "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_moment(text: str, *, needs_offset: bool = False) -> datetime:
    """The moment in UTC, cut to microseconds; a leap second becomes the beginning of the next second.

    Raises ValueError with what is wrong and what to send instead; also if `needs_offset` and there is none.
    """
    moment = read_common_moment(text) or _leap_second(text)
    if moment is None:
        raise ValueError(f"{_fault(text)} Send a time such as {EXAMPLE}.")
    if needs_offset and _OFFSET_SIGNS.isdisjoint(text[_DATE_CHARACTERS_MIN:]):
        raise ValueError("Must say its offset from UTC, such as Z or +02:00.")
    return moment


def _leap_second(text: str) -> datetime | None:
    """The moment of a leap second where RFC 3339 §5.7 allows one: after the last second, in UTC, of a month."""
    found = _LEAP_SECOND.fullmatch(text)
    before = read_common_moment(f"{found[1]}59{found[2]}") if found else None
    if before is None or before.year == MAXYEAR:
        return None
    after = before + timedelta(seconds=1)
    return after if (after.day, after.hour, after.minute) == (1, 0, 0) else None


def _fault(text: str) -> str:
    if found := _LOST_PLUS.fullmatch(text):
        return f"A space stands where +{found[2]} may have been meant: in a URL + is written as %2B."
    if found := _ANY.fullmatch(text):
        year, month, day, hour, minute, second, offset = (found[n] or "" for n in (1, 3, 4, 5, 6, 7, 8))
        return _fault_of_day(year, month, day) or _fault_of_clock(hour, minute, second) or _fault_of_offset(offset)
    return next((fault for other, fault in _OTHERS if other.fullmatch(text)), "This is no ISO 8601 time.")


def _fault_of_day(year: str, month: str, day: str) -> str | None:
    if year == "0000":
        return "There is no year 0000: the first one that can be kept is 0001."
    if not 1 <= int(month) <= 12:
        return f"There is no month {month}."
    days = monthrange(int(year), int(month))[1]
    if not 1 <= int(day) <= days:
        return f"There is no day {day} in {month_name[int(month)]} {year}, which has {days} days."
    return None


def _fault_of_clock(hour: str, minute: str, second: str) -> str | None:
    if hour == "24":
        return "There is no hour 24: the day's end is 00:00 of the next day."
    if hour > "24":
        return f"There is no hour {hour}."
    if minute > "59":
        return f"There is no minute {minute}."
    if second == "60":
        return "There is no second 60 but a leap second, and those come at 23:59:60 UTC at the end of a month."
    if second > "60":
        return f"There is no second {second}."
    return None


def _fault_of_offset(offset: str) -> str:
    if offset[1:3] > "23" or offset.replace(":", "")[3:] > "59":
        return f"There is no offset {offset}: they go from -23:59 to +23:59."
    return "In UTC this is not between the years 0001 and 9999."
