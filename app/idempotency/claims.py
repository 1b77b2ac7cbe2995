"""A claim: a row that a request inserts into a unique index, in its transaction, before anything else is written.

Two requests with one key wait for each other in the index; a crash or a refusal rolls the claim back. An expired claim
that is not purged yet is overwritten.
"""

from collections.abc import Mapping, Sequence

from app.errors import IdempotencyKeyReused


def claim_statement(
    table: str, key: Sequence[str], given: Sequence[str], constants: Mapping[str, str], now: str
) -> str:
    """The statement that claims a key; it returns a row if the request has the claim now.

    Its parameters (psycopg's %s), in order: the columns of the unique `key`, those `given`, and how long the claim is
    valid. `constants` are SQL expressions by column. `now` is the SQL expression for the moment of the claim.
    """
    columns = (*key, *given, *constants, "created_at", "expires_at")
    values = (*["%s"] * (len(key) + len(given)), *constants.values(), now, f"{now} + %s")
    changed = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in key)
    return (
        f"INSERT INTO {table} AS claim ({', '.join(columns)}) VALUES ({', '.join(values)})"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
        " WHERE claim.expires_at <= excluded.created_at RETURNING 1"
    )


def require_same_content(recorded: bytes, fingerprint: bytes) -> None:
    """Raises IdempotencyKeyReused if the key stands for a request with other content."""
    if bytes(recorded) != fingerprint:
        raise IdempotencyKeyReused
