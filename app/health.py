"""Two questions for whoever runs the process: does it live, and may traffic come?"""

from flask import Response, json
from flask_smorest import Blueprint
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.context import context
from app.database import Database
from app.errors import Fault, StorageUnavailable
from app.problems import answer
from app.schema import behind

_IS_READ_ONLY = text("SELECT current_setting('transaction_read_only')::boolean")

blueprint = Blueprint("health", __name__, description="Is it alive, is it ready")


@blueprint.route("/healthz", methods=["GET"])
@blueprint.doc(operationId="getHealth", security=[], responses={"200": {"description": "The process lives"}})
def healthz() -> Response:
    """The process lives; says nothing of what it depends on."""
    return _json({"status": "ok"})


@blueprint.route("/readyz", methods=["GET"])
@blueprint.doc(
    operationId="getReadiness",
    security=[],
    responses={
        "200": {"description": "Traffic may come"},
        "503": {"description": "A check failed; `checks` names each"},
    },
)
def readyz() -> Response:
    """Traffic may come: the database answers and its schema is not behind this code."""
    checks = _check(context().database)
    failed = tuple(Fault(f"/checks/{name}", said) for name, said in checks.items() if said != "ok")
    if not failed:
        return _json({"status": "ok", "checks": checks})
    refusal = StorageUnavailable("Not ready: " + "; ".join(f"{fault.pointer[8:]}: {fault.message}" for fault in failed))
    response = answer(503, refusal.code, refusal.message, retryable=True, faults=failed)
    response.set_data(json.dumps({"status": "unavailable", "checks": checks} | (response.get_json(force=True) or {})))
    response.headers["Retry-After"] = "1"
    return response


def _check(database: Database) -> dict[str, str]:
    """Each check's name with "ok" or what is wrong in one line."""
    try:
        with database.transaction(deadline_seconds=1.5) as session:
            is_read_only = session.execute(_IS_READ_ONLY).scalar_one()
            missing = behind(session.connection())
    except (StorageUnavailable, SQLAlchemyError):
        return {"database": "unreachable or too slow", "schema": "unknown"}
    return {"database": "read-only" if is_read_only else "ok", "schema": missing or "ok"}


def _json(facts: dict[str, object]) -> Response:
    return Response(json.dumps(facts), mimetype="application/json")
