"""Keys and tokens as text: their form and their checksum."""

import re

import pytest
from argon2 import PasswordHasher, profiles
from hypothesis import given
from hypothesis import strategies as st

from app.credentials.format import Kind
from app.credentials.verification import Credentials

_SECRET, _OLD_SECRET = "s" * 40, "o" * 40


@pytest.mark.parametrize("kind", ["sk", "mt"])
def test_a_credential_is_one_word_that_names_its_kind_and_key_id(kind: Kind) -> None:
    minted = Credentials((_SECRET,), argon2_runs_max=1).mint(kind)

    assert re.fullmatch(rf"lrb_{kind}_{minted.key_id}_[0-9A-Za-z]{{43}}", minted.text)
    assert minted.secret_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@given(place=st.integers(0, 66), character=st.sampled_from("0123456789AZaz_- \n"))
def test_a_credential_with_any_character_changed_is_not_ours(place: int, character: str) -> None:
    text = _FIXED
    changed = text[:place] + character + text[place + 1 :]

    assert (_CREDENTIALS.parse(changed, "sk") is not None) == (changed == text)


@pytest.mark.parametrize("kind", ["sk", "mt"])
def test_a_credential_of_the_other_kind_is_not_ours(kind: Kind) -> None:
    other: Kind = "mt" if kind == "sk" else "sk"

    assert _CREDENTIALS.parse(_CREDENTIALS.mint(kind).text, other) is None


def test_after_a_rotation_of_the_servers_secret_old_credentials_still_parse_and_new_ones_are_signed_anew() -> None:
    old, both, new = (_of(*secrets) for secrets in ((_OLD_SECRET,), (_SECRET, _OLD_SECRET), (_SECRET,)))

    assert both.parse(old.mint("sk").text, "sk")
    assert new.parse(both.mint("sk").text, "sk")
    assert new.parse(old.mint("sk").text, "sk") is None


def test_a_checksum_that_an_earlier_release_made_is_still_right() -> None:
    assert _CREDENTIALS.parse("lrb_sk_0123456789abcdef_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgKloiNHlEpU", "sk")


def test_a_digest_that_an_earlier_release_made_is_still_right() -> None:
    credential = _CREDENTIALS.parse("lrb_sk_0123456789abcdef_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgKloiNHlEpU", "sk")

    assert credential is not None
    assert credential.digest.hex() == "712cd902653be1a396e723360f0feb889e6856e979a9089d6a1f2b6b8075d509"


def _of(*secrets: str) -> Credentials:
    return Credentials(secrets, argon2_runs_max=1, hasher=PasswordHasher.from_parameters(profiles.CHEAPEST))


_CREDENTIALS = _of(_SECRET)
_FIXED = _CREDENTIALS.mint("sk").text
