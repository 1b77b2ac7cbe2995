"""Answers many followers with one reading of their page, and takes up their next requests, without the application.

Followers of a project are nearly always at one place, and an event wakes them all. A call of the application for each
authenticates, reads and encodes anew: 5 ms for a page that all of them get. Here one transaction checks all their
tokens and reads the page, and each gets its own cursor, rate and request id; everything that a response has is as the
application has it. Who cannot be answered so is left to the application.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from app.context import Context
from app.counting.reads import ANSWERED, Read
from app.credentials.verification import Identity
from app.errors import RateLimitExceeded, Refusal
from app.events.feed.cursors import FeedCursors, Place
from app.events.feed.domain import Page
from app.events.feed.followers import FOLLOWERS, WAIT, Followers, Wait
from app.events.feed.following import Following
from app.events.feed.known_followers import PATH, Follower, read_asked
from app.events.feed.short_pages import BYTES_MAX, read_short_page
from app.events.query.printing import print_query
from app.events.transactions import FewDays
from app.identifiers import request_id_from
from app.management.common.authentication import Caller, note_uses, read_callers
from app.management.common.operators import Operator, Role
from app.telemetry import metrics
from app.telemetry.access_log import RequestLine, RequestLines
from app.wire.client_address import client_address

EXTENSION: Final = "lariba.shared_answers"
ROLE: Final = Role.AUDITOR
"""What it takes to read a feed."""

Answer = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers, body."""

_log = structlog.get_logger()

_OPERATION: Final = "readFeed"
_METHOD: Final = "GET"
_OUTCOME: Final = "2xx"
_ENCODER: Final = msgspec.json.Encoder()
# Of the bodies that are made at once: the server holds them until the clients have taken them. The application has few.
_BODY_BYTES_MAX: Final = 16 * 1024 * 1024
# That are read after one look at the tokens: followers at hundreds of places would be answered seconds after it, or by
# the deadline of the transaction not at all. Nearly always it is one.
_PAGES_MAX: Final = 16
# For noting that tokens were used, between that look and the answers.
_NOTE_SECONDS: Final = 0.5


class SharedAnswers:
    """Those of one process."""

    def __init__(self, context: Context, followers: Followers, lines: RequestLines) -> None:
        self._context = context
        self._followers = followers
        self._lines = lines

    def take_up(self, environ: dict[str, Any]) -> Wait | None:
        """The wait of a request that goes on behind the last page, which this process has sent; its rate is charged.

        None: the application is to answer. For an event loop: neither waits nor reads, and never raises.
        """
        if environ["PATH_INFO"] != PATH:
            return None
        try:
            return self._wait_of(environ)
        except Exception:  # noqa: BLE001 - a refusal too: the application raises it again, and answers, logs and counts
            return None

    def _wait_of(self, environ: dict[str, Any]) -> Wait | None:
        asked = read_asked(environ)
        if asked is None or not asked.wait_seconds:
            return None
        identity = self._identity_in(environ)
        follower = self._followers.known.find(identity, asked) if identity is not None else None
        if identity is None or follower is None or not self._followers.have_place(identity.workspace_id):
            return None
        self._context.management.rate_limiter.admit(identity)
        request = follower.of_request(
            request_id_from(environ.get("HTTP_X_REQUEST_ID")),
            client_address(environ, self._context.settings.trusted_proxies),
        )
        environ[FOLLOWERS] = self._followers
        place = Page(follower.project_row, [], follower.after, is_last=True)
        following = Following(follower.after, time.monotonic() + asked.wait_seconds)
        following.hold(environ, identity.workspace_id, place, request.request_id, request)
        wait: Wait | None = environ.pop(WAIT, None)
        return wait

    def answer(self, followers: Sequence[Follower]) -> list[Answer | Place | None]:
        """The answer to each of some followers with one `feed_key`, or the place up to which there is nothing for it.

        None where the application is to answer. What is answered is counted and logged. Never raises.
        """
        began = time.perf_counter()
        answers: dict[int, Answer | Place] = {}
        answered: list[_Answered] = []
        try:
            shared = self._read(followers)
            for page, others in shared:
                if not page.data:
                    answers |= {id(each): max(each.after, page.reached) for each in others}
            answered = self._answered(shared)
        except Refusal:
            pass  # the application meets it too, and says so
        except Exception:  # noqa: BLE001 - the application answers
            _log.exception("feed_not_shared")
        try:
            self._note(answered, time.perf_counter() - began)
        except Exception:  # noqa: BLE001 - the answers are right
            _log.exception("feed_not_noted")
        answers |= {id(each.follower): each.answer for each in answered}
        return [answers.get(id(each)) for each in followers]

    def _read(self, followers: Sequence[Follower]) -> "list[_Shared]":
        """The pages of those who may have them as they are: not if they are too large for many at once.

        Nearly always it is one page. Where followers are at different places, those behind whom it lies as a whole have
        it too: an empty page has taken each as far as could be read at its time. The last page may be empty, too.
        """
        first, shared = followers[0], list[_Shared]()
        workspace_id = first.identity.workspace_id
        with first.feed.transactions(self._context.reading, workspace_id) as transactions:
            # Before the pages, in a statement of its own: a revocation that has returned is seen.
            callers = read_callers(transactions.session(), {each.identity for each in followers})
            able = [each for each in followers if _may_read(callers.get(each.identity), each.project_row)]
            able.sort(key=lambda each: each.after)
            while able and len(shared) < _PAGES_MAX:
                page = _page(transactions, callers[able[0].identity].operator, able[0])
                # Of a restored database, the row may be another project's. A filter may have judged as much as it may.
                if (
                    page.payload_bytes > BYTES_MAX
                    or page.project_row != first.project_row
                    or not (page.data or page.is_last)
                ):
                    break
                shared.append(_Shared(page, [each for each in able if not page.data or each.after < page.places[0]]))
                able = able[len(shared[-1].followers) :]
        database = self._context.management.database
        served = {each.identity for page, followers in shared if page.data for each in followers}
        if used := [identity for identity in served if callers[identity].is_use_news]:
            with database.transaction(workspace_id, deadline_seconds=_NOTE_SECONDS) as session:
                note_uses(session, used)
        return shared

    def _answered(self, shared: "list[_Shared]") -> "list[_Answered]":
        answered: list[_Answered] = []
        bytes_left = _BODY_BYTES_MAX
        for page, followers in shared:
            found = list(self._answered_with(page, followers, bytes_left)) if page.data else []
            bytes_left -= sum(len(each.answer[2]) for each in found)
            answered += found
        return answered

    def _answered_with(self, page: Page, followers: Sequence[Follower], bytes_left: int) -> "Iterator[_Answered]":
        events = _ENCODER.encode(page.data)
        bodies: dict[Identity, tuple[str, bytes]] = {}
        most = max(0, bytes_left // len(events))
        for follower in followers[:most]:
            identity = follower.identity
            try:
                allowance = self._context.management.rate_limiter.admit(identity)
            except RateLimitExceeded:
                continue
            if identity not in bodies:
                cursor = self._cursors(follower).write(page.reached)
                bodies[identity] = cursor, _ENCODER.encode({"data": msgspec.Raw(events), "next_cursor": cursor})
            cursor, body = bodies[identity]
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                *allowance.headers.items(),
                ("X-Request-ID", follower.request_id),
            ]
            yield _Answered(follower, page, cursor, (HTTPStatus.OK.value, headers, body))

    def _cursors(self, follower: Follower) -> FeedCursors:
        identity, feed = follower.identity, follower.feed
        operator = Operator(token_public_id=identity.public_id, workspace_id=identity.workspace_id, role=ROLE)
        return FeedCursors.of(self._context.settings.secret_key, operator, feed.project_id, print_query(feed.node))

    def _note(self, answered: "Sequence[_Answered]", seconds: float) -> None:
        """Count and log what is answered, and remember who goes on from it."""
        if not answered:
            return
        metrics.count_requests(_METHOD, PATH, [(_OUTCOME, seconds)] * len(answered))
        metrics.KEY_LOOKUPS.labels("memory").inc(len(answered))
        for follower, page, cursor, (status, _, body) in answered:
            read = Read(follower.identity, follower.feed.project_id, _OPERATION, ANSWERED)
            self._context.reads.count(read, requests=1, events=len(page.data), body_bytes=len(body))
            if page.is_last:
                self._followers.known.keep(follower.behind(page.reached), cursor)
            self._lines.add(
                RequestLine(
                    event="request_finished",
                    method=_METHOD,
                    milliseconds=round(seconds * 1000, 2),
                    path=PATH,
                    project=follower.feed.project_id,
                    remote_address=follower.address,
                    request_id=follower.request_id,
                    status=status,
                    token=follower.identity.public_id,
                )
            )
        self._lines.flush()

    def _identity_in(self, environ: Mapping[str, Any]) -> Identity | None:
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        return self._context.credentials.lookup_cached(token.strip(), "mt") if scheme.lower() == "bearer" else None


class _Shared(NamedTuple):
    """A page, and who gets it."""

    page: Page
    followers: list[Follower]


class _Answered(NamedTuple):
    """A follower, its page, the cursor that it is given, and its answer."""

    follower: Follower
    page: Page
    cursor: str
    answer: Answer


def _page(transactions: FewDays, operator: Operator, follower: Follower) -> Page:
    feed, after, limit = follower.feed, follower.after, follower.limit
    page = None
    if not feed.is_filtered:
        page = read_short_page(transactions, operator.workspace_id, feed.project_id, after, limit)
    return page or feed.page_in(transactions, operator, after, limit)


def _may_read(caller: Caller | None, project_row: int) -> bool:
    if caller is None or caller.home is not None or not caller.operator.role.includes(ROLE):
        return False
    return caller.operator.project_rows is None or project_row in caller.operator.project_rows
