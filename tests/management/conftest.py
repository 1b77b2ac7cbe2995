"""The operators: Alice owns the workspace, Bob works in it, Charlie is a stranger with one of his own."""

import pytest
from flask import Flask

from app.context import Context
from tests.support.operating import Desk, colleague_of, desk_of
from tests.support.people import Tenant


@pytest.fixture(name="desk")
def _desk(app: Flask, alice: Tenant) -> Desk:
    """Alice's."""
    return desk_of(app, alice)


@pytest.fixture(name="bob")
def _bob(app: Flask, context: Context, alice: Tenant) -> Desk:
    return colleague_of(app, context, alice)


@pytest.fixture(name="stranger")
def _stranger(app: Flask, charlie: Tenant) -> Desk:
    """Charlie's."""
    return desk_of(app, charlie)
