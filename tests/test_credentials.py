"""Keys and tokens: their form, their check, and that argon2 runs once per key and process."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher, profiles
from hypothesis import given
from hypothesis import strategies as st

from app.credentials import OWASP, Credentials, Identity, Kind, Known
from app.errors import StorageUnavailable
from tests.waiting import wait_until

_SECRET, _OLD_SECRET = "s" * 40, "o" * 40
_IDENTITY = Identity(public_id="key_7", row_id=7, workspace_id=3)


class _CountingHasher(PasswordHasher):
    """Counts argon2 runs, and can make them wait."""

    def __init__(self) -> None:
        cheapest = profiles.CHEAPEST
        super().__init__(cheapest.time_cost, cheapest.memory_cost, cheapest.parallelism)
        self.runs = 0
        self.may_finish = threading.Event()
        self.may_finish.set()

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override] # noqa: A002
        self.runs += 1
        assert self.may_finish.wait(10)
        return super().verify(hash, password)


@pytest.fixture(name="hasher")
def _hasher() -> Iterator[_CountingHasher]:
    hasher = _CountingHasher()
    yield hasher
    hasher.may_finish.set()


@pytest.mark.parametrize("kind", ["sk", "mt"])
def test_a_credential_is_one_word_that_names_its_kind_and_key_id(kind: Kind) -> None:
    key_id, text, secret_hash = Credentials((_SECRET,), argon2_runs_max=1).mint(kind)

    assert re.fullmatch(rf"lrb_{kind}_{key_id}_[0-9A-Za-z]{{43}}", text)
    assert secret_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_the_secret_stands_in_no_repr(hasher: _CountingHasher) -> None:
    credentials = Credentials((_SECRET,), argon2_runs_max=1, hasher=hasher)
    _, text, secret_hash = credentials.mint("sk")
    credential = credentials.parse(text, "sk")

    shown = repr(credential) + repr(Known(secret_hash, _IDENTITY)) + repr(credentials)
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


def test_argon2_runs_once_for_a_key_that_is_used_often(hasher: _CountingHasher) -> None:
    credentials, text, known = _minted(hasher)

    for _ in range(5):
        proof = credentials.identify(_parsed(credentials, text), lambda _: known)
        assert proof is not None
        assert proof.identity == _IDENTITY
    assert hasher.runs == 1


def test_argon2_runs_once_for_a_key_that_many_threads_bring_at_once(hasher: _CountingHasher) -> None:
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
    hasher: _CountingHasher,
) -> None:
    credentials, text, _ = _minted(hasher)
    known = Known(credentials.mint("sk")[2], _IDENTITY)

    assert credentials.identify(_parsed(credentials, text), lambda _: known) is None
    assert credentials.identify(_parsed(credentials, text), lambda _: known) is None
    assert hasher.runs == 2


def test_a_key_that_was_unknown_is_looked_up_again(hasher: _CountingHasher) -> None:
    credentials, text, known = _minted(hasher)

    assert credentials.identify(_parsed(credentials, text), lambda _: None) is None
    assert credentials.identify(_parsed(credentials, text), lambda _: known) is not None


def test_when_every_argon2_turn_is_taken_the_next_key_is_told_to_come_back(hasher: _CountingHasher) -> None:
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


def _parsed(credentials: Credentials, text: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    credential = credentials.parse(text, "sk")
    assert credential is not None
    return credential


_CREDENTIALS = Credentials((_SECRET,), argon2_runs_max=1, hasher=PasswordHasher.from_parameters(profiles.CHEAPEST))
_FIXED = _CREDENTIALS.mint("sk")[1]
