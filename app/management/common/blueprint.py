"""The decorators on a route of the control plane. No view of a ManagementBlueprint is served without its guard."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, Final, Unpack

from flask_smorest import Blueprint
from marshmallow import Schema

from app.errors import OutcomeUnknown
from app.management.common import guard
from app.management.common.idempotency import AlreadyDoneError
from app.management.common.openapi import describe, example_of, headers_of, path_parameters
from app.management.common.operation import GUARD, Declared, Operation
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page
from app.management.common.parsing import JsonParser
from app.management.common.replay import replay
from app.management.common.responses import links_of

View = Callable[..., Any]

_OUTCOME_UNKNOWN: Final = (
    "The database was lost while it committed: the change may have been made or not. Read before you repeat."
)


@dataclass(slots=True)
class _Signature:
    """What the decorators below `operation` have said of a view."""

    query_names: list[str] = field(default_factory=list)
    takes_body: bool = False
    statuses: list[int] = field(default_factory=list)


class ManagementBlueprint(Blueprint):  # type: ignore[misc]
    """A blueprint whose views take a management token, and its Operator as their first argument."""

    ARGUMENTS_PARSER = JsonParser()

    def __init__(self, name: str, import_name: str, *, description: str) -> None:
        super().__init__(name, import_name, description=description)
        self.operations: dict[str, Operation] = {}
        """By the names of their views."""
        self._signatures: defaultdict[str, _Signature] = defaultdict(_Signature)
        self._views: dict[str, View] = {}
        self._replay_views: dict[str, View] = {}
        self.after_request(guard.complete)

    def operation(self, method: str, rule: str, *, role: Role, **declared: Unpack[Declared]) -> Callable[[View], View]:
        """Serve `rule` with the view, guarded and documented. The outermost decorator.

        An id that a producer has chosen may hold slashes: `<path:name>`.
        """
        operation = Operation(method=method, rule=rule.replace("<path:", "<"), role=role, **declared)

        def decorate(view: View) -> View:
            self.operations[view.__name__] = operation
            self._views[view.__name__] = view
            described = describe(view, operation, self._signatures[view.__name__].statuses)
            served = self.doc(**described)(self._guarded(view, operation))
            self.route(rule, methods=[method], parameters=path_parameters(rule))(served)
            return view

        return decorate

    def shows_again(self, view_name: str) -> Callable[[View], View]:
        """Answer a retry of `view_name` with this view, where its `shown_by` shows less than the first response."""

        def decorate(view: View) -> View:
            self._replay_views[view_name] = view
            return view

        return decorate

    def arguments(self, schema: type[Schema], *, location: str = "json", **documented: Any) -> Callable[[View], View]:
        """As smorest's; a body of which nothing is required may be left out."""
        members = schema().fields
        if location == "json":
            documented["required"] = any(each.required for each in members.values())
        decorator = super().arguments(schema, location=location, **documented)

        def decorate(view: View) -> View:
            signature = self._signatures[view.__name__]
            if location == "json":
                signature.takes_body = True
            else:
                signature.query_names += [each.data_key or name for name, each in members.items()]
            decorated: View = decorator(view)
            return decorated

        return decorate

    def response(
        self, status_code: int, schema: type[Schema] | dict[str, Any] | None = None, **documented: Any
    ) -> Callable[[View], View]:
        """As smorest's, with an example and the headers of `schema`; a page gets a link to the next one."""
        if isinstance(schema, type):
            documented = {"example": example_of(schema()), "headers": headers_of(schema, status_code)} | documented
        decorator = super().response(status_code, schema, **documented)

        def decorate(view: View) -> View:
            self._signatures[view.__name__].statuses.append(status_code)

            @wraps(view)
            def with_links(*arguments: Any, **named: Any) -> Any:
                shown = view(*arguments, **named)
                return (shown, {"Link": links_of(shown.next_cursor)}) if isinstance(shown, Page) else shown

            decorated: View = decorator(with_links)
            return decorated

        return decorate

    def alt_response(self, status_code: int, schema: type[Schema], description: str) -> Callable[[View], View]:
        """A further success, which the view answers with a Response; as smorest's, with an example and all headers."""
        decorator = super().alt_response(
            status_code, schema=schema, description=description, example=example_of(schema())
        )

        def decorate(view: View) -> View:
            self._signatures[view.__name__].statuses.append(status_code)
            decorated: View = decorator(view)
            return decorated

        return decorate

    def _guarded(self, view: View, operation: Operation) -> View:
        signature = self._signatures[view.__name__]

        @wraps(view)
        def guarded(**path: str) -> Any:
            operator = guard.admit(operation, query_names=signature.query_names, takes_body=signature.takes_body)
            try:
                return view(operator, **path)
            except AlreadyDoneError as done:
                return self._replay(done, view.__name__, operator, path)
            except OutcomeUnknown as error:
                raise OutcomeUnknown(_OUTCOME_UNKNOWN) from error

        guarded.guard = GUARD  # type: ignore[attr-defined]
        guarded.operation = operation  # type: ignore[attr-defined]
        return guarded

    def _replay(self, done: AlreadyDoneError, view_name: str, operator: Operator, path: dict[str, str]) -> Any:
        shown_by = self.operations[view_name].shown_by
        if shown_by is None:  # pragma: no cover - a wiring mistake, found by tests/architecture
            raise done
        show = partial(self._replay_views.get(view_name, self._views[shown_by]), replace(operator, request=None))
        return replay(done, show, self.operations[shown_by].rule, path)
