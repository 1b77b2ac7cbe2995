"""Keys and tokens: their form, their check, and that argon2 runs once per key and process."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher, profiles
from hypothesis import example, given
from hypothesis import strategies as st

from app.credentials.verification import OWASP, Credentials, Identity, Kind, Known
from app.errors import StorageUnavailable
from tests.support.hashers import CountingHasher
from tests.support.waiting import wait_until

_SECRET, _OLD_SECRET = "s" * 40, "o" * 40
_IDENTITY = Identity(public_id="key_7", row_id=7, workspace_id=3)


@pytest.fixture(name="hasher")
def _hasher() -> Iterator[CountingHasher]:
    hasher = CountingHasher()
    yield hasher
    hasher.may_finish.set()


@pytest.mark.parametrize("kind", ["sk", "mt"])
def test_a_credential_is_one_word_that_names_its_kind_and_key_id(kind: Kind) -> None:
    key_id, text, secret_hash = Credentials((_SECRET,), argon2_runs_max=1).mint(kind)

    assert re.fullmatch(rf"lrb_{kind}_{key_id}_[0-9A-Za-z]{{43}}", text)
    assert secret_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_the_secret_stands_in_no_repr(hasher: CountingHasher) -> None:
    credentials = Credentials((_SECRET,), argon2_runs_max=1, hasher=hasher)
    minted = credentials.mint("sk")
    _, text, secret_hash = minted
    credential = credentials.parse(text, "sk")

    shown = repr(minted) + repr(credential) + repr(Known(secret_hash, _IDENTITY)) + repr(credentials)
    assert text[24:] not in shown
    assert text[24:57] not in shown
    assert secret_hash not in shown


@given(place=st.integers(0, 66), character=st.sampled_from("0123456789AZaz_- \n"))
def test_a_credential_with_any_character_changed_is_not_ours(place: int, character: str) -> None:
    text = _FIXED
    changed = text[:place] + character + text[place + 1 :]

    assert (_CREDENTIALS.parse(changed, "sk") is not None) == (changed == text)


@pytest.mark.parametrize("kind", ["sk", "mt"])
def test_a_credential_of_the_other_kind_is_not_ours(kind: Kind) -> None:
    other: Kind = "mt" if kind == "sk" else "sk"

    assert _CREDENTIALS.parse(_CREDENTIALS.mint(kind)[1], other) is None


def test_after_a_rotation_of_the_servers_secret_old_credentials_still_parse_and_new_ones_are_signed_anew() -> None:
    old = Credentials((_OLD_SECRET,), argon2_runs_max=1)
    both = Credentials((_SECRET, _OLD_SECRET), argon2_runs_max=1)
    new = Credentials((_SECRET,), argon2_runs_max=1)

    assert both.parse(old.mint("sk")[1], "sk")
    assert new.parse(both.mint("sk")[1], "sk")
    assert new.parse(old.mint("sk")[1], "sk") is None


def test_a_check_that_an_earlier_release_made_is_still_right() -> None:
    assert _CREDENTIALS.parse("lrb_sk_0123456789abcdef_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgKloiNHlEpU", "sk")


def test_a_credential_is_recognised_once_it_is_proven_and_not_before(hasher: CountingHasher) -> None:
    credentials, text, known = _minted(hasher)

    assert credentials.recognise(text, "sk") is None
    credentials.identify(_parsed(credentials, text), lambda _: known)
    assert credentials.recognise(text, "sk") == _IDENTITY


@given(
    text=st.one_of(
        st.text(), st.text(min_size=67, max_size=67), st.from_regex(r"lrb_sk_[0-9A-z]{16}_.{43}", fullmatch=True)
    )
)
@example(text="lrb_sk_" + "\ud800" * 60)
def test_recognising_never_raises(text: str) -> None:
    assert _CREDENTIALS.recognise(text, "sk") is None


@pytest.mark.parametrize("changed", [slice(0, 1), slice(4, 6), slice(7, 8), slice(30, 31), slice(66, 67)])
def test_a_proven_credential_with_a_part_changed_is_not_recognised(hasher: CountingHasher, changed: slice) -> None:
    credentials, text, known = _minted(hasher)
    credentials.identify(_parsed(credentials, text), lambda _: known)
    other = text[: changed.start] + "".join("m" if it != "m" else "n" for it in text[changed]) + text[changed.stop :]

    assert credentials.recognise(other, "sk") is None


def test_a_source_key_is_not_recognised_as_a_management_token(hasher: CountingHasher) -> None:
    credentials, text, known = _minted(hasher)
    credentials.identify(_parsed(credentials, text), lambda _: known)

    assert credentials.recognise(text, "mt") is None


def test_a_credential_that_the_old_secret_signed_is_recognised_after_a_rotation(hasher: CountingHasher) -> None:
    old = Credentials((_OLD_SECRET,), argon2_runs_max=1, hasher=hasher)
    both = Credentials((_SECRET, _OLD_SECRET), argon2_runs_max=1, hasher=hasher)
    _, text, secret_hash = old.mint("sk")

    both.identify(_parsed(both, text), lambda _: Known(secret_hash, _IDENTITY))

    assert both.recognise(text, "sk") == _IDENTITY


def test_a_key_that_was_proven_is_remembered_without_its_text(hasher: CountingHasher) -> None:
    credentials, text, known = _minted(hasher)
    credentials.identify(_parsed(credentials, text), lambda _: known)

    warm = credentials._warm  # noqa: SLF001 - the memory itself, not what it lets out
    remembered = repr([(digest, entry, entry.sealed) for digest, entry in warm.snapshot()])
    assert not any(text[place : place + 8] in remembered for place in range(24, len(text) - 8))


def test_argon2_runs_once_for_a_key_that_is_used_often(hasher: CountingHasher) -> None:
    credentials, text, known = _minted(hasher)

    for _ in range(5):
        proof = credentials.identify(_parsed(credentials, text), lambda _: known)
        assert proof is not None
        assert proof.identity == _IDENTITY
    assert hasher.runs == 1


def test_argon2_runs_once_for_a_key_that_many_threads_bring_at_once(hasher: CountingHasher) -> None:
    credentials, text, known = _minted(hasher)
    barrier = threading.Barrier(16)

    def identify() -> bool:
        barrier.wait()
        return credentials.identify(_parsed(credentials, text), lambda _: known) is not None

    with ThreadPoolExecutor(16) as pool:
        results = [future.result() for future in [pool.submit(identify) for _ in range(16)]]

    assert results == [True] * 16
    assert hasher.runs == 1


def test_a_wrong_secret_with_a_right_check_is_refused_each_time_and_never_remembered(
    hasher: CountingHasher,
) -> None:
    credentials, text, _ = _minted(hasher)
    known = Known(credentials.mint("sk")[2], _IDENTITY)

    assert credentials.identify(_parsed(credentials, text), lambda _: known) is None
    assert credentials.identify(_parsed(credentials, text), lambda _: known) is None
    assert hasher.runs == 2


def test_a_key_that_was_unknown_is_looked_up_again(hasher: CountingHasher) -> None:
    credentials, text, known = _minted(hasher)

    assert credentials.identify(_parsed(credentials, text), lambda _: None) is None
    assert credentials.identify(_parsed(credentials, text), lambda _: known) is not None


def test_when_every_argon2_turn_is_taken_the_next_key_is_told_to_come_back(hasher: CountingHasher) -> None:
    credentials, slow_text, slow = _minted(hasher)
    _, text, secret_hash = credentials.mint("sk")
    hasher.may_finish.clear()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(credentials.identify, _parsed(credentials, slow_text), lambda _: slow)
        wait_until(lambda: hasher.runs)
        with pytest.raises(StorageUnavailable) as refusal:
            credentials.identify(_parsed(credentials, text), lambda _: Known(secret_hash, _IDENTITY))
        hasher.may_finish.set()
        assert first.result() is not None
    assert refusal.value.retryable


def test_issuing_waits_for_its_turn_too_and_leaves_one_to_what_is_to_be_proven(hasher: CountingHasher) -> None:
    credentials = Credentials((_SECRET,), argon2_runs_max=2, hasher=hasher)
    _, text, secret_hash = credentials.mint("mt", 3)
    before = hasher.hashes
    hasher.may_finish.clear()

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(credentials.mint, "sk", 3)
        wait_until(lambda: hasher.hashes == before + 1)
        with pytest.raises(StorageUnavailable):
            credentials.mint("sk", 4)
        proven = pool.submit(
            credentials.identify, _parsed(credentials, text, "mt"), lambda _: Known(secret_hash, _IDENTITY)
        )
        wait_until(lambda: hasher.runs == 1)
        hasher.may_finish.set()
        assert first.result().text
        assert proven.result() is not None


def test_a_hash_of_other_parameters_is_replaced_when_its_key_is_proven() -> None:
    credentials = Credentials((_SECRET,), argon2_runs_max=1)
    cheap = Credentials((_SECRET,), argon2_runs_max=1, hasher=PasswordHasher.from_parameters(profiles.CHEAPEST))
    _, text, cheap_hash = cheap.mint("sk")

    proof = credentials.identify(_parsed(credentials, text), lambda _: Known(cheap_hash, _IDENTITY))

    assert proof is not None
    assert proof.new_hash is not None
    assert not OWASP.check_needs_rehash(proof.new_hash)


def _minted(hasher: PasswordHasher) -> tuple[Credentials, str, Known]:
    credentials = Credentials((_SECRET,), argon2_runs_max=1, hasher=hasher)
    _, text, secret_hash = credentials.mint("sk")
    return credentials, text, Known(secret_hash, _IDENTITY)


def _parsed(credentials: Credentials, text: str, kind: Kind = "sk"):  # type: ignore[no-untyped-def]  # noqa: ANN202
    credential = credentials.parse(text, kind)
    assert credential is not None
    return credential


_CREDENTIALS = Credentials((_SECRET,), argon2_runs_max=1, hasher=PasswordHasher.from_parameters(profiles.CHEAPEST))
_FIXED = _CREDENTIALS.mint("sk")[1]
