"""The blueprint of the control plane: no view of it can be reached, or documented, without its guard."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any, Final, Unpack

from flask import Response, g, request
from flask_smorest import Blueprint
from marshmallow import Schema

from app.context import current_context, urgent_database
from app.credentials.verification import Identity
from app.database.engine import Database
from app.errors import (
    Conflict,
    CredentialAlreadyShown,
    Fault,
    NotFound,
    OutcomeUnknown,
    Refusal,
    SchemaValidationFailed,
)
from app.management.common.authentication import authenticate
from app.management.common.idempotency import AlreadyDoneError
from app.management.common.openapi import PAGED, complete_answers, describe, path_parameters
from app.management.common.openapi_examples import example_of
from app.management.common.operation import Declared, Operation
from app.management.common.operators import IdempotentRequest, Operator, Role
from app.management.common.paging import Page
from app.management.common.parsing import JsonParser, body_of_request, refuse_members
from app.management.common.responses import links_of
from app.management.common.schemas import PageSchema
from app.web.request_log import remote_address, request_id
from app.wire.exact_json import fingerprint, pointer_token, read_object
from app.wire.idempotency_key import read_idempotency_key

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
        self._views: dict[str, tuple[View, str]] = {}
        self._retold: dict[str, View] = {}
        self.operations: dict[str, Operation] = {}
        """By the names of their views."""
        self.after_request(_complete)

    def operation(self, method: str, rule: str, *, role: Role, **declared: Unpack[Declared]) -> Callable[[View], View]:
        """Serve `rule` with the view, guarded; document what all operations refuse, and what is `declared`."""
        operation = Operation(method=method, rule=rule, role=role, **declared)

        def decorate(view: View) -> View:
            documented = self.doc(**describe(view, operation, GUARD))(view)
            complete_answers(documented._apidoc, operation)  # noqa: SLF001 - where smorest keeps it
            self._views[view.__name__] = documented, rule
            self.operations[view.__name__] = operation
            guarded = _guarded(documented, operation, self._views, self._retold)
            self.route(rule, methods=[method], parameters=path_parameters(rule))(guarded)
            return view

        return decorate

    def shows_again(self, view_name: str) -> Callable[[View], View]:
        """Show a retry of `view_name` what it has made, where reading that shows less."""

        def decorate(view: View) -> View:
            self._retold[view_name] = view
            return view

        return decorate

    def arguments(self, schema: type[Schema], *, location: str = "json", **documented: Any) -> Callable[[View], View]:
        """As smorest's; a body of which nothing is required may be left out."""
        if location == "json":
            documented["required"] = any(field.required for field in schema().fields.values())
        decorator: Callable[[View], View] = super().arguments(schema, location=location, **documented)
        return decorator

    def response(
        self, status_code: int, schema: type[Schema] | dict[str, Any] | None = None, **documented: Any
    ) -> Callable[[View], View]:
        """As smorest's, with an example if it can be made; a page brings the links that lead on."""
        if isinstance(schema, type):
            documented.setdefault("example", example_of(schema()))
            if issubclass(schema, PageSchema):
                documented.setdefault("headers", PAGED)
        decorator = super().response(status_code, schema, **documented)

        def decorate(view: View) -> View:
            @wraps(view)
            def with_links(*arguments: Any, **named: Any) -> Any:
                answer = view(*arguments, **named)
                return (answer, {"Link": links_of(answer)}) if isinstance(answer, Page) else answer

            decorated: View = decorator(with_links)
            return decorated

        return decorate

    def _prepare_arguments_doc(self, doc: Any, doc_info: Any, **kwargs: Any) -> Any:
        # smorest would document its own error body for a 422; describe() has documented ours.
        doc_info.get("arguments", {}).pop("responses", None)
        return super()._prepare_arguments_doc(doc, doc_info, **kwargs)


def _guarded(view: View, operation: Operation, views: dict[str, tuple[View, str]], retold: dict[str, View]) -> View:
    arguments = getattr(view, "_apidoc", {}).get("arguments", {}).get("parameters", [])
    takes_body = any(argument["in"] == "json" for argument in arguments)
    queries = [argument["schema"]() for argument in arguments if argument["in"] == "query"]
    known = [field.data_key or name for query in queries for name, field in query.fields.items()]

    @wraps(view)
    def guarded(**path: str) -> Any:
        operator = _operator(operation)
        operator.require(operation.role, whole_workspace=operation.is_for_whole_workspace)
        _check_query(known)
        if operation.method == "POST" and "Idempotency-Key" in request.headers:
            operator = replace(operator, request=_idempotent_request())
        if not takes_body:
            refuse_members()
        try:
            return view(operator, **path)
        except AlreadyDoneError as done:
            if operation.shown_by is None:  # pragma: no cover - a wiring mistake, found by tests/architecture
                raise
            shown_by, rule = views[operation.shown_by]
            shown_by = retold.get(view.__name__, shown_by)
            return _shown_again(done, partial(shown_by, replace(operator, request=None)), rule, path)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(_OUTCOME_UNKNOWN) from error

    guarded.guard = GUARD  # type: ignore[attr-defined]
    guarded.operation = operation  # type: ignore[attr-defined]
    return guarded


def _operator(operation: Operation) -> Operator:
    context = current_context()

    def admit(identity: Identity) -> Database | None:
        g.body_owner = identity.workspace_id
        g.allowance = context.management.rate_limiter.admit(identity, is_urgent=operation.is_urgent)
        return urgent_database(identity.public_id) if operation.is_urgent else None

    return authenticate(
        request.headers.get("Authorization"),
        context.credentials,
        context.management.database,
        admit=admit,
        request_id=request_id(),
        address=remote_address() or None,
    )


def _idempotent_request() -> IdempotentRequest:
    key = read_idempotency_key(request.headers.get("Idempotency-Key"))
    told_apart = f"{request.method} {request.full_path}\n".encode() + _content_of(body_of_request())
    return IdempotentRequest(
        key=key or "",
        fingerprint=hashlib.sha256(told_apart).digest(),
        ttl_seconds=current_context().settings.idempotency_ttl_seconds,
    )


def _content_of(body: bytes) -> bytes:
    """The same for the same content, as on ingest: neither order nor white space of a body make it another one."""
    try:
        document = read_object(body or b"{}")
    except Refusal:
        return body  # whatever cannot be read is refused further on, before its key is claimed
    return body if document.faults else fingerprint(document.values)


def _shown_again(done: AlreadyDoneError, show: View, rule: str, path: dict[str, str]) -> Response:
    """What the first of these requests has made or changed, as it is now; with the status of the first one."""
    if done.credential_id is not None:
        raise CredentialAlreadyShown(
            f"This request was carried out before and issued {done.credential_id}, which is shown once only."
            " If its answer was lost, revoke it and issue another one with a new Idempotency-Key."
        )
    if done.object_id is None:
        response: Response = show(**path)
    else:
        try:
            response = show(done.object_id)
        except NotFound:
            raise Conflict(
                f"This request was carried out before and created {done.object_id}, which is archived by now."
                " To create another one, send a new Idempotency-Key."
            ) from None
        response.status_code = 201
        response.headers["Location"] = re.sub("<[^>]+>", done.object_id, rule)
    response.headers["Idempotent-Replayed"] = "true"
    return response


def _check_query(known: list[str]) -> None:
    """A parameter that is unknown or came twice would be ignored in silence."""
    unknown = [name for name in request.args if name not in known]
    repeated = [name for name in known if len(request.args.getlist(name)) > 1]
    faults = [Fault(f"/{pointer_token(name)}", "This parameter is not known.") for name in unknown]
    faults += [Fault(f"/{name}", "This parameter is given more than once.") for name in repeated]
    if faults:
        raise SchemaValidationFailed(faults=tuple(faults))


def _complete(response: Response) -> Response:
    # A tenant's data, and in one answer a secret; and last_used_at moves without the ETag.
    response.cache_control.no_store = True
    if "allowance" in g:  # a refusal for the rate brings its own
        response.headers.update(g.allowance.headers)
    return response
