"""Mints, parses and verifies source keys and management tokens. Knows no database and no HTTP.

The checksum is an HMAC with the server's secret: a forged or mistyped credential is refused in microseconds, before a
query and before argon2. Without it, forged credentials could force argon2 runs (CVEProject/cve-services#1885).

Cost (bench/prices.py): 1 µs for a credential in the process's cache; else one query, if the stored digest is that of
the credential; else argon2 as well, 20 ms.
"""

import hmac
import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog
from argon2 import PasswordHasher, Type
from argon2.exceptions import VerificationError

from app.concurrency.fork import reset_after_fork
from app.concurrency.limit import ConcurrencyLimit
from app.credentials.cache import CredentialCache
from app.credentials.format import (
    CREDENTIAL_CHARACTERS,
    KEY_ID,
    KEY_ID_CHARACTERS,
    PUBLIC_ID_PREFIXES,
    SECRET_CHARACTERS,
    Kind,
    split,
)
from app.credentials.signing import Signer
from app.errors import StorageUnavailable
from app.identifiers import random_text
from app.telemetry import metrics

_log = structlog.get_logger()

# OWASP's minimum for argon2id (19 MiB, t=2, p=1): about 20 ms on the machines this runs on, while the library's
# default takes 110 ms and 64 MiB. The secret has 196 random bits, so the parameters guard against little.
OWASP = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
# A run takes 20 ms: of a longer queue, the last would not be admitted within the second that it waits.
_WAIT_SECONDS: Final = 1.0
_WAITING_PER_WORKSPACE: Final = 32
_ISSUING: Final = "issuing"
_BUSY: Final = (
    "Nothing was stored: too many keys are being issued or proven at this moment. Repeat the same request later."
)


class HashForm(NamedTuple):
    """What the text of each hash of a hasher has in common: those of other parameters differ in it."""

    prefix: str
    characters: int

    @classmethod
    def of(cls, hasher: PasswordHasher) -> "HashForm":
        prefix = f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}$"
        salt, digest = (-(-4 * size // 3) for size in (hasher.salt_len, hasher.hash_len))  # base64 without padding
        return cls(prefix, len(prefix) + salt + len("$") + digest)

    def fits(self, secret_hash: str) -> bool:
        return len(secret_hash) == self.characters and secret_hash.startswith(self.prefix)


class Minted(NamedTuple):
    """A new credential in the one moment in which its plain text is known, and what is stored of it."""

    key_id: str
    text: str
    secret_hash: str
    secret_digest: bytes

    def __repr__(self) -> str:
        return f"Minted(key_id={self.key_id!r})"


@dataclass(frozen=True, slots=True)
class Credential:
    """A well-formed credential with a right checksum. Its secret is not verified yet."""

    kind: Kind
    key_id: str
    secret: str = field(repr=False)
    digest: bytes = field(repr=False)
    """Keyed with the secret that signed the checksum: when that one leaves the settings, both end."""

    @property
    def public_id(self) -> str:
        return PUBLIC_ID_PREFIXES[self.kind] + self.key_id


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose credential it is: its public id, its row and its workspace. None of them ever changes."""

    public_id: str
    row_id: int
    workspace_id: int


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """What is stored under a key id."""

    identity: Identity
    secret_hash: str = field(repr=False)
    secret_digest: bytes | None = field(repr=False)
    """None in rows older than this column, until argon2 has proven the credential once."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Whose credential it is, and what argon2 has renewed: to be stored in a transaction of its own."""

    identity: Identity
    new_digest: bytes | None = field(default=None, repr=False)
    """None: the stored one is right."""
    new_hash: str | None = field(default=None, repr=False)
    """None: the stored one is of today's parameters."""


class Credentials:
    """Mints and verifies credentials; holds the server's secrets, the hasher and the cache of this process."""

    def __init__(
        self, secret_keys: tuple[str, ...], *, argon2_runs_max: int, hasher: PasswordHasher = OWASP, cell: str = ""
    ) -> None:
        """`cell`: what the id of each new credential begins with."""
        self._cell = cell
        self._signers = tuple(Signer(secret) for secret in secret_keys)
        self._hasher = hasher
        self.hash_form: Final = HashForm.of(hasher)
        """Of a hash of today's parameters."""
        self._argon2_runs_max = argon2_runs_max
        self._reset()
        reset_after_fork(self, Credentials._reset)

    def _reset(self) -> None:
        # In a forked child too: a thread that preloads, looks up or runs argon2 exists in the parent alone, and what it
        # holds would never be released.
        self._cache: CredentialCache[Identity] = CredentialCache()
        self._not_preloaded = threading.Lock()
        # Issuing never takes all runs: a thief who issues without pause keeps no key from being verified, nor the token
        # of the owner who comes to revoke the stolen one.
        most = max(1, self._argon2_runs_max - 1)
        self._issuing, self._argon2 = (
            ConcurrencyLimit(
                at_once,
                at_once_per_client=most,
                waiting_per_client=_WAITING_PER_WORKSPACE,
                wait_seconds=_WAIT_SECONDS,
                busy=_BUSY,
            )
            for at_once in (most, self._argon2_runs_max)
        )

    def mint(self, kind: Kind, workspace: Hashable = None) -> Minted:
        """A new credential for a workspace (its row). Waits for an argon2 run: call it outside any transaction.

        Raises StorageUnavailable when argon2 is busy with as many others as it may be.
        """
        key_id = self._cell + random_text(KEY_ID_CHARACTERS - len(self._cell))
        secret = random_text(SECRET_CHARACTERS)
        with self._issuing.held(workspace), self._argon2.held(_ISSUING):
            secret_hash = self._hash(secret, purpose="issue")
        return self.assemble(kind, key_id, secret, secret_hash)

    def assemble(self, kind: Kind, key_id: str, secret: str, secret_hash: str) -> Minted:
        """The credential of these parts, signed with the first of the server's secrets."""
        body = f"lrb_{kind}_{key_id}_{secret}"
        text = body + self._signers[0].checksum(body)
        return Minted(key_id, text, secret_hash, self._signers[0].digest(text))

    def lookup_cached(self, text: str, kind: Kind) -> Identity | None:
        """Whose credential `text` is, if this process has it cached. Reads memory alone, never raises.

        Form and checksum need no look: the digest is of the whole text, and only of a verified credential or of one
        that a row has the digest of. The key id does: a digest that was copied into another key's row is cached as
        that key's.
        """
        if len(text) != CREDENTIAL_CHARACTERS or text[4:6] != kind:
            return None
        public_id = PUBLIC_ID_PREFIXES[kind] + text[KEY_ID]
        for signer in self._signers:
            identity = self._cache.get(signer.digest(text))
            if identity is not None and identity.public_id == public_id:
                return identity
        return None

    def preload(self, read: Callable[[], Iterable[tuple[bytes, Identity]]]) -> None:
        """Cache what `read` returns, on a thread of its own: the first call of a process. Later ones do nothing.

        It returns digests of rows whose hash is of `hash_form`. Until they are cached, and also if they never are,
        each credential is looked up at its first use.
        """
        if not self._not_preloaded.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._preload, args=(read,), name="preload", daemon=True).start()
        except RuntimeError:  # the machine has no thread left: the next call tries again
            self._not_preloaded.release()

    def _preload(self, read: Callable[[], Iterable[tuple[bytes, Identity]]]) -> None:
        try:
            for digest, identity in read():
                self._cache.put(digest, identity)
        except StorageUnavailable as error:
            _log.warning("credentials_not_preloaded", cause=type(error.__cause__ or error).__name__)
        except Exception:  # noqa: BLE001 - on a thread of its own: no caller would log it
            _log.exception("credentials_not_preloaded")

    def parse(self, text: str, kind: Kind) -> Credential | None:
        """The credential in `text`; None if it is not of `kind`, malformed, or not signed with one of our secrets."""
        parts = split(text, kind)
        if parts is None:
            return None
        # All secrets are tried, and each comparison is constant in time: how long it takes tells nothing.
        signers = [own for own in self._signers if hmac.compare_digest(own.checksum(parts.body), parts.checksum)]
        return Credential(kind, parts.key_id, parts.secret, signers[0].digest(text)) if signers else None

    def verify(self, credential: Credential, look_up: Callable[[str], StoredCredential | None]) -> Verification | None:
        """Whose credential it is; None if its public id is not stored or its secret is wrong.

        1. Look into the cache, as lookup_cached() does. 2. `look_up` the row by the public id, in a transaction that
        ends before it returns. 3. Compare the stored digest. 4. If it is missing or another one, or the hash is of old
        parameters, run argon2. 5. Cache the identity, which never changes. Whether the credential has been revoked is
        read elsewhere, at each use. A wrong secret is never cached: a flood of them neither fills nor poisons the
        cache.
        Raises StorageUnavailable when argon2 is busy with as many others as it may be.
        """
        with self._cache.single_flight(credential.digest) as cached:
            if cached is not None and cached.public_id == credential.public_id:
                metrics.KEY_LOOKUPS.labels("memory").inc()
                return Verification(cached)
            stored = look_up(credential.public_id)
            is_proven = stored is not None and self._is_proven(credential, stored)
            metrics.KEY_LOOKUPS.labels("database" if is_proven else "nowhere").inc()
            if stored is None:
                return None
            verification = Verification(stored.identity) if is_proven else self._prove(credential, stored)
            if verification is not None:
                self._cache.put(credential.digest, stored.identity)
            return verification

    def _is_proven(self, credential: Credential, stored: StoredCredential) -> bool:
        """Whether the row says that argon2 has proven this very credential, under today's parameters."""
        return (
            stored.secret_digest is not None
            and hmac.compare_digest(stored.secret_digest, credential.digest)
            and self.hash_form.fits(stored.secret_hash)
        )

    def _prove(self, credential: Credential, stored: StoredCredential) -> Verification | None:
        """Run argon2; None for a wrong secret."""
        # Not before: a slow look-up occupies no run, and a run is shared out by workspace, which only the row tells.
        with self._argon2.held((credential.kind, stored.identity.workspace_id)):
            metrics.ARGON2_RUNS.labels("prove").inc()
            try:
                self._hasher.verify(stored.secret_hash, credential.secret)
            except VerificationError:
                return None
            is_current = self.hash_form.fits(stored.secret_hash)
            new_hash = None if is_current else self._hash(credential.secret, purpose="renew")
        return Verification(stored.identity, credential.digest, new_hash)

    def _hash(self, secret: str, *, purpose: str) -> str:
        metrics.ARGON2_RUNS.labels(purpose).inc()
        return self._hasher.hash(secret)
