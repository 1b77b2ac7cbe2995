"""How operations of the control plane lead to each other in the OpenAPI document: what one answer shows, others take.

An operation whose answer shows a new object leads to all operations on that object, and a list to those on its first
item. Nobody writes a link by hand: what shows a new object is declared as `shown_by`, the rest stands in the rules.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from apispec import BasePlugin

from app.management.common.openapi import operation_id
from app.management.common.operation import Operation

_PARAMETER: Final = re.compile(r"<([^>]+)>")
# /v1/projects/<project_id> : the items of `projects` are told apart by project_id.
_ITEM: Final = re.compile(r".*/([a-z]+)/<([^>]+)>")


class Links(BasePlugin):
    """Adds the links to every operation that leads on."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        """`operations` by the names of their views."""
        super().__init__()
        self._operations = {operation_id(view_name): operation for view_name, operation in operations.items()}
        self._rules = {view_name: operation.rule for view_name, operation in operations.items()}
        items = filter(None, (_ITEM.fullmatch(rule) for rule in self._rules.values()))
        self._parameters = {item[1]: item[2] for item in items}

    def operation_helper(
        self,
        path: str | None = None,  # noqa: ARG002 - apispec's own signature
        operations: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Called for every path of the document while it is put together."""
        for documented in (operations or {}).values():
            operation = self._operations.get(documented.get("operationId", ""))
            if operation is None:
                continue
            responses = {str(status): answer for status, answer in documented["responses"].items()}
            if operation.shown_by is not None and "201" in responses:
                (parameter,) = _PARAMETER.findall(self._rules[operation.shown_by])[-1:]
                responses["201"]["links"] = self._on(parameter, "$response.body#/id", "$response.header.ETag")
            elif operation.method == "GET" and (parameter := self._item_of(operation.rule)) is not None:
                responses["200"]["links"] = self._on(parameter, "$response.body#/data/0/id", "*")

    def _item_of(self, rule: str) -> str | None:
        return self._parameters.get(rule.rpartition("/")[2])

    def _on(self, parameter: str, public_id: str, etag: str) -> dict[str, Any]:
        """Links to all operations on the object; `public_id` and `etag` are runtime expressions."""
        return {
            name: {
                "operationId": name,
                "parameters": {parameter: public_id} | ({"If-Match": etag} if operation.needs_condition else {}),
            }
            for name, operation in self._operations.items()
            if parameter in _PARAMETER.findall(operation.rule)
        }
