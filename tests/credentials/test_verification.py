"""Verifying keys and tokens: the cache, the stored digest, and argon2 where these do not know a credential."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from argon2 import PasswordHasher, profiles
from hypothesis import example, given
from hypothesis import strategies as st

from app.credentials.format import Kind
from app.credentials.verification import (
    OWASP,
    Credential,
    Credentials,
    Identity,
    Minted,
    StoredCredential,
    Verification,
)
from app.errors import StorageUnavailable
from tests.support.hashers import CountingHasher
from tests.support.waiting import wait_for_preloads, wait_until

_SECRET, _OLD_SECRET = "s" * 40, "o" * 40
_PREFIXES = {"sk": "key_", "mt": "tok_"}


@pytest.fixture(name="hasher")
def _hasher() -> Iterator[CountingHasher]:
    hasher = CountingHasher()
    yield hasher
    hasher.may_finish.set()


@pytest.fixture(name="credentials")
def _credentials(hasher: CountingHasher) -> Credentials:
    return Credentials((_SECRET,), argon2_runs_max=1, hasher=hasher)


def test_the_secret_stands_in_no_repr(credentials: Credentials) -> None:
    minted = credentials.mint("sk")
    verification = _verify(credentials, minted, _without_digest(minted))

    shown = repr(minted) + repr(_parsed(credentials, minted.text)) + repr(_stored(minted)) + repr(credentials)
    shown += repr(verification)
    for secret in (minted.text[24:], minted.text[24:57], minted.secret_hash, repr(minted.secret_digest)):
        assert secret not in shown


class TestCached:
    def test_a_credential_is_cached_once_it_is_verified_and_not_before(self, credentials: Credentials) -> None:
        minted = credentials.mint("sk")

        assert credentials.lookup_cached(minted.text, "sk") is None
        _verify(credentials, minted)
        assert credentials.lookup_cached(minted.text, "sk") == _identity(minted)

    @given(
        text=st.one_of(
            st.text(), st.text(min_size=67, max_size=67), st.from_regex(r"lrb_sk_[0-9A-z]{16}_.{43}", fullmatch=True)
        )
    )
    @example(text="lrb_sk_" + "\ud800" * 60)
    def test_looking_up_never_raises(self, text: str) -> None:
        assert _CREDENTIALS.lookup_cached(text, "sk") is None

    @pytest.mark.parametrize("changed", [slice(0, 1), slice(4, 6), slice(7, 8), slice(30, 31), slice(66, 67)])
    def test_a_credential_with_a_part_changed_is_not_cached(self, credentials: Credentials, changed: slice) -> None:
        minted = credentials.mint("sk")
        _verify(credentials, minted)
        text = minted.text
        part = "".join("m" if it != "m" else "n" for it in text[changed])

        assert credentials.lookup_cached(text[: changed.start] + part + text[changed.stop :], "sk") is None

    def test_a_source_key_is_not_found_as_a_management_token(self, credentials: Credentials) -> None:
        minted = credentials.mint("sk")
        _verify(credentials, minted)

        assert credentials.lookup_cached(minted.text, "mt") is None

    def test_a_credential_that_the_old_secret_signed_is_found_after_a_rotation(self, hasher: CountingHasher) -> None:
        old = Credentials((_OLD_SECRET,), argon2_runs_max=1, hasher=hasher)
        both = Credentials((_SECRET, _OLD_SECRET), argon2_runs_max=1, hasher=hasher)
        minted = old.mint("sk")

        _verify(both, minted)

        assert both.lookup_cached(minted.text, "sk") == _identity(minted)

    def test_a_digest_that_stands_in_another_keys_row_is_not_found_as_that_key(self, credentials: Credentials) -> None:
        alice, charlie = credentials.mint("sk"), credentials.mint("sk")

        _preload(credentials, (charlie.secret_digest, _identity(alice)))

        assert [credentials.lookup_cached(each.text, "sk") for each in (alice, charlie)] == [None, None]
        assert _verify(credentials, charlie) == Verification(_identity(charlie))
        assert credentials.lookup_cached(charlie.text, "sk") == _identity(charlie)

    def test_a_tokens_digest_that_stands_in_a_source_keys_row_is_not_found(self, credentials: Credentials) -> None:
        token = credentials.mint("mt")

        _preload(credentials, (token.secret_digest, Identity(f"key_{token.key_id}", row_id=7, workspace_id=3)))

        assert credentials.lookup_cached(token.text, "mt") is None
        assert _verify(credentials, token, kind="mt") == Verification(_identity(token))

    def test_nothing_of_the_text_is_kept(self, credentials: Credentials) -> None:
        minted = credentials.mint("sk")
        _verify(credentials, minted)

        entries = credentials._cache._entries  # noqa: SLF001 - the memory itself, not what it lets out
        kept = repr(entries)
        assert len(entries) == 1
        assert not any(minted.text[place : place + 8] in kept for place in range(24, len(minted.text) - 8))


class TestTheStoredDigest:
    def test_of_the_credential_spares_argon2(self, credentials: Credentials, hasher: CountingHasher) -> None:
        minted = credentials.mint("sk")

        assert _verify(credentials, minted) == Verification(_identity(minted))
        assert hasher.runs == 0

    @pytest.mark.parametrize("digest", [None, b"", b"garbage", bytes(32), bytes(33)])
    def test_that_is_missing_or_another_one_leaves_it_to_argon2_and_is_renewed(
        self, credentials: Credentials, hasher: CountingHasher, digest: bytes | None
    ) -> None:
        minted = credentials.mint("sk")

        verification = _verify(credentials, minted, replace(_stored(minted), secret_digest=digest))

        assert verification is not None
        assert verification.identity == _identity(minted)
        assert verification.new_digest == minted.secret_digest
        assert verification.new_hash is None
        assert hasher.runs == 1

    def test_of_another_credential_lets_no_wrong_secret_in(self, credentials: Credentials) -> None:
        minted, other = credentials.mint("sk"), credentials.mint("sk")
        wrong = replace(_stored(other), secret_digest=other.secret_digest)

        assert _verify(credentials, minted, wrong) is None

    def test_of_another_secret_of_the_server_is_another_one(self, credentials: Credentials) -> None:
        minted = credentials.mint("sk")
        parts = _parsed(credentials, minted.text)
        elsewhere = Credentials((_OLD_SECRET,), argon2_runs_max=1).assemble(
            "sk", minted.key_id, parts.secret, minted.secret_hash
        )

        assert elsewhere.secret_digest != minted.secret_digest

    def test_says_nothing_of_the_text(self, credentials: Credentials) -> None:
        minted = credentials.mint("sk")

        assert len(minted.secret_digest) == 32
        assert not any(minted.text[place : place + 4].encode() in minted.secret_digest for place in range(63))


def test_argon2_runs_once_for_a_key_that_is_used_often(credentials: Credentials, hasher: CountingHasher) -> None:
    minted = credentials.mint("sk")

    for _ in range(5):
        verification = _verify(credentials, minted, _without_digest(minted))
        assert verification is not None
        assert verification.identity == _identity(minted)
    assert hasher.runs == 1


def test_argon2_runs_once_for_a_key_that_many_threads_bring_at_once(
    credentials: Credentials, hasher: CountingHasher
) -> None:
    minted = credentials.mint("sk")
    barrier = threading.Barrier(16)

    def verify() -> bool:
        barrier.wait()
        return _verify(credentials, minted, _without_digest(minted)) is not None

    with ThreadPoolExecutor(16) as pool:
        results = [future.result() for future in [pool.submit(verify) for _ in range(16)]]

    assert results == [True] * 16
    assert hasher.runs == 1


def test_a_wrong_secret_with_a_right_checksum_is_refused_each_time_and_never_cached(
    credentials: Credentials, hasher: CountingHasher
) -> None:
    minted, other = credentials.mint("sk"), credentials.mint("sk")

    assert _verify(credentials, minted, _stored(other)) is None
    assert _verify(credentials, minted, _stored(other)) is None
    assert credentials.lookup_cached(minted.text, "sk") is None
    assert hasher.runs == 2


def test_forged_credentials_are_refused_before_the_look_up_and_before_argon2(
    credentials: Credentials, hasher: CountingHasher
) -> None:
    text = credentials.mint("sk").text
    forged = [text[:24] + f"{number:043}" for number in range(2000)]

    assert not any(credentials.lookup_cached(each, "sk") for each in forged)
    assert not any(credentials.parse(each, "sk") for each in forged)
    assert hasher.runs == 0


def test_a_key_that_was_unknown_is_looked_up_again(credentials: Credentials) -> None:
    minted = credentials.mint("sk")

    assert credentials.verify(_parsed(credentials, minted.text), lambda _: None) is None
    assert _verify(credentials, minted) is not None


def test_when_every_argon2_run_is_taken_the_next_key_is_refused_for_now(
    credentials: Credentials, hasher: CountingHasher
) -> None:
    slow, minted = credentials.mint("sk"), credentials.mint("sk")
    hasher.may_finish.clear()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_verify, credentials, slow, _without_digest(slow))
        wait_until(lambda: hasher.runs)
        with pytest.raises(StorageUnavailable) as refusal:
            _verify(credentials, minted, _without_digest(minted))
        assert _verify(credentials, minted) == Verification(_identity(minted)), "its digest needs no run"
        hasher.may_finish.set()
        assert first.result() is not None
    assert refusal.value.retryable


def test_issuing_waits_for_a_run_too_and_leaves_one_to_verification(hasher: CountingHasher) -> None:
    credentials = Credentials((_SECRET,), argon2_runs_max=2, hasher=hasher)
    minted = credentials.mint("mt", 3)
    before = hasher.hashes
    hasher.may_finish.clear()

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(credentials.mint, "sk", 3)
        wait_until(lambda: hasher.hashes == before + 1)
        with pytest.raises(StorageUnavailable):
            credentials.mint("sk", 4)
        verified = pool.submit(_verify, credentials, minted, _without_digest(minted), "mt")
        wait_until(lambda: hasher.runs == 1)
        hasher.may_finish.set()
        assert first.result().text
        assert verified.result() is not None


@pytest.mark.parametrize("has_digest", [True, False])
def test_a_hash_of_other_parameters_is_replaced_when_its_key_is_verified(*, has_digest: bool) -> None:
    credentials = Credentials((_SECRET,), argon2_runs_max=1)
    minted = _CREDENTIALS.mint("sk")

    verification = _verify(credentials, minted, _stored(minted) if has_digest else _without_digest(minted))

    assert verification is not None
    assert verification.new_digest == minted.secret_digest
    assert verification.new_hash is not None
    assert not OWASP.check_needs_rehash(verification.new_hash)


def _preload(credentials: Credentials, *rows: tuple[bytes, Identity]) -> None:
    credentials.preload(lambda: rows)
    wait_for_preloads()


def _identity(minted: Minted) -> Identity:
    return Identity(_PREFIXES[minted.text[4:6]] + minted.key_id, row_id=7, workspace_id=3)


def _stored(minted: Minted) -> StoredCredential:
    return StoredCredential(_identity(minted), minted.secret_hash, minted.secret_digest)


def _without_digest(minted: Minted) -> StoredCredential:
    return replace(_stored(minted), secret_digest=None)


def _verify(
    credentials: Credentials, minted: Minted, stored: StoredCredential | None = None, kind: Kind = "sk"
) -> Verification | None:
    """Verify the credential against what is stored; as it is stored at issue, if nothing else is said."""
    return credentials.verify(_parsed(credentials, minted.text, kind), lambda _: stored or _stored(minted))


def _parsed(credentials: Credentials, text: str, kind: Kind = "sk") -> Credential:
    credential = credentials.parse(text, kind)
    assert credential is not None
    return credential


_CREDENTIALS = Credentials((_SECRET,), argon2_runs_max=1, hasher=PasswordHasher.from_parameters(profiles.CHEAPEST))
