"""What every operation of the control plane checks before its view runs: credential, rate, role, query, body."""

from dataclasses import replace

from flask import Response, g, request

from app.context import current_context, management_database
from app.credentials.verification import Identity
from app.database.engine import Database
from app.errors import Fault, SchemaValidationFailed
from app.management.common.authentication import authenticate, token_in
from app.management.common.operation import Operation
from app.management.common.operators import Operator
from app.management.common.parsing import refuse_members
from app.management.common.replay import stated_request
from app.web.request_log import remote_address, request_id
from app.wire.exact_json import pointer_token


def admit(operation: Operation, *, query_names: list[str], takes_body: bool) -> Operator:
    """The caller of this request, which may go ahead; its Idempotency-Key is on the Operator. Raises a Refusal."""
    operator = _authenticate(operation)
    operator.require(operation.role, whole_workspace=operation.is_for_whole_workspace)
    _check_query(query_names)
    if operation.method == "POST" and operation.is_change and "Idempotency-Key" in request.headers:
        operator = replace(operator, request=stated_request())
    if not takes_body:
        refuse_members()
    return operator


def complete(response: Response) -> Response:
    """Add the headers that every response of the control plane carries."""
    # A response holds a tenant's data, one of them a secret; and last_used_at changes without the ETag.
    response.cache_control.no_store = True
    if "allowance" in g:  # a refusal for the rate has these headers already
        response.headers.update(g.allowance.headers)
    return response


def _authenticate(operation: Operation) -> Operator:
    context = current_context()
    management = context.management

    def admit_identity(identity: Identity) -> Database:
        g.identity = identity
        g.body_owner = identity.workspace_id
        g.allowance = management.rate_limiter.admit(identity, is_urgent=operation.is_urgent)
        g.database = management.database
        if operation.is_urgent:
            g.database = context.database.share(management.urgent, identity.public_id)
        return management_database()

    header = request.headers.get("Authorization")
    with context.other_cells.naming_theirs(token_in(header)):
        return authenticate(
            header,
            context.credentials,
            management.database,
            admit=admit_identity,
            request_id=request_id(),
            address=remote_address() or None,
        )


def _check_query(known: list[str]) -> None:
    """Refuse an unknown or repeated parameter, which would otherwise be ignored in silence."""
    faults = [
        Fault(f"/{pointer_token(name)}", "This parameter is not known.") for name in request.args if name not in known
    ]
    faults += [
        Fault(f"/{name}", "This parameter is given more than once.")
        for name in known
        if len(request.args.getlist(name)) > 1
    ]
    if faults:
        raise SchemaValidationFailed(faults=tuple(faults))
