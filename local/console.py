"""Prints for the person at the terminal; a closed terminal is no error."""

import os
import sys


def say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:
        # A closed terminal or pipe must neither end a run nor cut short its stop. Later output goes to /dev/null, so
        # that Python's own last flush succeeds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
