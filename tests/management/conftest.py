"""The operators: Alice owns the workspace, Bob works in it, Charlie is a stranger with one of his own."""

import pytest
from flask import Flask

from app.context import Context
from tests.support.operating import ApiClient, api_of, colleague_of
from tests.support.people import Tenant


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    """Alice's."""
    return api_of(app, alice)


@pytest.fixture(name="bob")
def _bob(app: Flask, context: Context, alice: Tenant) -> ApiClient:
    return colleague_of(app, context, alice)


@pytest.fixture(name="stranger")
def _stranger(app: Flask, charlie: Tenant) -> ApiClient:
    """Charlie's."""
    return api_of(app, charlie)
