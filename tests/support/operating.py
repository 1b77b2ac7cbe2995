"""Calls the management API as an operator would."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any, TypeVar

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from app.management.common.authentication import authenticate
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken, issue_token
from tests.support.people import Tenant

Value = TypeVar("Value")

UNKNOWN_ID = "nobody0000000000"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


@dataclass(frozen=True, slots=True)
class ApiClient:
    """A client of the management API; every call carries one operator's token."""

    client: FlaskClient
    token: str = field(repr=False)

    def call(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str | None] | None = None, **raw: Any
    ) -> TestResponse:
        """`body` is sent as JSON; `data` and `content_type` are sent as they are.

        A PATCH means any state, unless `headers` say which one; a header of None is not sent.
        """
        if body is not None:
            raw |= {"data": json.dumps(body), "content_type": "application/json"}
        sent = {"Authorization": f"Bearer {self.token}", "If-Match": "*" if method == "PATCH" else None}
        sent |= headers or {}
        given = {name: value for name, value in sent.items() if value is not None}
        return self.client.open(path, method=method, headers=given, **raw)

    def get(self, path: str, **query: Any) -> TestResponse:
        return self.call("GET", path, query_string=query)

    def post(self, path: str, body: Any = None, **rest: Any) -> TestResponse:
        return self.call("POST", path, body, **rest)

    def patch(self, path: str, body: Any = None, **rest: Any) -> TestResponse:
        return self.call("PATCH", path, body, **rest)

    def delete(self, path: str, **rest: Any) -> TestResponse:
        return self.call("DELETE", path, **rest)

    def made(self, path: str, body: Any) -> dict[str, Any]:
        """What a creation answers."""
        response = self.post(path, body)
        assert response.status_code == 201, response.text
        assert isinstance(response.json, dict)
        return response.json

    def all_of(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """A whole list, page after page."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.get(path, **query, **({"cursor": cursor} if cursor else {})).json
            assert page is not None
            found += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found


def api_of(app: Flask, tenant: Tenant) -> ApiClient:
    return ApiClient(app.test_client(), tenant.token)


def colleague_of(app: Flask, context: Context, tenant: Tenant) -> ApiClient:
    """Another operator of the same workspace."""
    return api_with(app, context, tenant, NewToken(role=Role.OWNER, label="colleague"))


def api_with(app: Flask, context: Context, tenant: Tenant, new: NewToken) -> ApiClient:
    """An operator of the same workspace with a token of its own."""
    operator = authenticate(f"Bearer {tenant.token}", context.credentials, context.database)
    issued = issue_token(context.database, context.credentials, operator, new)
    return ApiClient(app.test_client(), issued.token)


def at_once(calls: Iterable[Callable[[], Value]]) -> list[Value]:
    """Make all calls at the same moment, each in a thread of its own; their results, in order."""
    waiting = list(calls)
    barrier = Barrier(len(waiting))

    def run(call: Callable[[], Value]) -> Value:
        barrier.wait(timeout=10)
        return call()

    with ThreadPoolExecutor(len(waiting)) as pool:
        return list(pool.map(run, waiting))
