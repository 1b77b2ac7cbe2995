"""What schemathesis cannot read in the OpenAPI document: credentials, and rules that JSON Schema cannot express.

A positive case fits its schema. Where acceptance depends on more (an id that must exist, a moment that must lie ahead),
a hook puts a valid value into the case. Negative cases are sent as they are generated.
"""

import hashlib
import json
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import AuthContext, Case, CheckContext, HookContext, Response, SerializationContext
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import UseAfterFree

from app.management.common.names import read_label
from contract.archived import Archived
from contract.tenant import FuzzedTenant

TENANT: Final = FuzzedTenant()
_INGEST: Final = "/v1/events/ingest"
_BATCH: Final = f"{_INGEST}/batch"
_SEARCH: Final = "/v1/events/search"
_CONSUMERS: Final = "/v1/consumers/"
_EXPORTS: Final = "/v1/exports"
_REPLAYS: Final = "/v1/replays"
_QUERIES: Final = (
    *("", "type:payment.* severity>=error", "payload.amount>1 OR -has:payload.reason"),
    '"card declined" fraud',
)
_AHEAD: Final = "2200-01-31T12:00:00Z"

# Unassigned characters are left out: whether one is visible depends on the version of Unicode.
_visible = st.characters(exclude_categories=("C", "Z"))
_lines = st.lists(st.text(_visible, min_size=1, max_size=30), max_size=6).map(
    lambda words: unicodedata.normalize("NFC", " ".join(words))
)
_moments = st.datetimes(datetime(2200, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - as asked for

schemathesis.openapi.format("line", _lines)
schemathesis.openapi.format("text", st.lists(_lines, max_size=5).map("\n".join))
schemathesis.openapi.format("visible", st.text(_visible, min_size=1, max_size=128))
schemathesis.openapi.format("date-time", _moments.map(datetime.isoformat))
schemathesis.openapi.format("moment-or-ago", st.sampled_from(("-15m", "-24h", "-7d")))
schemathesis.openapi.format("time-zone", st.sampled_from(("UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Apia")))
# The one binary body is lines of JSON; a line that is wrong is rejected in its verdict.
_values = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=8), max_size=4
)
schemathesis.openapi.format("binary", st.lists(_values.map(json.dumps), min_size=1, max_size=5).map("\n".join))

# The last cursor of each list, by the list and its filters.
_cursors: Final[dict[tuple[str, str], str]] = {}
_archived: Final = Archived()


@schemathesis.serializer("application/x-ndjson")
def write_lines(_: SerializationContext, value: Any) -> bytes:
    """Bytes and strings as they are; any other value as one line of JSON."""
    if isinstance(value, bytes):
        return value
    return value.encode(errors="replace") if isinstance(value, str) else json.dumps(value, default=str).encode()


@schemathesis.auth(refresh_interval=None)
class Credential:
    """The source key for ingest, the management token for all else; looked up for every request."""

    def get(self, _case: Case[Any], context: AuthContext) -> dict[str, str]:
        """The header that the operation takes."""
        if context.operation.path.startswith(_INGEST):
            return {"X-API-Key": TENANT.source_key().key}
        return {"Authorization": f"Bearer {TENANT.token()}"}

    def set(self, case: Case[Any], data: dict[str, str], _context: AuthContext) -> None:
        """Add the header to the request."""
        case.headers.update(data)


@schemathesis.check
def error_code_conformance(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Fail on an error code that the operation does not document for its status."""
    documented = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    known = documented.get("content", {}).get("application/json", {}).get("examples")
    if known is not None:
        code = response.json()["error"]["code"]
        if code not in known:
            raise AssertionError(f"{response.status_code} {code} is not documented: only {', '.join(known)}")


@schemathesis.check
def archived_is_gone(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Fail if an object can be read after it was archived; the links alone seldom lead there."""
    if case.method.upper() != "DELETE" or response.status_code >= 300:
        return
    read = response.request.copy()
    read.method = "GET"
    status = requests.Session().send(read, timeout=10).status_code
    if status < 300:
        raise AssertionError(f"GET {case.formatted_path} has the status {status} after it was archived")


@schemathesis.hook
def before_call(_: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Make a positive case valid where its schema cannot express the rule."""
    if case.meta is not None and case.meta.generation.mode.is_negative:
        return
    if case.path.startswith(_CONSUMERS) and isinstance(name := case.path_parameters.get("name"), str):
        # Few, so that most requests are about one that is there.
        case.path_parameters["name"] = f"consumer-{len(name) % 3}"
    if case.query:
        _set_query(case)
    if isinstance(case.body, dict):
        case.body = _without_null_characters(_body_of(case, case.body))
    _set_headers(case)  # last, because the Idempotency-Key is a digest of all the rest


@schemathesis.hook
def filter_failure(_: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Drop two failures: "use after free" of an object that was restored or of its usage, and "accepted negative data"
    of a batch that has rejected the event.
    """
    if isinstance(failure, AcceptedNegativeData) and case.path == _BATCH:
        return not response.json()["totals"]["rejected"]
    if not isinstance(failure, UseAfterFree):
        return True
    deleted = failure.free.partition(" ")[2]
    return _archived.forbids(case.method.upper(), case.formatted_path, deleted=deleted)


@schemathesis.hook
def after_call(_: HookContext, case: Case[Any], response: Response) -> None:
    """Record what is archived, and the cursors of lists."""
    is_replayed = "idempotent-replayed" in response.headers
    _archived.record(case.method.upper(), case.formatted_path, response.status_code, is_replayed=is_replayed)
    if case.method.upper() == "DELETE" and response.status_code == 204:
        # A consumer of the same name refuses those of this one.
        _cursors.pop((f"{case.formatted_path}/events", "{}"), None)
    if case.method.upper() == "GET" and response.status_code == 200 and b'"next_cursor":"' in response.content:
        _cursors[_list_of(case)] = response.json()["next_cursor"]


def _set_headers(case: Case[Any]) -> None:
    headers = case.headers
    # The body is not compressed; tests/ingest/test_encodings.py sends compressed ones.
    headers.pop("Content-Encoding", None)
    # The same content needs the same key, and other content another one.
    if "Idempotency-Key" in headers:
        content = f"{case.method} {case.formatted_path} {case.query} {case.body!r}"
        headers["Idempotency-Key"] = hashlib.sha256(content.encode(errors="replace")).hexdigest()
    # A link carries the object's ETag; a generated one is refused with 412.
    if "If-Match" in headers and case.meta is not None and case.meta.phase.name.value != "stateful":
        headers["If-Match"] = "*"


def _set_query(case: Case[Any]) -> None:
    query = dict(case.query)
    # A schema cannot express whether all events of a batch are valid.
    if "atomic" in query:
        query["atomic"] = "false"
    # A span has to begin before it ends, and has a maximum length.
    now = datetime.now(UTC)
    spans = {"from": now - timedelta(hours=2), "to": now - timedelta(hours=1)}
    query |= {name: moment.isoformat() for name, moment in spans.items() if name in query}
    query |= _asked(query)
    if query.pop("cursor", None) is not None and (known := _cursors.get(_list_of(case))) is not None:
        query["cursor"] = known
    case.query = query


def _asked(members: dict[str, Any]) -> dict[str, Any]:
    """Valid values for a query of events: one of the language, and no wait."""
    asked: dict[str, Any] = {}
    if isinstance(text := members.get("q"), str):
        asked["q"] = _QUERIES[len(text) % len(_QUERIES)]
    if "wait" in members:
        asked["wait"] = "0"
    # An export that goes on needs the id of an event.
    members.pop("after", None)
    return asked


def _list_of(case: Case[Any]) -> tuple[str, str]:
    filters = {name: value for name, value in case.query.items() if name not in ("cursor", "limit", "wait")}
    return case.formatted_path, json.dumps(filters, sort_keys=True, default=str)


def _body_of(case: Case[Any], body: dict[str, Any]) -> dict[str, Any]:
    """`body` with ids and values that are valid at this moment."""
    changed = dict(body)
    if case.path == _INGEST:
        changed = _event_of(changed)
    if case.path == _BATCH and isinstance(changed.get("events"), list):
        changed["events"] = [_event_of(event) if isinstance(event, dict) else event for event in changed["events"]]
    if case.path in (_SEARCH, _EXPORTS):
        changed = _query_of(changed)
    if case.path == _REPLAYS and isinstance(changed.get("query"), dict):
        changed["query"] = _query_of(changed["query"]) | {"project_id": TENANT.project_id()}
        changed["target_source_id"] = TENANT.source_key().source_id
    if case.path.startswith(_CONSUMERS):
        changed |= _asked(changed) | {name: "start" for name in ("start", "to") if name in changed}
        if "project_id" in changed:
            changed["project_id"] = TENANT.project_id()
        if "cursor" in changed:
            changed["cursor"] = _committable(case)
    if changed.get("project_ids"):
        changed["project_ids"] = [TENANT.project_id()]
    return _chosen(changed)


def _query_of(members: dict[str, Any]) -> dict[str, Any]:
    """A query for events in a body, with a range that is one."""
    asked = members | _asked(members)
    now = datetime.now(UTC)
    spans = {"from": now - timedelta(hours=2), "to": now - timedelta(hours=1)}
    asked |= {name: moment.isoformat() for name, moment in spans.items() if name in asked}
    asked.pop("cursor", None)
    return asked


def _committable(case: Case[Any]) -> str:
    """The last cursor of the consumer in the path. Without one the path names a consumer that is not there."""
    events = case.formatted_path.removesuffix("/commit") + "/events", "{}"
    if events not in _cursors:
        case.path_parameters["name"] = "none"
    return _cursors.get(events, "none")


def _event_of(event: dict[str, Any]) -> dict[str, Any]:
    """`event` as one of the source whose key is sent."""
    named = event | {"source_id": TENANT.source_key().source_id}
    named.pop("environment", None)
    return named


def _chosen(members: dict[str, Any]) -> dict[str, Any]:
    """`members` with valid values for rules that a schema cannot express; also those of a key in it."""
    chosen = dict(members)
    # The fuzzer also sends moments that it has read in responses.
    if isinstance(chosen.get("expires_at"), str):
        chosen["expires_at"] = _AHEAD
    # With a limit of one event a second the next cases would be refused.
    for name in {"events_per_second", "key_events_per_second"} & chosen.keys():
        chosen[name] = chosen[name] and max(chosen[name], 10_000)
    for name in {"name", "label"} & chosen.keys():
        chosen[name] = _without_look_alikes(chosen[name])
    for name, entry in (("allowed_origins", "https://shop-{}.example"), ("allowed_networks", "192.0.{}.0/24")):
        if isinstance(chosen.get(name), list):
            chosen[name] = [entry.format(n) for n in range(len(chosen[name]))]
    if chosen.get("allowed_origins"):
        chosen["allowed_event_types"] = chosen.get("allowed_event_types") or ["payment.*"]
    if isinstance(chosen.get("key"), dict):
        chosen["key"] = _chosen(chosen["key"])
    return chosen


def _without_look_alikes(text: Any) -> Any:
    """`text`, or another one if it looks like something that it is not (app/management/common/names.py)."""
    try:
        read_label(text)
    except (TypeError, ValueError):
        return f"checkout {hashlib.sha256(repr(text).encode()).hexdigest()}"
    return text


def _without_null_characters(value: Any) -> Any:
    """PostgreSQL stores every character but this one, and the payload has no schema that could exclude it."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_null_characters(item) for item in value]
    if isinstance(value, dict):
        return {_without_null_characters(name): _without_null_characters(item) for name, item in value.items()}
    return value
