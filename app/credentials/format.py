"""The text of a credential: `lrb_sk_<key id>_<secret><checksum>`, for a management token `lrb_mt_…`, all base62."""

import re
from typing import Final, Literal, NamedTuple

Kind = Literal["sk", "mt"]

KEY_ID_CHARACTERS: Final = 16
SECRET_CHARACTERS: Final = 33  # 196 random bits
CHECKSUM_CHARACTERS: Final = 10  # 59 bits: forging one takes 10^17 requests
# No other length is looked at: a megabyte of header is refused without reading it.
CREDENTIAL_CHARACTERS: Final = len("lrb_sk_") + KEY_ID_CHARACTERS + 1 + SECRET_CHARACTERS + CHECKSUM_CHARACTERS

# Where it stands in the text.
KEY_ID: Final = slice(len("lrb_sk_"), len("lrb_sk_") + KEY_ID_CHARACTERS)
PUBLIC_ID_PREFIXES: Final[dict[Kind, str]] = {"sk": "key_", "mt": "tok_"}
"""What the public id of a credential begins with; its key id follows."""

_CREDENTIAL = re.compile(
    rf"lrb_(?P<kind>sk|mt)_(?P<key_id>[0-9A-Za-z]{{{KEY_ID_CHARACTERS}}})_"
    rf"(?P<secret>[0-9A-Za-z]{{{SECRET_CHARACTERS}}})(?P<checksum>[0-9A-Za-z]{{{CHECKSUM_CHARACTERS}}})"
)


class Parts(NamedTuple):
    """A credential taken apart; `body` is all of it but the checksum."""

    key_id: str
    secret: str
    body: str
    checksum: str


def split(text: str, kind: Kind) -> Parts | None:
    """The parts of `text`; None if it is not of `kind` or not well-formed."""
    if len(text) != CREDENTIAL_CHARACTERS or not (match := _CREDENTIAL.fullmatch(text)) or match["kind"] != kind:
        return None
    return Parts(match["key_id"], match["secret"], text[:-CHECKSUM_CHARACTERS], match["checksum"])
