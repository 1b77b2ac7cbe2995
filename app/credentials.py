"""Mints, parses, checks, hashes and verifies source keys and management tokens. Knows no database and no HTTP.

A credential reads `lrb_sk_<key id>_<secret><check>` (`lrb_mt_…` for a management token), all base62. The check is an
HMAC over the rest with the server's secret: a forged or mistyped credential dies here in microseconds, before the
database and before argon2, so nobody can force argon2 runs (CVEProject/cve-services#1885 is that attack).
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerificationError

from app.identifiers import BASE62, random_text
from app.warm_digests import WarmDigests

Kind = Literal["sk", "mt"]

_KEY_ID_CHARACTERS = 16
_SECRET_CHARACTERS = 33  # 196 random bits; DESIGN asks for 192 or more
_CHECK_CHARACTERS = 10  # 59 bits: forging one takes 10^17 requests

# The longest text worth looking at: a megabyte of header is refused by its length alone.
_CREDENTIAL_CHARACTERS = len("lrb_sk_") + _KEY_ID_CHARACTERS + 1 + _SECRET_CHARACTERS + _CHECK_CHARACTERS
_FORM = re.compile(
    rf"lrb_(?P<kind>sk|mt)_(?P<key_id>[0-9A-Za-z]{{{_KEY_ID_CHARACTERS}}})_"
    rf"(?P<secret>[0-9A-Za-z]{{{_SECRET_CHARACTERS}}})(?P<check>[0-9A-Za-z]{{{_CHECK_CHARACTERS}}})"
)

# OWASP's minimum for argon2id (19 MiB, t=2, p=1): about 20 ms on the machines this runs on, while the library's
# default takes 110 ms and 64 MiB. The secret has 196 random bits, so the parameters guard against little.
OWASP = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)


@dataclass(frozen=True, slots=True)
class Credential:
    """A well-formed credential whose check is right; only argon2 can still say no."""

    kind: Kind
    key_id: str
    secret: str = field(repr=False)
    digest: bytes = field(repr=False)
    """Recognises the whole credential again within this process; useless anywhere else."""


class Credentials:
    """Mints and proves credentials; carries the server's secrets, the hasher and what is warm in this process."""

    def __init__(self, secret_keys: tuple[str, ...], *, argon2_runs_max: int, hasher: PasswordHasher = OWASP) -> None:
        self._check_keys = tuple(_derive(secret, b"check") for secret in secret_keys)
        self._digest_key = _derive(secret_keys[0], b"digest")
        self._hasher = hasher
        self._warm: WarmDigests[Identity] = WarmDigests(runs_max=argon2_runs_max)

    def mint(self, kind: Kind) -> tuple[str, str, str]:
        """A new credential: (key id, plain text, argon2 hash). The plain text is seen this once."""
        key_id, secret = random_text(_KEY_ID_CHARACTERS), random_text(_SECRET_CHARACTERS)
        body = f"lrb_{kind}_{key_id}_{secret}"
        return key_id, body + _check(self._check_keys[0], body), self._hasher.hash(secret)

    def parse(self, text: str, kind: Kind) -> Credential | None:
        """The credential in `text`, or None if it is not of `kind`, malformed, or was not minted with our secrets."""
        if len(text) != _CREDENTIAL_CHARACTERS or not (form := _FORM.fullmatch(text)) or form["kind"] != kind:
            return None
        body, check = text[:-_CHECK_CHARACTERS], form["check"]
        # Every secret is tried and every comparison is constant in time: how long it took tells nothing.
        matches = [hmac.compare_digest(_check(key, body), check) for key in self._check_keys]
        if not any(matches):
            return None
        digest = hmac.digest(self._digest_key, text.encode(), "sha256")
        return Credential(kind, form["key_id"], form["secret"], digest)

    def identify(self, credential: Credential, look_up: "Callable[[str], Known | None]") -> "Proof | None":
        """Prove `credential`: from memory if this process has proven it before, else by argon2 against `look_up`.

        Only proven credentials are remembered, so a flood of wrong secrets neither fills nor poisons the memory.
        What is remembered never changes (whose key this is); whether it still lives is asked at each use, elsewhere.
        Raises StorageUnavailable when argon2 is busy with as many others as it may.
        """
        remembered = self._warm.get(credential.digest)
        if remembered is not None:
            return Proof(remembered, new_hash=None)
        with self._warm.proving(credential.digest) as meanwhile:
            if meanwhile is not None:
                return Proof(meanwhile, new_hash=None)
            known = look_up(credential.key_id)
            if known is None or not self._matches(known.secret_hash, credential.secret):
                return None
            self._warm.put(credential.digest, known.identity)
        stale = self._hasher.check_needs_rehash(known.secret_hash)
        return Proof(known.identity, new_hash=self._hasher.hash(credential.secret) if stale else None)

    def _matches(self, secret_hash: str, secret: str) -> bool:
        try:
            return self._hasher.verify(secret_hash, secret)
        except VerificationError:
            return False


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose credential it is: its public id, its row and its workspace. None of them ever changes."""

    public_id: str
    row_id: int
    workspace_id: int


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


def _derive(secret: str, purpose: bytes) -> bytes:
    return hmac.digest(secret.encode(), b"lariba " + purpose, "sha256")


def _check(key: bytes, body: str) -> str:
    number = int.from_bytes(hashlib.sha256(hmac.digest(key, body.encode(), "sha256")).digest())
    characters = []
    for _ in range(_CHECK_CHARACTERS):
        number, index = divmod(number, len(BASE62))
        characters.append(BASE62[index])
    return "".join(characters)
