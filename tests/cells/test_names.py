"""The names of cells: what they may be, where they stand in ids, and which row ids they give."""

import itertools

import pytest

from app.cells.names import named_in, read_name, row_ids


@pytest.mark.parametrize("text", ["", "eu", "eu10", "1eu", "Eu1", "eu_", "e-1", "eu1\n", "éu1"])
def test_other_texts_name_no_cell(text: str) -> None:
    with pytest.raises(ValueError, match="names no cell"):
        read_name(text)


@pytest.mark.parametrize(
    ("credential", "name"),
    [
        ("lrb_sk_eu1aaaaaaaaaaaaa_secret", "eu1"),
        ("lrb_mt_us2aaaaaaaaaaaaa_secret", "us2"),
        ("key_eu1aaaaaaaaaaaaa", "eu1"),
        ("tok_us2aaaaaaaaaaaaa", "us2"),
        ("", ""),
        ("lrb_sk_", ""),
        ("eu1", ""),
    ],
)
def test_a_credential_and_its_id_begin_with_the_name(credential: str, name: str) -> None:
    assert named_in(credential) == name


def test_no_two_cells_have_a_row_id_in_common_and_a_cell_without_a_name_has_the_first_four_billion() -> None:
    ranges = [row_ids(name) for name in ("aaa", "aab", "ab0", "eu1", "eu2", "us1", "z99")]

    assert ranges[0].start == 1 << 32
    assert all(one.stop <= other.start for one, other in itertools.pairwise(sorted(ranges, key=lambda r: r.start)))


def test_a_row_id_leaves_an_advisory_lock_its_sixteen_bits() -> None:
    assert row_ids("z99").stop <= 1 << 48
