"""Whose share of memory and threads a request uses. Looks into memory alone: it runs on the event loop."""

from collections.abc import Hashable
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qs

from app.credentials.format import Kind
from app.credentials.verification import Credentials
from app.granian.environ import Environ

# Paths that take a right away.
_URGENT: Final = ("/revoke", "/disable")
# No operation that takes a key in its query knows more than two. Servers let 400 KB through, which take 50 ms to parse.
_PARAMETERS_MAX: Final = 16
_QUERY_CHARACTERS_MAX: Final = 1_024


class Owners:
    """Finds the owner of a request by the credential that it shows."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def owner_of(self, environ: Environ) -> Hashable | None:
        """The workspace's row id if this process knows the credential, else the credential's id; None without one."""
        key = environ.get("HTTP_X_API_KEY") or _key_in(environ["QUERY_STRING"])
        shown: tuple[tuple[str, Kind], ...] = ((key, "sk"), (_token_in(environ), "mt"))
        for text, kind in shown:
            if text and (identity := self._credentials.lookup_cached(text, kind)) is not None:
                return identity.workspace_id
            if text and (credential := self._credentials.parse(text, kind)) is not None:
                return credential.key_id
        return None

    def token_of(self, environ: Environ) -> Hashable | None:
        """The id of the management token, however the header is written; None if it is none of ours."""
        token = self._credentials.parse(_token_in(environ), "mt")
        return token and token.key_id

    def queue_of(self, environ: Environ, owner: Hashable) -> tuple[Hashable, Hashable]:
        """The owner and the member (threads.py) under which a request of `owner` waits for a thread.

        Credentials that this process does not know share one owner, so any number of revoked keys has one share.
        """
        is_known = not isinstance(owner, str)  # a workspace's row, and not the id of a credential
        if environ["PATH_INFO"].endswith(_URGENT) and (token := self.token_of(environ)) is not None:
            # Apart, as for connections: other requests of the workspace must not delay the revocation of a leaked key.
            return (owner if is_known else "unknown", "urgent"), token
        return (owner, None) if is_known else ("unknown", owner)


def _token_in(environ: Environ) -> str:
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _key_in(query: str) -> str:
    if len(query) > _QUERY_CHARACTERS_MAX:
        return ""
    with suppress(ValueError):
        return next(iter(parse_qs(query, max_num_fields=_PARAMETERS_MAX).get("key", ())), "")
    return ""
