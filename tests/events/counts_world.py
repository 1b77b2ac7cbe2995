"""Some hundred stored events around changes of clocks, their hourly counts and their skip index."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text

from app.context import Context
from app.database.engine import TenantScope
from app.events.query.identity import shown_id
from app.events.query.words import read_payload
from app.identifiers import new_public_id
from app.maintenance.usage import fold_usage
from app.models import Environment, Source
from tests.support.people import Tenant, execute, issue_key, make_tenant, source_of

# Clocks change in Berlin, New York and Lord Howe; long ago, so that nothing else happens there.
SCENES: Final = [
    datetime.fromisoformat(f"{moment}Z")
    for moment in (
        *("2024-03-31T01:00", "2024-10-27T01:00", "2024-03-10T07:00", "2024-11-03T06:00"),
        *("2024-04-06T15:00", "2024-10-05T15:30"),
    )
]
_EVENTS_EACH: Final = 60
_TYPES: Final = ("payment", "payment.failed", "payment.card.failed", "payments", "login")
_SEVERITIES: Final = ("debug", "info", "warning", "error", "critical")
_PAYLOADS: Final = (
    *('{"a": 1}', '{"a": 1.0, "b": "x"}', '{"a": "1"}', '{"a": null}', '{"a": true}', '{"a": "true"}', '{"a": [1]}'),
    *(
        '{"a": [1, 2]}',
        '{"a": []}',
        '{"a": {"b": 1}}',
        '{"a": [[1]]}',
        '{"a": [{"b": 1}]}',
        '{"a": 1e2}',
        '{"a": -0.50}',
    ),
    *(
        '{"a": -0.50}',
        '{"b": "card declined"}',
        '{"b": "Card_Declined", "a": 0.5}',
        '{"card type": "é", "b": ["x"]}',
        "{}",
    ),
    *('{"c": {"d": "x"}}', '{"c": [{"d": "x"}, {"d": "y"}]}', '{"c": [{"d": "x"}]}', '{"c": [{"d": ["x", "y"]}, {}]}'),
    *('{"c": "d"}', '{"b": "' + "long " * 80 + '"}', '{"b": "' + "long " * 80 + 'indeed"}'),
)
_EVENT: Final = text(
    "INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,"
    " event_id, event_type, severity, occurred_at, payload) VALUES (:project, :at, :uid, :workspace, :environment,"
    " :source, :key, :event_id, :type, :severity, :occurred_at, CAST(:payload AS jsonb))"
)
_OUTBOX: Final = text(
    "INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, payload_bytes,"
    " received_at, environment_id, event_type, severity) VALUES (:project, :uid, :workspace, :source, :key, 'stored',"
    " 10, :at, :environment, :type, :severity)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEvent:
    """As callers are shown it, the payload as read_payload() reads it."""

    event_uid: UUID
    received_at: datetime
    event_id: str
    event_type: str
    severity: str
    source_id: str
    environment: str
    environment_id: str
    key_id: str
    timestamp: datetime
    payload: dict[str, Any]

    @property
    def id(self) -> str:
        return shown_id(self.received_at, self.event_uid)


class World:
    """A tenant and what is stored in its project. No dataclass, for hypothesis would print all of it."""

    def __init__(self, tenant: Tenant, events: list[StoredEvent], senders: "list[_Sender]") -> None:
        self.tenant = tenant
        self.events = events
        self.source_ids = sorted({sender.source_id for sender in senders})
        self.key_ids = [sender.key_id for sender in senders]
        self.environment_ids = sorted({sender.environment_id for sender in senders})

    def __repr__(self) -> str:
        return self.tenant.project_id


@dataclass(frozen=True, slots=True)
class _Sender:
    environment_row: int
    environment: str
    environment_id: str
    source_row: int
    source_id: str
    key_row: int
    key_id: str


def make_world(context: Context) -> World:
    """A third of the events is folded, a third half of it, and a third lies in the outbox as it came in."""
    tenant = make_tenant(context)
    senders = _senders(context, tenant)
    random = Random(20240331)
    moments = [moment for scene in SCENES for moment in _moments(scene, random)]
    random.shuffle(moments)
    events = _store(context, tenant, senders, moments[::2], random)
    fold_usage(context.database)
    index_events(context, tenant)
    events += _store(context, tenant, senders, moments[1::2], random)
    _note_what_counts_nothing(context, tenant, senders[0])
    _note_a_deleted_event(context, tenant, senders[0])
    return World(tenant, events, senders)


def _moments(scene: datetime, random: Random) -> list[datetime]:
    """Many of them where something begins, or just before."""
    grid = [scene + timedelta(minutes=15 * random.randint(-120, 120)) for _ in range(_EVENTS_EACH // 2)]
    near = [scene + timedelta(minutes=30 * n) - timedelta(microseconds=n % 2) for n in range(-8, 8)]
    rest = _EVENTS_EACH - len(grid) - len(near)
    return [*grid, *near, *(scene + timedelta(seconds=random.uniform(-86_400, 86_400)) for _ in range(rest))]


def _senders(context: Context, tenant: Tenant) -> list[_Sender]:
    """Three keys of two sources, and one in each of two archived environments of the same name."""
    first = source_of(context, tenant)
    inside = {"workspace_id": tenant.workspace_row, "project_id": tenant.project_row}
    with context.database.transaction(TenantScope.ALL) as session:
        sources = [(first, "production", tenant.environment_id)]
        environments: list[Environment] = []
        for name in ("old", "old", None):
            if name is not None:
                public_id, archived = new_public_id("env"), datetime.now(UTC)
                environments.append(Environment(public_id=public_id, name=name, archived_at=archived, **inside))
                session.add(environments[-1])
                session.flush()
            row = environments[-1].id if name else first.environment_id
            shown = (name, environments[-1].public_id) if name else ("production", tenant.environment_id)
            number = len(sources)
            source = Source(
                public_id=new_public_id("src"), name=f"s{number}", type="backend", environment_id=row, **inside
            )
            session.add(source)
            session.flush()
            sources.append((source, *shown))
    keys = [(tenant.key_row, tenant.key_id, *sources[0])]
    keys += [(*issue_key(context, each[0])[:2], *each) for each in (sources[0], *sources[1:])]
    return [
        _Sender(source.environment_id, name, environment_id, source.id, source.public_id, key_row, key_id)
        for key_row, key_id, source, name, environment_id in keys
    ]


def _store(
    context: Context, tenant: Tenant, senders: list[_Sender], moments: list[datetime], random: Random
) -> list[StoredEvent]:
    """What the ingest transaction writes of events that were received then."""
    events, rows = [], []
    for moment in moments:
        sender, payload = random.choice(senders), _payload(random)
        event = _event(sender, moment, payload, random)
        other = {"event_id": event.event_id, "occurred_at": event.timestamp, "payload": payload}
        events.append(event)
        rows.append(_row(tenant, sender, event) | other)
    with context.database.transaction(TenantScope.ALL) as session:
        session.execute(_EVENT, rows)
        session.execute(_OUTBOX, rows)
    return events


def _payload(random: Random) -> str:
    payload = random.choice(_PAYLOADS)
    return payload.replace("}", f', "n": {random.randint(0, 25)}}}') if payload.endswith('"}') else payload


def _event(sender: _Sender, moment: datetime, payload: str, random: Random) -> StoredEvent:
    return StoredEvent(
        event_uid=UUID(int=random.getrandbits(128)),
        received_at=moment,
        event_id=f"e{random.randint(0, 9)}",
        event_type=random.choice(_TYPES),
        severity=random.choice(_SEVERITIES),
        source_id=sender.source_id,
        environment=sender.environment,
        environment_id=sender.environment_id,
        key_id=sender.key_id,
        timestamp=moment + timedelta(minutes=random.randint(-90, 90)),
        payload=read_payload(payload),
    )


def _row(tenant: Tenant, sender: _Sender, event: StoredEvent) -> dict[str, Any]:
    return {
        "project": tenant.project_row,
        "workspace": tenant.workspace_row,
        "environment": sender.environment_row,
        "source": sender.source_row,
        "key": sender.key_row,
        "at": event.received_at,
        "uid": event.event_uid,
        "type": event.event_type,
        "severity": event.severity,
    }


def _note_what_counts_nothing(context: Context, tenant: Tenant, sender: _Sender) -> None:
    """A duplicate is no stored event."""
    execute(
        context,
        "INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome,"
        " payload_bytes, received_at)"
        " VALUES (:project, gen_random_uuid(), :workspace, :source, :key, 'duplicate', 1, :at)",
        project=tenant.project_row,
        workspace=tenant.workspace_row,
        source=sender.source_row,
        key=sender.key_row,
        at=SCENES[0],
    )


def _note_a_deleted_event(context: Context, tenant: Tenant, sender: _Sender) -> None:
    """Its row in the outbox says one more, and the folded hours say one less."""
    for scene in SCENES:
        row = {
            "project": tenant.project_row,
            "workspace": tenant.workspace_row,
            "environment": sender.environment_row,
            "source": sender.source_row,
            "key": sender.key_row,
            "at": scene + timedelta(minutes=10),
            "type": "gone",
            "severity": "info",
        }
        with context.database.transaction(TenantScope.ALL) as session:
            session.execute(_OUTBOX, row | {"uid": UUID(int=scene.toordinal())})
        execute(
            context,
            "INSERT INTO event_hours (project_id, hour, source_key_id, event_type, severity, workspace_id,"
            " environment_id, source_id, events) VALUES (:project, date_trunc('hour', CAST(:at AS timestamptz), 'UTC'),"
            " :key, :type, :severity, :workspace, :environment, :source, -1)",
            **row,
        )


def index_events(context: Context, tenant: Tenant, size: int = 25) -> None:
    """Segments of so many events each, the last ones of fewer, of all that no segment holds yet."""
    with context.database.transaction(TenantScope.ALL) as session:
        while size:
            build = {"project": tenant.project_row, "size": size}
            if not session.execute(text("SELECT build_event_segment(:project, :size)"), build).scalar_one():
                size //= 2
