"""Two questions for whoever runs the process: does it live, and may traffic come?"""

from typing import Any, Final

from flask import Response, json
from flask_smorest import Blueprint
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

_IS_READ_ONLY = text("SELECT current_setting('transaction_read_only')::boolean")

_ALL_WELL: Final = {"database": "ok", "schema": "ok", "row_level_security": "ok", "clock": "ok"}
# What is told and keeps no traffic away. A web server's clock decides nothing, so taking it out would cost answers and
# save none; and if it is PostgreSQL's clock that is wrong, all web servers would be taken out at once.
_TOLD_ONLY: Final = frozenset({"clock"})
_MEMBERS: Final[dict[str, Any]] = {
    "status": {"type": "string", "enum": ["ok", "unavailable"]},
    "checks": {"type": "object", "additionalProperties": {"type": "string"}, "description": "`ok`, or what is wrong"},
    "error": {"$ref": "#/components/schemas/ErrorFacts"},
}


def _answer(description: str, members: list[str], example: dict[str, Any], *headers: str) -> dict[str, Any]:
    """How an answer with these members reads in the OpenAPI document."""
    properties = {name: _MEMBERS[name] for name in members}
    schema = {"type": "object", "required": members, "properties": properties}
    return {
        "description": description,
        "headers": openapi.headers(*headers),
        "content": {"application/json": {"schema": schema, "example": example}},
    }


blueprint = Blueprint("health", __name__, description="Is it alive, is it ready")


@blueprint.route("/healthz", methods=["GET"])
@blueprint.doc(
    operationId="getHealth",
    description="Asks nothing that the process depends on: while it answers, restarting it would help nobody.",
    security=[],
    responses={"200": _answer("The process lives", ["status"], {"status": "ok"})},
)
def healthz() -> Response:
    """The process lives; says nothing of what it depends on."""
    return _json({"status": "ok"})


@blueprint.route("/readyz", methods=["GET"])
@blueprint.doc(
    operationId="getReadiness",
    description="Asks the database. While a check fails, most requests are answered 503; send them elsewhere.",
    security=[],
    responses={
        "200": _answer("Traffic may come", ["status", "checks"], {"status": "ok", "checks": _ALL_WELL}),
        "503": _answer(
            "A check failed; `checks` names each, beside the error body that all errors have",
            ["status", "checks", "error"],
            {"status": "unavailable", "checks": _ALL_WELL | {"database": "read-only"}}
            | openapi.examples()[StorageUnavailable.code]["value"],
            "Retry-After",
        ),
    },
)
def readyz() -> Response:
    """Traffic may come: the database answers, its schema is not behind this code, and it keeps workspaces apart.

    `clock` is told and keeps no traffic away.
    """
    context = current_context()
    checks = check(context.database, needs_row_security=context.settings.allow_rls_bypass == "off")
    failed = tuple(
        Fault(f"/checks/{name}", said) for name, said in checks.items() if said != "ok" and name not in _TOLD_ONLY
    )
    if not failed:
        return _json({"status": "ok", "checks": checks})
    refusal = StorageUnavailable(
        "Not ready: " + "; ".join(f"{fault.pointer[8:]}: {fault.message}" for fault in failed), faults=failed
    )
    response = respond(refusal)
    response.set_data(json.dumps({"status": "unavailable", "checks": checks} | (response.get_json(force=True) or {})))
    return response


def check(database: Database, *, needs_row_security: bool, own_clock: OwnClock = own_now) -> dict[str, str]:
    """Each check's name with "ok" or what is wrong in one line."""
    try:
        with database.transaction(TenantScope.NONE, deadline_seconds=1.5) as session:
            is_read_only = session.execute(_IS_READ_ONLY).scalar_one()
            clocks = read_clocks_in(session, own_clock)
            behind_by = behind(session.connection())
            # A process may have started while the database was away; and a role can be given rights later.
            hole = row_security_missing(session.connection()) if needs_row_security and behind_by is None else None
    except (StorageUnavailable, SQLAlchemyError):
        return dict.fromkeys(_ALL_WELL, "unknown") | {"database": "unreachable or too slow"}
    return {
        "database": "read-only" if is_read_only else "ok",
        "schema": behind_by or "ok",
        "row_level_security": hole or "ok",
        "clock": f"this machine's is {clocks.describe_skew()}" if clocks.is_skewed else "ok",
    }


def _json(facts: dict[str, object]) -> Response:
    return Response(json.dumps(facts), mimetype="application/json")
