"""Health checks: whether the process runs (/healthz), and whether it can serve requests (/readyz)."""

from typing import Final

from flask import Response, json
from flask_smorest import Blueprint
from marshmallow import fields, validate
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.context import current_context
from app.database.clock import OwnClock, own_now, read_clocks_in
from app.database.engine import Database, TenantScope
from app.database.migrate import behind
from app.database.row_security import row_security_missing
from app.errors import Fault, StorageUnavailable
from app.web import openapi
from app.web.error_handlers import respond
from app.web.schema_fields import OutputSchema

_IS_READ_ONLY = text("SELECT current_setting('transaction_read_only')::boolean")

_ALL_OK: Final = {"database": "ok", "schema": "ok", "row_level_security": "ok", "clock": "ok"}
# A failure of these is reported, and the process stays ready: a web server's clock decides nothing, and if PostgreSQL's
# own clock is wrong, every web server would report it at once.
_REPORTED_ONLY: Final = frozenset({"clock"})


class HealthSchema(OutputSchema):
    """The process runs."""

    status = fields.String(required=True, validate=validate.OneOf(("ok", "unavailable")))


class ReadinessSchema(HealthSchema):
    """Each check by name."""

    checks = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={"description": "`ok`, or what is wrong"},
    )


class UnreadinessSchema(ReadinessSchema):
    """The same beside the error that all error bodies have."""

    error = fields.Nested(openapi.ErrorFactsSchema, required=True)


_UNREADY_EXAMPLE: Final = {"status": "unavailable", "checks": _ALL_OK | {"database": "read-only"}} | (
    openapi.refusal_examples()[StorageUnavailable.code]["value"]
)

blueprint = Blueprint("health", __name__, description="Is it alive, is it ready")


@blueprint.route("/healthz", methods=["GET"])
@blueprint.doc(
    operationId="getHealth",
    description="Checks nothing that the process depends on: while it answers, a restart would not help.",
    security=[],
)
@blueprint.response(
    200, HealthSchema, description="The process lives", example={"status": "ok"}, headers=openapi.headers()
)
def healthz() -> Response:
    """The process lives; says nothing of what it depends on."""
    return _json({"status": "ok"})


@blueprint.route("/readyz", methods=["GET"])
@blueprint.doc(
    operationId="getReadiness",
    description="Asks the database. While a check fails, most requests are answered 503; send them elsewhere.",
    security=[],
)
@blueprint.response(
    200,
    ReadinessSchema,
    description="Traffic may come",
    example={"status": "ok", "checks": _ALL_OK},
    headers=openapi.headers(),
)
@blueprint.alt_response(
    503,
    schema=UnreadinessSchema,
    description="A check failed; `checks` names each, beside the error body that all errors have",
    example=_UNREADY_EXAMPLE,
    headers=openapi.headers("Retry-After"),
)
def readyz() -> Response:
    """Traffic may come: the database answers, its schema is not behind this code, and it keeps workspaces apart.

    A wrong `clock` is reported, and the process stays ready.
    """
    context = current_context()
    checks = check(context.database, needs_row_security=context.settings.allow_rls_bypass == "off")
    failed = [name for name, result in checks.items() if result != "ok" and name not in _REPORTED_ONLY]
    if not failed:
        return _json({"status": "ok", "checks": checks})
    response = respond(
        StorageUnavailable(
            "Not ready: " + "; ".join(f"{name}: {checks[name]}" for name in failed),
            faults=tuple(Fault(f"/checks/{name}", checks[name]) for name in failed),
        )
    )
    response.set_data(json.dumps({"status": "unavailable", "checks": checks} | (response.get_json(force=True) or {})))
    return response


def check(database: Database, *, needs_row_security: bool, own_clock: OwnClock = own_now) -> dict[str, str]:
    """Each check's name with "ok" or what is wrong in one line."""
    try:
        with database.transaction(TenantScope.NONE, deadline_seconds=1.5) as session:
            is_read_only = session.execute(_IS_READ_ONLY).scalar_one()
            clocks = read_clocks_in(session, own_clock)
            behind_by = behind(session.connection())
            # Checked each time: the process may have started while the database was away, and a role may get more
            # rights later.
            is_checked = needs_row_security and behind_by is None
            gap = row_security_missing(session.connection()) if is_checked else None
    except (StorageUnavailable, SQLAlchemyError):
        return dict.fromkeys(_ALL_OK, "unknown") | {"database": "unreachable or too slow"}
    return {
        "database": "read-only" if is_read_only else "ok",
        "schema": behind_by or "ok",
        "row_level_security": gap or "ok",
        "clock": f"this machine's is {clocks.describe_skew()}" if clocks.is_skewed else "ok",
    }


def _json(members: dict[str, object]) -> Response:
    return Response(json.dumps(members), mimetype="application/json")
