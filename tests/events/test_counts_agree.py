"""Counts are those of the rows: of a search with the same query and range, and of the language's evaluator."""

from bisect import bisect
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.context import Context
from app.events.counts import domain as counts_domain
from app.events.counts import reading as counts_reading
from app.events.counts.buckets import Interval
from app.events.counts.domain import Counts, CountsRequest, count_events
from app.events.counts.groups import VALUE_CHARACTERS_MAX, read_grouping
from app.events.query.evaluation import matches
from app.events.query.parsing import parse
from app.events.search import SearchRequest, search
from app.events.statements import QueryClass
from app.management.common.authentication import authenticate
from app.management.common.operators import Operator
from tests.events.counts_world import SCENES, StoredEvent, World, make_world
from tests.events.query.strategies import combined
from tests.support.examples import examples

_ZONES: Final = [
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "Australia/Lord_Howe"),
    "Asia/Kathmandu",
]
_PATHS: Final = ["payload.a", "payload.b", "payload.n", "payload.c.d", 'payload."card type"', "payload.a.b"]
_GROUPINGS: Final = ["none", "type", "severity", "source", "environment", "key", *_PATHS]
_LEAVES: Final = [
    *("type:payment.*", "type:login", "type:[payment, payments]", "severity>=error", "severity:info", "env:old"),
    *("env:production", "source:{source}", "key:{key}", "env:{environment}"),
    *("payload.a:1", "payload.a>0.75", "has:payload.b", "payload.b:x", "card", '"card declined"', "has:payload.a"),
    *("payload.c.d:[x, y]", "id:e7", "timestamp>=2024-10-27T00:30:00Z", "long", "indeed", "payload.n<=12", "nothing"),
]
_ENDS: Final = [
    timedelta(minutes=minutes, microseconds=microseconds)
    for minutes in (-2_880, -1_500, -480, -90, -60, -45, -30, -15, 0, 10, 15, 30, 60, 90, 120, 1_440, 2_880)
    for microseconds in (-1, 0, 1, 7_000_000)
]

_queries = combined(st.sampled_from(_LEAVES), max_leaves=4)


@pytest.fixture(scope="module", name="world")
def _world(context: Context) -> World:
    return make_world(context)


@pytest.fixture(scope="module", name="operator")
def _operator(context: Context, world: World) -> Operator:
    return authenticate(f"Bearer {world.tenant.token}", context.credentials, context.database)


@st.composite
def _requests(draw: st.DrawFn) -> CountsRequest:
    scene = draw(st.sampled_from(SCENES))
    begin = scene + draw(st.sampled_from(_ENDS))
    end = draw(st.sampled_from(SCENES) if draw(st.integers(0, 9)) == 0 else st.just(scene)) + draw(
        st.sampled_from(_ENDS)
    )
    if begin > end:
        begin, end = end, begin
    end += timedelta(microseconds=begin == end)
    fitting = [each for each in Interval if (end - begin) / each.length < 900]
    return CountsRequest(
        project_id="",
        q=draw(st.just("") | _queries),
        begin=begin,
        end=end,
        interval=draw(st.none() | st.sampled_from(fitting)),
        group_by=draw(st.sampled_from(_GROUPINGS)),
        timezone=draw(st.sampled_from(_ZONES)),
    )


def _of(request: CountsRequest, world: World) -> CountsRequest:
    """Of the world's project, with names that it has."""
    named = {"source": world.source_ids[0], "key": world.key_ids[1], "environment": world.environment_ids[0]}
    q = request.q
    for name, public_id in named.items():
        q = q.replace(f"{{{name}}}", public_id)
    return CountsRequest(
        project_id=world.tenant.project_id,
        q=q,
        begin=request.begin,
        end=request.end,
        interval=request.interval,
        group_by=request.group_by,
        timezone=request.timezone,
    )


def _found_by_evaluator(request: CountsRequest, world: World) -> list[StoredEvent]:
    node = parse(request.q)
    assert isinstance(request.begin, datetime)
    assert isinstance(request.end, datetime)
    return [
        event for event in world.events if request.begin <= event.received_at < request.end and matches(node, event)
    ]


def _found_by_search(context: Context, operator: Operator, request: CountsRequest) -> set[str]:
    found: set[str] = set()
    cursor: str | None = None
    while True:
        page = search(
            context.reading,
            operator,
            SearchRequest(
                project_id=request.project_id,
                q=request.q,
                begin=request.begin,
                end=request.end,
                limit=500,
                cursor=cursor,
                secret_keys=context.settings.secret_key,
            ),
        )
        found |= {event.id for event in page.data}
        cursor = page.next_cursor
        if cursor is None:
            return found


def _group_of(event: StoredEvent, group_by: str) -> tuple[str, str | None]:
    scalars = {
        "type": event.event_type,
        "severity": event.severity,
        "source": event.source_id,
        "environment": event.environment,
        "key": event.key_id,
    }
    if group_by in scalars:
        return "string", scalars[group_by]
    path = read_grouping(group_by).path
    assert path is not None
    values: list[Any] = [event.payload]
    for name in path.members:
        elements = [element for value in values for element in (value if isinstance(value, list) else [value])]
        values = [element[name] for element in elements if isinstance(element, dict) and name in element]
    if len(values) == 1 and isinstance(values[0], list) and len(values[0]) == 1:
        values = values[0]
    if len(values) != 1:
        return ("array" if values else "absent"), None
    return _kind_and_text(values[0])


def _kind_and_text(value: Any) -> tuple[str, str | None]:
    match value:
        case None:
            return "null", "null"
        case bool():
            return "boolean", str(value).lower()
        case int() | Decimal():
            text = f"{Decimal(value):f}"
            return "number", text.rstrip("0").rstrip(".") if "." in text else text
        case str():
            return "string", value[:VALUE_CHARACTERS_MAX]
        case list():
            return "array", None
        case _:
            return "object", None


def _shown_groups(events: list[StoredEvent], group_by: str) -> set[tuple[str, str | None]]:
    sums = Counter(_group_of(event, group_by) for event in events)
    with_value = sorted(
        ((kind, value) for kind, value in sums if value is not None), key=lambda it: (-sums[it], it[1], it[0])
    )
    return {*with_value[:10], *(group for group in sums if group[1] is None)}


def _check(counts: Counts, request: CountsRequest, found: list[StoredEvent]) -> None:
    starts = [bucket.start for bucket in counts.buckets]
    assert counts.total == len(found)
    by_bucket = Counter(bisect(starts, event.received_at) for event in found)
    assert [bucket.count for bucket in counts.buckets] == [by_bucket[n] for n in range(1, len(starts) + 1)]
    if request.group_by == "none":
        assert not counts.groups
        return
    shown = _shown_groups(found, request.group_by)
    expected: dict[int, Counter[tuple[str, str | None]]] = {}
    for event in found:
        group = _group_of(event, request.group_by)
        sums = expected.setdefault(bisect(starts, event.received_at), Counter())
        sums[group if group in shown else ("rest", None)] += 1
    for n, bucket in enumerate(counts.buckets, 1):
        assert {(group.kind, group.value): group.count for group in bucket.groups} == expected.get(n, {})
    total = sum(expected.values(), Counter())
    assert {(group.kind, group.value): group.count for group in counts.groups} == total


@pytest.mark.parametrize("reads_segments", [False, True])
@given(request=_requests())
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_agree_with_the_evaluator_and_with_a_search(
    context: Context,
    operator: Operator,
    world: World,
    request: CountsRequest,
    reads_segments: bool,  # noqa: FBT001
) -> None:
    asked = _of(request, world)
    found = _found_by_evaluator(asked, world)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts_reading, "_FEW_SEGMENTS", 99 if reads_segments else -1)
        patch.setattr(counts_domain, "COUNTS", QueryClass(60.0))  # a busy machine may take long
        counts = count_events(context.reading, operator, asked)

    _check(counts, asked, found)
    assert _found_by_search(context, operator, asked) == {event.id for event in found}
