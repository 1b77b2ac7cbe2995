"""Followers who are answered together: as the application answers each, and only those who may have the page now."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast
from unittest.mock import patch

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.config import Settings
from app.context import EXTENSION, Context
from app.counting.reads import ANSWERED
from app.credentials.verification import Credentials
from app.errors import RateLimitExceeded, StorageUnavailable
from app.events.feed import domain, known_followers, shared_answers
from app.events.feed.cursors import BEGIN, Place, behind_all_of
from app.events.feed.domain import Feed
from app.events.feed.followers import FOLLOWERS, FOLLOWING, Followers
from app.events.feed.known_followers import Asked, Follower, KnownFollowers, read_asked
from app.events.feed.middleware import FollowMiddleware
from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
from app.events.feed.shared_answers import Answer, SharedAnswers
from app.events.feed.short_pages import BYTES_MAX, read_short_page
from app.events.query.parsing import parse
from app.ingest.fast_path import FastPath
from app.management.common.authentication import authenticate, note_uses
from app.management.common.operators import Role, at_the_shell
from app.management.tokens.domain import NewToken
from app.rate_limits import Rates
from app.telemetry import logs
from tests.support.counted_reads import Amounts, counted_reads
from tests.support.counting import count_of, counts_of_this_process
from tests.support.databases import close, copied_database
from tests.support.examples import examples
from tests.support.following import FEED, Group, store_group
from tests.support.logging_left_alone import logging_left_alone
from tests.support.operating import ApiClient, api_of, api_with
from tests.support.patient import patient_app
from tests.support.people import Tenant, execute, rows

_RATE = re.compile(r"r=\d+;t=\d+")


@pytest.fixture(name="app", scope="module")
def _app(server_url: str, migrated: Settings, credentials: Credentials) -> Iterator[Flask]:
    """On a database of its own: where others have stored events of many days, a page takes another way."""
    with copied_database(server_url, migrated) as settings, patient_app(settings, credentials) as app:
        yield app


@pytest.fixture(name="context", scope="module")
def _context(app: Flask) -> Context:
    context: Context = app.extensions[EXTENSION]
    return context


@pytest.fixture(name="answers")
def _answers(app: Flask) -> SharedAnswers:
    return cast(SharedAnswers, app.extensions[SHARED_ANSWERS])


@pytest.fixture(scope="module", name="followers", autouse=True)
def _followers(app: Flask) -> Iterator[Followers]:
    """Those of the application."""
    followers = cast(FollowMiddleware, cast(FastPath, app.wsgi_app).application).followers
    yield followers
    close(followers.database)


@pytest.fixture(name="follower")
def _follower(context: Context, alice: Tenant) -> Follower:
    """Alice, at the beginning of her project."""
    return _follower_of(context, alice, alice.token)


def _follower_of(context: Context, tenant: Tenant, token: str, q: str = "", **changes: Any) -> Follower:
    authenticate(f"Bearer {token}", context.credentials, context.database)  # it is known from now on
    identity = context.credentials.lookup_cached(token, "mt")
    assert identity is not None
    asked = Follower(
        identity=identity,
        feed=Feed(tenant.project_id, parse(q)),
        project_row=tenant.project_row,
        after=BEGIN,
        limit=100,
        selection=(("project_id", tenant.project_id),),
        request_id="req_1",
        address="127.0.0.1",
    )
    return replace(asked, **changes)


def _given(answer: Answer | Place | None) -> Answer:
    assert answer is not None
    assert not isinstance(answer, Place)
    return answer


def _events_in(answer: Answer | Place | None) -> list[str]:
    _, _, body = _given(answer)
    return [event["event_id"] for event in json.loads(body)["data"]]


class TestAnAnswer:
    def test_is_that_of_the_application_byte_for_byte(
        self, app: Flask, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(context.management.rate_limiter, "_rates", Rates(key=1_000, workspace=5_000))
        store_group(context.database, alice, "1", "2", payload={"n": 1.10, "é": "\u2028"})
        path = f"{FEED}?project_id={alice.project_id}&wait=20"

        other = api_of(app, alice).call("GET", path, headers={"X-Request-ID": "req_1"})
        (own,) = answers.answer([follower])

        status, headers, body = _given(own)
        assert (status, body) == (other.status_code, other.data)
        assert len(json.loads(body)["data"]) == 2
        assert _without_rest(headers) == _without_rest(list(other.headers))
        assert {"RateLimit", "RateLimit-Policy", "Cache-Control"} < {name for name, _ in headers}

    def test_leaves_the_line_that_the_application_leaves(
        self, app: Flask, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        store_group(context.database, alice, "1")
        path = f"{FEED}?project_id={alice.project_id}&wait=20"
        with _logging():
            capsys.readouterr()
            api_of(app, alice).call("GET", path, headers={"X-Request-ID": "req_1"})
            of_application = capsys.readouterr().err
            assert answers.answer([follower]) != [None]
            own = capsys.readouterr().err

        assert _without_times(own) == _without_times(of_application)
        assert own.count("\n") == 1

    def test_counts_as_one_of_the_application_does(
        self, app: Flask, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1", "2")
        before = _requests()

        found = answers.answer([follower, replace(follower, request_id="req_2")])

        body = cast(Answer, found[0])[2]
        assert counted_reads(app, alice) == {("readFeed", ANSWERED): Amounts(2, 4, 2 * len(body))}
        assert _requests() == before + 2

    def test_notes_the_use_of_its_token(
        self, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant
    ) -> None:
        execute(context, "UPDATE management_tokens SET last_used_at = NULL WHERE public_id = :id", id=alice.token_id)
        store_group(context.database, alice, "1")
        assert answers.answer([follower]) != [None]

        used = rows(context, "SELECT last_used_at FROM management_tokens WHERE public_id = :id", id=alice.token_id)
        assert used[0].last_used_at is not None

    def test_follows_its_look_at_the_tokens_soon_also_if_that_is_noted_slowly(
        self, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        execute(context, "UPDATE management_tokens SET last_used_at = NULL WHERE public_id = :id", id=alice.token_id)
        store_group(context.database, alice, "1")
        seconds: list[float] = []

        def note(session: Session, identities: Any) -> None:
            connection: Any = session.connection().connection.dbapi_connection
            seconds.append(connection.deadline - time.monotonic())
            note_uses(session, identities)

        monkeypatch.setattr(shared_answers, "note_uses", note)
        assert answers.answer([follower]) != [None]

        (noting,) = seconds
        assert noting <= 0.5

    def test_is_each_one_s_own(
        self, app: Flask, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant
    ) -> None:
        colleague = api_with(app, context, alice, NewToken(role=Role.AUDITOR, label="colleague"))
        store_group(context.database, alice, "1")
        theirs = _follower_of(context, alice, colleague.token, request_id="req_2")

        first, second = map(_given, answers.answer([follower, theirs]))

        assert ("X-Request-ID", "req_1") in first[1]
        assert ("X-Request-ID", "req_2") in second[1]
        for api, answer in ((api_of(app, alice), first), (colleague, second)):
            cursor = json.loads(answer[2])["next_cursor"]
            assert api.get(FEED, project_id=alice.project_id, cursor=cursor).status_code == 200
        assert first[2] != second[2]

    def test_is_that_of_each_one_s_place(
        self, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant
    ) -> None:
        """Of a page that lies behind some places as a whole, one reading serves all of them."""
        store_group(context.database, alice, "1")
        store_group(context.database, alice, "2")
        feed, operator = follower.feed, at_the_shell(alice.workspace_row)
        first, second = feed.page(context.reading, operator, BEGIN, 100).places
        places = [first, BEGIN, behind_all_of(first.position), Place(0, follower.after.event_uid), second, BEGIN]
        expected = [feed.page(context.reading, operator, place, 100).data for place in places]

        with _pages_read(context) as reads:
            found = answers.answer([replace(follower, after=place) for place in places])

        at_end = places.index(second)
        behind = found[at_end]
        assert isinstance(behind, Place)
        assert behind >= second
        assert [_events_in(each) for each in found[:at_end] + found[at_end + 1 :]] == [
            [event.event_id for event in page] for page in expected[:at_end] + expected[at_end + 1 :]
        ]
        assert len(reads) == 3  # the two events, the second one, and none behind it

    def test_of_a_filtered_feed_is_shared_too(self, context: Context, answers: SharedAnswers, alice: Tenant) -> None:
        store_group(context.database, alice, "1", event_type="a")
        store_group(context.database, alice, "2", event_type="b")
        follower = _follower_of(context, alice, alice.token, "type:b")

        assert [_events_in(each) for each in answers.answer([follower] * 2)] == [["2"]] * 2


@contextmanager
def _pages_read(context: Context) -> Iterator[list[str]]:
    """The statements that read a horizon, with which each page begins, but for those of an empty page's repetition."""
    reads: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FROM event_horizon" in statement and "project_row" in statement:
            reads.append(statement)

    event.listen(context.reading.engine, "before_cursor_execute", note)
    yield reads
    event.remove(context.reading.engine, "before_cursor_execute", note)


def _requests() -> float:
    labels = {"method": "GET", "route": FEED, "outcome": "2xx"}
    return count_of(counts_of_this_process(), "lariba_requests_total", **labels)


def _without_rest(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, _RATE.sub("", value)) for name, value in headers]


def _without_times(line: str) -> list[tuple[str, Any]]:
    """The fields in their order."""
    return [(name, value) for name, value in json.loads(line).items() if name not in ("timestamp", "milliseconds")]


@contextmanager
def _logging() -> Iterator[None]:
    with logging_left_alone():
        logs.configure("INFO")
        yield


class TestWhereThereIsNothing:
    @pytest.fixture(name="event", autouse=True)
    def _event(self, context: Context, alice: Tenant) -> None:
        store_group(context.database, alice, "1")

    def test_a_follower_goes_on_behind_what_was_judged(
        self, context: Context, answers: SharedAnswers, alice: Tenant
    ) -> None:
        end = _end_of(context, alice)
        none = _follower_of(context, alice, alice.token, "type:none")
        store_group(context.database, alice, "2")

        (place,) = answers.answer([none])

        assert isinstance(place, Place)
        assert place > end
        store_group(context.database, alice, "3", event_type="none")
        assert [_events_in(each) for each in answers.answer([replace(none, after=place)])] == [["3"]]

    def test_it_goes_back_to_no_place_before_its_own(
        self, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant
    ) -> None:
        """A group that is taking its position lowers the horizon."""
        far = behind_all_of(_end_of(context, alice).position + 5)

        assert answers.answer([replace(follower, after=each) for each in (_end_of(context, alice), far)])[1] == far

    def test_nothing_is_counted_or_logged(
        self, app: Flask, context: Context, answers: SharedAnswers, alice: Tenant, capfd: pytest.CaptureFixture[str]
    ) -> None:
        before = _requests()
        with _logging():
            answers.answer([_follower_of(context, alice, alice.token, "type:none")])

        assert (_requests(), counted_reads(app, alice)) == (before, {})
        assert "request_finished" not in capfd.readouterr().err

    def test_who_lost_the_right_is_left_to_the_application(
        self, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant
    ) -> None:
        execute(context, "UPDATE management_tokens SET revoked_at = now() WHERE public_id = :id", id=alice.token_id)

        assert answers.answer([replace(follower, after=_end_of(context, alice))]) == [None]


class TestTheApplicationIsLeft:
    """Those who cannot have the page as it is."""

    @pytest.fixture(name="event", autouse=True)
    def _event(self, context: Context, alice: Tenant) -> None:
        store_group(context.database, alice, "1")

    @pytest.mark.parametrize(
        "change",
        [
            "revoked_at = now()",
            "expires_at = now() - interval '1 second'",
            "project_ids = ARRAY[0::bigint]",
            "public_id = 'tok_of_another'",
        ],
        ids=["revoked", "expired", "narrowed", "restored"],
    )
    def test_who_lost_the_right_while_it_waited(
        self, app: Flask, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant, change: str
    ) -> None:
        colleague = api_with(app, context, alice, NewToken(role=Role.AUDITOR, label="colleague"))
        theirs = _follower_of(context, alice, colleague.token)
        execute(
            context,
            f"UPDATE management_tokens SET {change} WHERE public_id = :id",
            id=theirs.identity.public_id,
        )

        own, lost = answers.answer([follower, theirs])

        assert _events_in(own) == ["1"]
        assert lost is None

    def test_whose_rate_is_used_up(
        self, context: Context, answers: SharedAnswers, follower: Follower, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise RateLimitExceeded

        monkeypatch.setattr(context.management.rate_limiter, "admit", refuse)
        assert answers.answer([follower]) == [None]

    def test_when_a_filter_has_judged_as_much_as_one_page_may_and_found_nothing(
        self, context: Context, answers: SharedAnswers, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store_group(context.database, alice, "2")
        monkeypatch.setattr(domain, "SCANNED_MAX", 1)

        assert answers.answer([_follower_of(context, alice, alice.token, "type:none")]) == [None]

    @pytest.mark.parametrize("q", ["", "type:payment.*"])
    def test_when_the_page_is_too_large_to_be_sent_to_many_at_once(
        self, context: Context, answers: SharedAnswers, alice: Tenant, q: str
    ) -> None:
        store_group(context.database, alice, "2", payload={"long": "x" * BYTES_MAX})

        assert answers.answer([_follower_of(context, alice, alice.token, q)]) == [None]

    def test_beyond_the_memory_for_answers(
        self, answers: SharedAnswers, follower: Follower, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = len(cast(Answer, answers.answer([follower])[0])[2])
        monkeypatch.setattr(shared_answers, "_BODY_BYTES_MAX", 3 * size)
        found = answers.answer([replace(follower, request_id=f"req_{number}") for number in range(5)])

        assert [_events_in(each) for each in found[:3]] == [["1"]] * 3
        assert found[3:] == [None, None]

    def test_beyond_the_memory_for_the_answers_of_several_pages(
        self, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        store_group(context.database, alice, "2", payload={"n": "x" * 1_000})
        ahead = replace(follower, after=_first_place(context, alice))
        sizes = [len(cast(Answer, answer)[2]) for answer in answers.answer([follower, ahead])]
        monkeypatch.setattr(shared_answers, "_BODY_BYTES_MAX", sizes[0] + sizes[1] // 2)

        behind, beyond = answers.answer([follower, ahead])
        assert (_events_in(behind), beyond) == (["1", "2"], None)

    def test_at_too_many_places_for_one_look_at_their_tokens(
        self, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        store_group(context.database, alice, "2")
        ahead = replace(follower, after=_first_place(context, alice))
        monkeypatch.setattr(shared_answers, "_PAGES_MAX", 1)
        with _pages_read(context) as reads:
            beyond, *behind = answers.answer([ahead, follower, follower])

        assert (beyond, [_events_in(each) for each in behind]) == (None, [["1", "2"]] * 2)
        assert len(reads) == 1

    @pytest.mark.parametrize("step", ["read_callers", "note_uses", "read_short_page", "FeedCursors.of"])
    def test_when_something_fails_and_nothing_is_counted(
        self, app: Flask, answers: SharedAnswers, follower: Follower, alice: Tenant, step: str
    ) -> None:
        context = app.extensions[EXTENSION]
        execute(context, "UPDATE management_tokens SET last_used_at = NULL WHERE public_id = :id", id=alice.token_id)
        for error in (StorageUnavailable, ValueError):
            with patch(f"app.events.feed.shared_answers.{step}", side_effect=error):
                assert answers.answer([follower]) == [None]

        assert counted_reads(app, alice) == {}

    def test_for_a_project_that_is_another_one_since_the_database_was_restored(
        self, answers: SharedAnswers, follower: Follower, charlie: Tenant
    ) -> None:
        assert answers.answer([replace(follower, project_row=charlie.project_row)]) == [None]


def _first_place(context: Context, tenant: Tenant) -> Place:
    return Feed(tenant.project_id).page(context.reading, at_the_shell(tenant.workspace_row), BEGIN, 1).reached


def _end_of(context: Context, tenant: Tenant) -> Place:
    return Feed(tenant.project_id).page(context.reading, at_the_shell(tenant.workspace_row), BEGIN, 100).reached


class TestAShortPage:
    @given(
        groups=st.lists(st.integers(1, 4), min_size=1, max_size=5), limit=st.integers(1, 12), skipped=st.integers(0, 9)
    )
    @hypothesis(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_is_the_page_that_any_feed_has(
        self, context: Context, tenant: Callable[[], Tenant], groups: list[int], limit: int, skipped: int
    ) -> None:
        owner = tenant()
        operator, feed = at_the_shell(owner.workspace_row), Feed(owner.project_id)
        for number, events in enumerate(groups):
            store_group(context.database, owner, *(f"{number}-{each}" for each in range(events)), payload={"n": 0.10})
        places = [BEGIN, *feed.page(context.reading, operator, BEGIN, 100).places]
        after = places[min(skipped, len(places) - 1)]

        page = feed.page(context.reading, operator, after, limit)
        with feed.transactions(context.reading, owner.workspace_row) as transactions:
            short = read_short_page(transactions, owner.workspace_row, owner.project_id, after, limit)

        assert short == (page if page.data else None)

    def test_ends_before_an_event_that_can_still_be_committed(
        self, context: Context, answers: SharedAnswers, follower: Follower, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1")
        with Group(context.database, alice, "2"):
            store_group(context.database, alice, "3")
            assert _events_in(answers.answer([follower])[0]) == ["1"]

        assert _events_in(answers.answer([follower])[0]) == ["1", "2", "3"]

    def test_shows_nothing_of_another_workspace_s_project(
        self, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        store_group(context.database, charlie, "theirs")
        with Feed(charlie.project_id).transactions(context.reading, alice.workspace_row) as transactions:
            assert read_short_page(transactions, alice.workspace_row, charlie.project_id, BEGIN, 100) is None


class TestTheNextRequest:
    @pytest.fixture(name="api")
    def _api(self, app: Flask, context: Context, alice: Tenant) -> ApiClient:
        store_group(context.database, alice, "1", "2")
        return api_of(app, alice)

    @pytest.fixture(name="query")
    def _query(self, api: ApiClient, alice: Tenant) -> str:
        """That of who goes on behind the page that it was sent."""
        page = api.get(FEED, project_id=alice.project_id, limit=50).json
        assert page is not None
        return f"limit=50&project_id={alice.project_id}&cursor={page['next_cursor']}&wait=20"

    def test_waits_without_the_application(self, answers: SharedAnswers, query: str, alice: Tenant) -> None:
        environ = _environ(alice, query, HTTP_X_REQUEST_ID="mine")
        wait = answers.take_up(environ)

        assert wait is not None
        assert wait.follower is not None
        assert (wait.follower.request_id, wait.follower.address) == ("mine", "127.0.0.1")
        assert wait.project_row == alice.project_row
        assert environ[FOLLOWING].until == wait.until
        assert environ[FOLLOWERS] is wait.followers

    def test_goes_on_so_page_after_page(
        self, context: Context, answers: SharedAnswers, query: str, alice: Tenant
    ) -> None:
        for number in range(3):
            wait = answers.take_up(_environ(alice, query))
            assert wait is not None
            assert wait.follower is not None
            store_group(context.database, alice, f"new-{number}")
            (answer,) = answers.answer([wait.follower])
            assert _events_in(answer) == [f"new-{number}"]
            cursor = json.loads(cast(Answer, answer)[2])["next_cursor"]
            query = re.sub("cursor=[^&]*", f"cursor={cursor}", query)

    def test_takes_its_part_of_the_rate(
        self, context: Context, answers: SharedAnswers, query: str, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        admitted: list[Any] = []
        monkeypatch.setattr(context.management.rate_limiter, "admit", admitted.append)
        assert answers.take_up(_environ(alice, query)) is not None

        assert [each.public_id for each in admitted] == [alice.token_id]

    @pytest.mark.parametrize(
        "change",
        [
            ("wait=20", "wait=0"),
            ("&wait=20", ""),
            ("wait=20", "wait=26"),
            ("wait=20", "wait=+5"),
            ("wait=20", "wait=%32"),
            ("wait=20", "wait=\u0665"),
            ("wait=20", "wait=20&wait=20"),
            ("limit=50", "limit=49"),
            ("limit=50", "limit=50&limit=50"),
            ("limit=50", "limit"),
            ("limit=50", "other=50"),
            ("limit=50&", ""),
            ("limit=50&", "&limit=50&"),
            ("cursor=", "cursor=x"),
            ("cursor=", "Cursor="),
            ("project_id=", "project_id=x"),
            ("wait=20", "wait=20&q=type:a"),
            ("wait=20", f"wait=20&q={'x' * 600}"),
        ],
        ids=str,
    )
    def test_that_says_anything_else_is_the_application_s(
        self, answers: SharedAnswers, query: str, alice: Tenant, change: tuple[str, str]
    ) -> None:
        assert change[0] in query

        assert answers.take_up(_environ(alice, query.replace(*change, 1))) is None

    @pytest.mark.parametrize(
        "change",
        [
            {"REQUEST_METHOD": "HEAD"},
            {"REQUEST_METHOD": "get"},
            {"REQUEST_METHOD": "POST"},
            {"PATH_INFO": "//v1/events/feed"},
            {"CONTENT_LENGTH": "2"},
            {"HTTP_TRANSFER_ENCODING": "chunked"},
            {"HTTP_TRANSFER_ENCODING": "gzip"},
            {"HTTP_HOST": "a,b"},
            {"HTTP_HOST": ""},
            {"SERVER_PROTOCOL": "HTTP/2"},
            {"HTTP_AUTHORIZATION": "Bearer"},
            {"HTTP_AUTHORIZATION": ""},
        ],
        ids=str,
    )
    def test_with_another_head_is_the_application_s(
        self, context: Context, answers: SharedAnswers, query: str, alice: Tenant, change: dict[str, str]
    ) -> None:
        with patch.object(context.management.rate_limiter, "admit") as admit:
            assert answers.take_up(_environ(alice, query) | change) is None

        assert not admit.called  # the application charges it

    def test_with_another_one_s_cursor_is_the_application_s(
        self, app: Flask, context: Context, answers: SharedAnswers, query: str, alice: Tenant, charlie: Tenant
    ) -> None:
        colleague = api_with(app, context, alice, NewToken(role=Role.AUDITOR, label="colleague"))
        for token in (colleague.token, charlie.token, alice.token[:-1], alice.key):
            _authenticated(context, token)
            environ = _environ(alice, query) | {"HTTP_AUTHORIZATION": f"Bearer {token}"}
            assert answers.take_up(environ) is None

    def test_of_one_who_catches_up_is_the_application_s(
        self, context: Context, answers: SharedAnswers, api: ApiClient, alice: Tenant
    ) -> None:
        """There is something to read at once."""
        page = api.get(FEED, project_id=alice.project_id, limit=1).json or {}
        store_group(context.database, alice, "3")
        selection = (("limit", "1"), ("project_id", alice.project_id))
        (answer,) = answers.answer([_follower_of(context, alice, alice.token, limit=1, selection=selection)])

        for cursor in (page["next_cursor"], json.loads(cast(Answer, answer)[2])["next_cursor"]):
            query = f"project_id={alice.project_id}&limit=1&cursor={cursor}&wait=20"
            assert answers.take_up(_environ(alice, query)) is None

    def test_beyond_the_rate_or_the_places_is_the_application_s(
        self, context: Context, answers: SharedAnswers, query: str, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise RateLimitExceeded

        with monkeypatch.context() as refusing:
            refusing.setattr(context.management.rate_limiter, "admit", refuse)
            assert answers.take_up(_environ(alice, query)) is None
        assert answers.take_up(_environ(alice, query)) is not None
        monkeypatch.setattr(Followers, "have_place", lambda *_: False)
        assert answers.take_up(_environ(alice, query)) is None

    def test_long_after_its_page_is_the_application_s(
        self, answers: SharedAnswers, query: str, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(known_followers, "_SECONDS", 0.0)

        assert answers.take_up(_environ(alice, query)) is None


def _authenticated(context: Context, token: str) -> None:
    if context.credentials.parse(token, "mt") is not None:
        authenticate(f"Bearer {token}", context.credentials, context.database)


def _environ(tenant: Tenant, query: str, **headers: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": FEED,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_AUTHORIZATION": f"Bearer {tenant.token}",
        **headers,
    }


class TestWhatIsKnown:
    def test_is_bounded_and_the_oldest_goes_first(self, follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(known_followers, "_FOLLOWERS_MAX", 3)
        kept = KnownFollowers()
        for number in range(10):
            kept.keep(follower, str(number))

        found = [number for number in range(10) if kept.find(follower.identity, _asked(follower, str(number)))]
        assert (len(kept), found) == (3, [7, 8, 9])

    def test_is_of_a_bounded_query(self, alice: Tenant) -> None:
        assert read_asked(_environ(alice, f"q={'x' * 500}")) is not None
        assert read_asked(_environ(alice, f"q={'x' * 600}")) is None

    def test_is_nothing_in_a_forked_child(self, follower: Follower) -> None:
        kept = KnownFollowers()
        kept.keep(follower, "c")
        child = os.fork()
        if child == 0:
            os._exit(len(kept))

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(kept) == 1


def _asked(follower: Follower, cursor: str) -> Asked:
    return Asked(follower.selection, cursor, 20)
