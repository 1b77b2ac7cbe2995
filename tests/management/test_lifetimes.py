"""The moment at which a key or token is over: that of its expiry itself, for every reader of the same moment."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from app.context import Context
from app.management.common.lifetimes import CredentialState, expires_within, is_in, is_unused_for, state_at
from app.models import SourceKey
from tests.support.people import Tenant

_AT = datetime(2026, 6, 1, 10, tzinfo=UTC)
_MOMENT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("expires_at", "revoked_at", "state"),
    [
        (None, None, "active"),
        (_AT + _MOMENT, None, "active"),
        (_AT, None, "expired"),
        (_AT - _MOMENT, None, "expired"),
        (_AT + _MOMENT, _AT, "revoked"),
        (_AT, _AT, "revoked"),
    ],
)
def test_at_the_moment_of_its_expiry_a_credential_is_expired(
    expires_at: datetime | None, revoked_at: datetime | None, state: str
) -> None:
    assert state_at(_AT, expires_at=expires_at, revoked_at=revoked_at) == state


def _is(context: Context, tenant: Tenant, column: str, moment: str, condition: Any) -> bool:
    """Whether the tenant's key meets the condition when this column is exactly that far from now.

    now() stands still within a transaction, so the two are compared at the very moment.
    """
    with context.database.transaction(tenant.workspace_row) as session:
        at = text(f"UPDATE source_keys SET {column} = now() + CAST(:moment AS interval) WHERE id = :id")
        session.execute(at, {"moment": moment, "id": tenant.key_row})
        return session.scalars(SourceKey.within(tenant.workspace_row).where(condition)).one_or_none() is not None


@pytest.mark.parametrize(
    ("moment", "state"), [("0", "expired"), ("-1 microsecond", "expired"), ("1 microsecond", "active")]
)
def test_a_list_divides_them_at_the_same_moment(context: Context, alice: Tenant, moment: str, state: str) -> None:
    found = {each for each in CredentialState if _is(context, alice, "expires_at", moment, is_in(each, SourceKey))}

    assert found == {state}


def test_expires_within_days_counts_the_last_moment_of_the_last_day(context: Context, alice: Tenant) -> None:
    moments = ("0", "1 microsecond", "5 days", "5 days 1 microsecond")
    found = [_is(context, alice, "expires_at", moment, expires_within(5, SourceKey)) for moment in moments]

    assert found == [False, True, True, False]


def test_a_key_is_unused_for_days_from_their_last_moment_on(context: Context, alice: Tenant) -> None:
    moments = ("-5 days 1 microsecond", "-5 days")
    found = [_is(context, alice, "last_used_at", moment, is_unused_for(5, SourceKey)) for moment in moments]

    assert found == [False, True]
