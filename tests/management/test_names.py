# ruff: noqa: RUF001 - names of all scripts
"""What names, labels and descriptions may hold."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.management.common.names import read_description, read_environment_name, read_label, read_name
from tests.support.operating import ApiClient
from tests.support.sending import pointers_of

_INVISIBLE = ["\0", "\a", "\n", "\t", "\x7f", "\x85", "\u200b", "\ufeff", "\u00ad", "\u2028", "\ue000", "\ud800"]
# Without a glyph, though str.isprintable() takes them for printable.
_WITHOUT_GLYPH = ["\u034f", "\u115f", "\u180b", "\u2800", "\u3164", "\U000e0100"]
_WITHOUT_GLYPH += ["\U0001107f", "\U00013441", "\U00013442", "\U00016fe4", "\U0001d159"]
_TURNING = ["\u200e", "\u200f", "\u061c", "\u202a", "\u202e", "\u2066", "\u2069"]


@pytest.mark.parametrize("name", ["a", "x" * 200, "Smith & Söhne", "店铺", "Καφές", "🛒", "O'Brien; DROP", "{name}"])
def test_what_people_can_read_is_a_name(name: str) -> None:
    assert read_name(name) == name


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "a  b", "\u00a0a", "a\u2003b", "x" * 201, "x" * 1_000_000])
def test_nothing_too_much_or_white_space_around_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"^Must "):
        read_name(name)


@pytest.mark.parametrize("character", _INVISIBLE + _WITHOUT_GLYPH + _TURNING)
def test_a_name_holds_nothing_that_cannot_be_seen_or_turns_the_writing(character: str) -> None:
    for read in (read_name, read_label, read_environment_name):
        with pytest.raises(ValueError, match=r"^Must "):
            read(f"a{character}b")


_IDLE_SELECTORS = [
    "\ufe0f",
    "shop\ufe0f",
    "1\ufe0f",
    "\u5e97\ufe00",
    "e\u0328\ufe0f",
    "a \ufe0fb",
    "\ufe0fshop",
    "\u2764\ufe0f\ufe0f",
]


@pytest.mark.parametrize("name", [*_IDLE_SELECTORS, *_WITHOUT_GLYPH, "\ufe0f\u20e3"])
def test_two_names_that_look_the_same_are_not_told_apart_by_an_invisible_character(name: str) -> None:
    for read in (read_name, read_label):
        with pytest.raises(ValueError, match=r"^Must "):
            read(name)


@pytest.mark.parametrize("name", ["\u0301", "\u0301a", "a \u0301b", "\u20e3", "\u0903x"])
def test_an_accent_stands_on_a_letter(name: str) -> None:
    for read in (read_name, read_label):
        with pytest.raises(ValueError, match="combining mark"):
            read(name)


# Whole words and sentences in the scripts that customers write, with their accents, and what stands between words.
_ORDINARY = [
    *("Zażółć gęślą jaźń", "Größe", "ñandú’s", "Việt Nam", "Ångström", "ʻōkina", "İstanbul", "e\u0328\u0301"),
    *("Магазин", "Їжак", "Καφές", "Ἀθῆναι", "Երևան և", "თბილისი", "שלום", "العربية", "فارسی", "हिन्दी", "தமிழ்"),
    *("น้ำแข็ง", "ນ້ຳ", "ໜັງສື", "မြန်မာ", "ខ្មែរ", "བོད་ཡིག", "አማርኛ", "日本語", "カタカナ", "简体中文", "한국어", "ᏣᎳᎩ"),
    *("IT-отдел", "1С Bitrix", "USB кабель", "Alpha α", "10 °C", "50 %", "C++", "R&D / QA", "a_b", "“x”", "x – y"),
    *("❤️ Shop", "1️⃣", "👍🏽", "🇩🇪", "★", "→", "♥︎", "\u2139\ufe0f", "#️⃣", "*️⃣", "ร้านshop", "東京Tokyo", "Shopサイト"),
]


@pytest.mark.parametrize("name", _ORDINARY)
def test_ordinary_writing_of_any_script_is_a_name_and_a_label(name: str) -> None:
    kept = unicodedata.normalize("NFC", name)
    assert read_name(name) == read_label(name) == kept


def test_a_name_is_counted_as_it_is_kept() -> None:
    assert read_name("e\u0301" * 200) == "\u00e9" * 200
    with pytest.raises(ValueError, match="200"):
        read_name("\u0958" * 101)  # one of the few whose composed form is longer


@given(st.text(max_size=300))
def test_a_kept_name_is_its_own_reading(text: str) -> None:
    try:
        kept = read_name(text)
    except ValueError:
        return
    assert read_name(kept) == kept
    assert kept == kept.strip()
    assert 1 <= len(kept) <= 200


def test_a_label_may_be_empty() -> None:
    assert read_label("") == ""


_KEPT = ["", "x" * 2_000, "One\nTwo\r\nThree", " \u00a0 ", "e\u0301", "\u0646\u200c\u0647", "👩\u200d🔧"]


@pytest.mark.parametrize("text", _KEPT)
def test_a_description_is_kept_as_it_came(text: str) -> None:
    assert read_description(text) == text


@pytest.mark.parametrize("character", ["\0", "\a", "\t", "\x1b", "\x7f", "\x85", "\ud800", *_TURNING])
def test_a_description_holds_no_control_characters_but_line_breaks(character: str) -> None:
    with pytest.raises(ValueError, match="control"):
        read_description(f"a{character}b")
    with pytest.raises(ValueError, match="2000"):
        read_description("x" * 2_001)


@pytest.mark.parametrize("name", ["", " a", "x" * 201, "a\tb", "a\u202eb", "\0", "\ud800", None, 1, 1.5, True, [], {}])
def test_a_wrong_name_is_refused_over_http_with_its_place(api: ApiClient, name: object) -> None:
    refused = api.post("/v1/projects", {"name": name, "description": "fine"})

    assert refused.status_code == 422
    assert pointers_of(refused) == {"/name"}
