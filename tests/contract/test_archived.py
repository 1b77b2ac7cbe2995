"""What a fuzzing run has archived: schemathesis does not know that `POST …/restore` undoes it."""

import pytest

from contract.archived import Archived

_SHOP = "/v1/projects/prj_shop"


@pytest.fixture(name="archived")
def _archived() -> Archived:
    """A run that has archived the shop."""
    archived = Archived()
    archived.record("DELETE", _SHOP, 204, is_replayed=False)
    return archived


@pytest.mark.parametrize("path", [_SHOP, f"{_SHOP}/environments", f"{_SHOP}/usage/more"])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_what_was_archived_is_not_there_any_more_nor_what_lies_below_it(
    archived: Archived, method: str, path: str
) -> None:
    assert archived.forbids(method, path, deleted=_SHOP)


def test_until_it_is_restored_and_again_once_it_is_archived_again(archived: Archived) -> None:
    archived.record("POST", f"{_SHOP}/restore", 200, is_replayed=False)
    assert not archived.forbids("GET", _SHOP, deleted=_SHOP)

    archived.record("DELETE", _SHOP, 204, is_replayed=False)
    assert archived.forbids("GET", _SHOP, deleted=_SHOP)


@pytest.mark.parametrize(
    ("path", "status", "is_replayed"),
    [(_SHOP, 200, True), (_SHOP, 404, False), (_SHOP, 409, False), ("/v1/projects/prj_other", 200, False)],
)
def test_a_restore_that_was_refused_repeated_or_of_something_else_brings_nothing_back(
    archived: Archived, path: str, status: int, *, is_replayed: bool
) -> None:
    archived.record("POST", f"{path}/restore", status, is_replayed=is_replayed)

    assert archived.forbids("GET", _SHOP, deleted=_SHOP)


def test_a_refused_archiving_takes_nothing_away() -> None:
    archived = Archived()
    archived.record("DELETE", _SHOP, 412, is_replayed=False)

    assert not archived.forbids("GET", _SHOP, deleted=_SHOP)


def test_the_usage_of_what_is_archived_is_still_there(archived: Archived) -> None:
    archived.record("DELETE", "/v1/sources/src_1", 204, is_replayed=False)

    assert not archived.forbids("GET", f"{_SHOP}/usage", deleted=_SHOP)
    assert not archived.forbids("GET", "/v1/sources/src_1/usage", deleted="/v1/sources/src_1")
