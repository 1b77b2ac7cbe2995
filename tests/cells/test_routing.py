"""The map for proxies: which credentials are in another cell than their letters say, and what each proxy reads."""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from app.cells.routing import BETWEEN, FORMATS, read_exceptions
from app.config import Settings
from app.credentials.format import KEY_ID
from tests.support.cells import Cell, cells, tenant_with_letters
from tests.support.people import Tenant, make_tenant


@pytest.fixture(name="pair")
def _pair(server_url: str, migrated: Settings) -> Iterator[list[Cell]]:
    with cells(server_url, migrated, "eu1", "us1") as pair:
        yield pair


def _ids(*tenants: Tenant) -> set[str]:
    return {credential[: KEY_ID.stop] for each in tenants for credential in (each.key, each.token)}


@pytest.mark.parametrize("first", [0, 1])
def test_what_the_letters_do_not_say_is_an_exception(pair: list[Cell], first: int) -> None:
    """Ids without letters are none in the first cell, which gets them anyway."""
    in_order = [pair[first].settings, pair[1 - first].settings]
    for cell in pair:
        make_tenant(cell.context)
    astray = [tenant_with_letters(pair[0], "us1"), tenant_with_letters(pair[1], "eu1")]
    # Neighbours of the letters, from the beginning and the end of what ids can be.
    of_none = [[tenant_with_letters(cell, letters) for letters in ("000", "eu0", "us2", "zzz")] for cell in pair]

    exceptions = read_exceptions(in_order)

    assert set(exceptions) == _ids(*astray, *of_none[1 - first])
    assert {exceptions[each] for each in _ids(astray[0])} == {"eu1"}
    assert {exceptions[each] for each in _ids(astray[1])} == {"us1"}
    assert list(exceptions) == sorted(exceptions)


def test_exceptions_are_looked_up_in_the_indexes_of_ids(pair: list[Cell]) -> None:
    with pair[0].context.database.engine.begin() as connection:
        # The tables are nearly empty.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        found = connection.execute(text(f"EXPLAIN {BETWEEN.text}"), {"first": "us1", "behind": "us2"})
        plan = "\n".join(found.scalars())

    for table in ("source_keys", "management_tokens"):
        assert re.search(rf"uq_{table}_public_id.*\n *Index Cond: .*>= .*us1.* < .*us2", plan), plan


EXCEPTIONS = {"lrb_mt_us1aaaaaaaaaaaaa": "eu1", "lrb_sk_us1aaaaaaaaaaaaa": "eu1"}


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (
            "nginx",
            """
            default eu1;
            ~^lrb_(?:sk|mt)_eu1 eu1;
            ~^lrb_(?:sk|mt)_us1 us1;
            lrb_mt_us1aaaaaaaaaaaaa eu1;
            lrb_sk_us1aaaaaaaaaaaaa eu1;
            """,
        ),
        (
            "haproxy",
            """
            lrb_ eu1
            lrb_sk_eu1 eu1
            lrb_mt_eu1 eu1
            lrb_sk_us1 us1
            lrb_mt_us1 us1
            lrb_mt_us1aaaaaaaaaaaaa eu1
            lrb_sk_us1aaaaaaaaaaaaa eu1
            """,
        ),
    ],
)
def test_each_proxy_gets_its_own_lines(form: str, lines: str) -> None:
    assert list(FORMATS[form](["eu1", "us1"], EXCEPTIONS)) == [line.strip() for line in lines.strip().splitlines()]
