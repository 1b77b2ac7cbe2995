"""Commits that go wrong, on the thread of the test alone: the application has threads that commit by themselves."""

import threading
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

LOST = OperationalError(
    "COMMIT", {}, psycopg.OperationalError("server closed the connection"), connection_invalidated=True
)


class LossyCommits:
    """The next transactions go wrong, in the order of `plan`: `after` commits and loses the answer, `before` loses the
    request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *plan: str) -> None:
        self.plan = list(plan)
        self.then: Callable[[], None] = lambda: None
        """What happens meanwhile."""
        commit = Session.commit
        here = threading.current_thread()

        def lose(session: Session) -> None:
            how = self.plan.pop(0) if self.plan and threading.current_thread() is here else None
            if how == "before":
                session.rollback()
            else:
                commit(session)
            if how:
                self.then()
                raise LOST

        monkeypatch.setattr(Session, "commit", lose)
