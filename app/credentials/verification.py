"""Mints, parses, checks, hashes and verifies source keys and management tokens. Knows no database and no HTTP.

A credential reads `lrb_sk_<key id>_<secret><check>` (`lrb_mt_…` for a management token), all base62. The check is an
HMAC over the rest with the server's secret: a forged or mistyped credential dies here in microseconds, before Redis,
the database and argon2, so nobody can force argon2 runs (CVEProject/cve-services#1885 is that attack).

Cost (bench/prices.py): 1 µs for a credential that is warm in this process; 5 µs at its first use if the second tier
(shared_digests.py) has brought it; a round trip to Redis if another process proved it since; else argon2, 20 ms.
"""

import hmac
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerificationError

from app.concurrency.limit import ConcurrencyLimit
from app.credentials.shared_digests import Entries, SharedDigests
from app.credentials.signing import CHECK_CHARACTERS, Signer
from app.credentials.warm_digests import WarmDigests
from app.identifiers import random_text
from app.telemetry import metrics

Kind = Literal["sk", "mt"]

_KEY_ID_CHARACTERS = 16
_SECRET_CHARACTERS = 33  # 196 random bits

# The longest text worth looking at: a megabyte of header is refused by its length alone.
_CREDENTIAL_CHARACTERS = len("lrb_sk_") + _KEY_ID_CHARACTERS + 1 + _SECRET_CHARACTERS + CHECK_CHARACTERS
_FORM = re.compile(
    rf"lrb_(?P<kind>sk|mt)_(?P<key_id>[0-9A-Za-z]{{{_KEY_ID_CHARACTERS}}})_"
    rf"(?P<secret>[0-9A-Za-z]{{{_SECRET_CHARACTERS}}})(?P<check>[0-9A-Za-z]{{{CHECK_CHARACTERS}}})"
)

# OWASP's minimum for argon2id (19 MiB, t=2, p=1): about 20 ms on the machines this runs on, while the library's
# default takes 110 ms and 64 MiB. The secret has 196 random bits, so the parameters guard against little.
OWASP = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
# A run takes 20 ms: of more that wait, the last would not have its turn within the second that it waits.
_WAIT_SECONDS: Final = 1.0
_WAITING_PER_WORKSPACE: Final = 32
_ISSUING: Final = "issuing"
_BUSY: Final = (
    "Nothing was stored: too many keys are being issued or proven at this moment. Repeat the same request later."
)


@dataclass(frozen=True, slots=True)
class Credential:
    """A well-formed credential whose check is right; only argon2 can still say no."""

    kind: Kind
    key_id: str
    secret: str = field(repr=False)
    digest: bytes = field(repr=False)
    """Recognises the whole credential again; useless to whoever has not the server's secret."""
    signer: Signer = field(repr=False)
    """Who made its check. Digest and seal are that one's too: with its secret they all end."""


class Credentials:
    """Mints and proves credentials; carries the server's secrets, the hasher and what is warm in this process."""

    def __init__(
        self,
        secret_keys: tuple[str, ...],
        *,
        argon2_runs_max: int,
        hasher: PasswordHasher = OWASP,
        shared: SharedDigests | None = None,
    ) -> None:
        # Under other parameters no seal opens: each key is proven once more, which is when its hash is renewed.
        profile = f"{hasher.type.name},m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        self._signers = tuple(Signer(secret, profile=profile) for secret in secret_keys)
        self._hasher = hasher
        self._warm: WarmDigests[_Proven] = WarmDigests()
        # Issuing never has all runs: who issues all the time with a stolen token keeps no key from being proven, nor
        # the token of the owner who comes to revoke that one.
        most = max(1, argon2_runs_max - 1)
        self._issuing, self._argon2 = (
            ConcurrencyLimit(
                at_once,
                at_once_per_client=most,
                waiting_per_client=_WAITING_PER_WORKSPACE,
                wait_seconds=_WAIT_SECONDS,
                busy=_BUSY,
            )
            for at_once in (most, argon2_runs_max)
        )
        self._shared = shared
        if shared is not None:
            shared.renew_from(self._renewable)

    def mint(self, kind: Kind, workspace: Hashable = None) -> "Minted":
        """A new credential for a workspace (its row). Waits for its turn: call it outside any transaction.

        Raises StorageUnavailable when argon2 is busy with as many others as it may.
        """
        key_id, secret = random_text(_KEY_ID_CHARACTERS), random_text(_SECRET_CHARACTERS)
        body = f"lrb_{kind}_{key_id}_{secret}"
        with self._issuing.held(workspace), self._argon2.held(_ISSUING):
            secret_hash = self._hash(secret, purpose="issue")
        return Minted(key_id, body + self._signers[0].check(body), secret_hash)

    def recognise(self, text: str, kind: Kind) -> "Identity | None":
        """Whose credential `text` is, if this process knows it already: memory alone, and never an exception.

        None says nothing about it: `parse` and `identify` do. The form and the check need no look here, because what
        is remembered had them when it was proven, and the digest is of the whole text.
        """
        if len(text) != _CREDENTIAL_CHARACTERS or text[4:6] != kind:
            return None
        for signer in self._signers:
            digest = signer.digest(text)
            proven = self._warm.get(digest) or self._take_loaded(signer, digest)
            if proven is not None:
                return proven.identity
        return None

    def parse(self, text: str, kind: Kind) -> Credential | None:
        """The credential in `text`, or None if it is not of `kind`, malformed, or was not minted with our secrets."""
        if len(text) != _CREDENTIAL_CHARACTERS or not (form := _FORM.fullmatch(text)) or form["kind"] != kind:
            return None
        body, check = text[:-CHECK_CHARACTERS], form["check"]
        # Every secret is tried and every comparison is constant in time: how long it took tells nothing.
        signers = [signer for signer in self._signers if hmac.compare_digest(signer.check(body), check)]
        if not signers:
            return None
        return Credential(kind, form["key_id"], form["secret"], signers[0].digest(text), signers[0])

    def identify(self, credential: Credential, look_up: "Callable[[str], Known | None]") -> "Proof | None":
        """Prove `credential`: from memory, from what other processes have proven, or by argon2 against `look_up`.

        Only proven credentials are remembered, so a flood of wrong secrets neither fills nor poisons a memory.
        What is remembered never changes (whose key this is); whether it still lives is asked at each use, elsewhere.
        Raises StorageUnavailable when argon2 is busy with as many others as it may.
        """
        digest = credential.digest
        proven = self._warm.get(digest) or self._take_loaded(credential.signer, digest)
        if proven is not None:
            metrics.KEY_LOOKUPS.labels("memory").inc()
            return Proof(proven.identity, new_hash=None)
        with self._warm.flight(digest) as meanwhile:
            proven = meanwhile or self._find_shared(credential)
            if proven is not None:
                metrics.KEY_LOOKUPS.labels("memory" if meanwhile else "shared").inc()
                return Proof(proven.identity, new_hash=None)
            metrics.KEY_LOOKUPS.labels("nowhere").inc()
            # Before its turn: a database that is slow keeps no turn busy, and now it is known whose turn it is.
            known = look_up(credential.key_id)
            if known is None:
                return None
            with self._argon2.held((credential.kind, known.identity.workspace_id)):
                if not self._matches(known.secret_hash, credential.secret):
                    return None
                stale = self._hasher.check_needs_rehash(known.secret_hash)
                new_hash = self._hash(credential.secret, purpose="renew") if stale else None
            self._remember(credential, known.identity)
        return Proof(known.identity, new_hash=new_hash)

    def _hash(self, secret: str, *, purpose: str) -> str:
        metrics.ARGON2_RUNS.labels(purpose).inc()
        return self._hasher.hash(secret)

    def _matches(self, secret_hash: str, secret: str) -> bool:
        metrics.ARGON2_RUNS.labels("prove").inc()
        try:
            return self._hasher.verify(secret_hash, secret)
        except VerificationError:
            return False

    def _remember(self, credential: Credential, identity: "Identity") -> None:
        sealed = credential.signer.seal(credential.digest, _packed(identity))
        self._warm.put(credential.digest, _Proven(identity, sealed))
        if self._shared is not None:
            self._shared.remember(credential.digest, sealed)

    def _take_loaded(self, signer: Signer, digest: bytes) -> "_Proven | None":
        """What the bulk load brought for `digest`. Seals are looked at here, at the first use, so loading is cheap."""
        if self._shared is None or (sealed := self._shared.loaded(digest)) is None:
            return None
        proven = self._opened(signer, digest, sealed)
        self._shared.drop_loaded(digest)
        return proven

    def _find_shared(self, credential: Credential) -> "_Proven | None":
        if self._shared is None or (sealed := self._shared.find(credential.digest)) is None:
            return None
        return self._opened(credential.signer, credential.digest, sealed)

    def _opened(self, signer: Signer, digest: bytes, sealed: bytes) -> "_Proven | None":
        """What a shared entry says, remembered from now on; None if the seal is not one of ours for this digest."""
        content = signer.unseal(digest, sealed)
        if content is None:
            return None
        proven = _Proven(_unpacked(content), sealed)
        self._warm.put(digest, proven)
        return proven

    def _renewable(self) -> Entries:
        """What this process has used: the keeper of the second tier keeps it alive there."""
        return ((digest, proven.sealed) for digest, proven in self._warm.snapshot())


class Minted(NamedTuple):
    """A new credential in the one moment in which its plain text is known."""

    key_id: str
    text: str
    secret_hash: str

    def __repr__(self) -> str:
        return f"Minted(key_id={self.key_id!r})"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose credential it is: its public id, its row and its workspace. None of them ever changes."""

    public_id: str
    row_id: int
    workspace_id: int


@dataclass(frozen=True, slots=True)
class _Proven:
    """What is remembered of a proven credential: whose it is, and the same under seal, as it is shared."""

    identity: Identity
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Known:
    """What is on record under a key id."""

    secret_hash: str = field(repr=False)
    identity: Identity


@dataclass(frozen=True, slots=True)
class Proof:
    """A proven credential: whose it is, and a new hash to store when the argon2 parameters have changed since."""

    identity: Identity
    new_hash: str | None = field(repr=False)


def _packed(identity: Identity) -> bytes:
    return f"{identity.public_id} {identity.row_id} {identity.workspace_id}".encode()


def _unpacked(content: bytes) -> Identity:
    # Whatever opened was sealed by `_packed`: it has this form.
    public_id, row_id, workspace_id = content.decode().split(" ")
    return Identity(public_id, int(row_id), int(workspace_id))
