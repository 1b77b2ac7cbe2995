"""The user that runs PostgreSQL: the caller, or for root, as whom it refuses to run, a dedicated system user.

Never changes the permissions of anything.
"""

import os
import pwd
import subprocess
import sys

from local.console import say
from local.errors import EmbeddedError
from local.guard import wait_until
from local.program import Account

ACCOUNT_NAME = "lariba-postgres"
_LOCKED_SECONDS = 5.0
_USE_ANOTHER_USER = "PostgreSQL does not run as root: start as an ordinary user"


def database_account() -> Account | None:
    """None: the caller. As root on Linux the dedicated system user, created if it is missing."""
    if os.geteuid() != 0:
        return None
    if sys.platform != "linux":
        raise EmbeddedError(_USE_ANOTHER_USER)
    return _known_account() or _created_account()


def owner_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _known_account() -> Account | None:
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        return None
    return Account(name=ACCOUNT_NAME, uid=entry.pw_uid, gid=entry.pw_gid)


def _created_account() -> Account:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", ACCOUNT_NAME]
    errors: list[str] = []

    def is_there() -> bool:
        added = subprocess.run(command, capture_output=True, text=True, check=False)
        errors.append(" ".join(added.stderr.split()))
        return _known_account() is not None

    try:
        # Of two concurrent first runs the second finds the user database locked, and a moment later the account.
        wait_until(is_there, _LOCKED_SECONDS)
    except FileNotFoundError:
        raise EmbeddedError(f"{_USE_ANOTHER_USER} (useradd, which would make one, is missing)") from None
    account = _known_account()
    if account is None:
        raise EmbeddedError(f"{_USE_ANOTHER_USER} (useradd: {errors[-1]})")
    say(f"Created the system user {ACCOUNT_NAME}: PostgreSQL refuses to run as root.")
    return account
