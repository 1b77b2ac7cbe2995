"""The blueprint of the control plane: no view of it can be reached, or documented, without its guard."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Final

from flask import Response, request
from flask_smorest import Blueprint

from app.context import context
from app.errors import Fault, OutcomeUnknown, Refusal, SchemaValidationFailed
from app.exact_json import pointer_token
from app.management.authentication import authenticate
from app.management.operators import Operator
from app.management.routes.openapi import describe
from app.management.routes.reading import JsonParser, refuse_members
from app.request_log import request_id

View = Callable[..., Any]

GUARD: Final = "managementToken"
"""What a guarded view carries as `guard`: the name of the security scheme in the OpenAPI document."""
_OUTCOME_UNKNOWN: Final = (
    "The database was lost while it committed: the change may have been made or not. Read before you repeat."
)


class ManagementBlueprint(Blueprint):  # type: ignore[misc]
    """A blueprint whose views a management token opens; they get its Operator as their first argument."""

    ARGUMENTS_PARSER = JsonParser()

    def __init__(self, name: str, import_name: str, *, description: str) -> None:
        super().__init__(name, import_name, description=description)
        self.after_request(_keep_out_of_caches)

    def operation(self, method: str, rule: str, *, refuses: Iterable[type[Refusal]] = ()) -> Callable[[View], View]:
        """Serve `rule` with the view, guarded; document what all operations refuse, and `refuses`."""

        def decorate(view: View) -> View:
            documented = self.doc(**describe(view.__name__, method, rule, GUARD, refuses))(view)
            self.route(rule, methods=[method])(_guarded(documented))
            return view

        return decorate

    def _prepare_arguments_doc(self, doc: Any, doc_info: Any, **kwargs: Any) -> Any:
        # smorest would document its own error body for a 422; describe() has documented ours.
        doc_info.get("arguments", {}).pop("responses", None)
        return super()._prepare_arguments_doc(doc, doc_info, **kwargs)


def _guarded(view: View) -> View:
    arguments = getattr(view, "_apidoc", {}).get("arguments", {}).get("parameters", [])
    takes_body = any(argument["in"] == "json" for argument in arguments)
    queries = [argument["schema"]() for argument in arguments if argument["in"] == "query"]
    known = [name for query in queries for name in query.fields]

    @wraps(view)
    def guarded(**path: str) -> Any:
        operator = _operator()
        _check_query(known)
        if not takes_body:
            refuse_members()
        try:
            return view(operator, **path)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(_OUTCOME_UNKNOWN) from error

    guarded.guard = GUARD  # type: ignore[attr-defined]
    return guarded


def _operator() -> Operator:
    house = context()
    header = request.headers.get("Authorization")
    return authenticate(header, house.credentials, house.database, request_id=request_id())


def _check_query(known: list[str]) -> None:
    """A parameter that is unknown or came twice would be ignored in silence."""
    unknown = [name for name in request.args if name not in known]
    repeated = [name for name in known if len(request.args.getlist(name)) > 1]
    faults = [Fault(f"/{pointer_token(name)}", "This parameter is not known.") for name in unknown]
    faults += [Fault(f"/{name}", "This parameter is given more than once.") for name in repeated]
    if faults:
        raise SchemaValidationFailed(faults=tuple(faults))


def _keep_out_of_caches(response: Response) -> Response:
    # A tenant's data, and in one answer a secret; and last_used_at moves without the ETag.
    response.cache_control.no_store = True
    return response
