"""Mints what a request of the management API issues, before the transaction that stores it."""

from collections.abc import Callable

from sqlalchemy.orm import Session

from app.credentials.format import Kind
from app.credentials.verification import Credentials, Minted
from app.database.engine import Database
from app.errors import Refusal
from app.management.common.idempotency import refuse_repeated
from app.management.common.operators import Operator


def mint_for(
    database: Database,
    credentials: Credentials,
    operator: Operator,
    kind: Kind,
    require: Callable[[Session], object] = lambda _: None,
) -> Minted:
    """A new credential; argon2 runs outside any transaction.

    It takes 20 ms of a core, so what is refused anyway is refused before: a request that was carried out already, as
    claim() does, and whatever `require` refuses. Both are judged again in the transaction that stores.
    Raises StorageUnavailable when argon2 is busy with as many others as it may be.
    """
    with database.transaction(operator.workspace_id) as session:
        try:
            require(session)
        except Refusal:
            # The same request may just have been carried out by another thread: then that is the reason.
            refuse_repeated(session, operator)
            raise
        refuse_repeated(session, operator)
    return credentials.mint(kind, operator.workspace_id)
