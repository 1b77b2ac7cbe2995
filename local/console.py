"""Speaks to the person at the terminal, and does not mind when there is none any more."""

import os
import sys


def say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:
        # A closed terminal or pipe must neither end a run that works nor cut short its stop; the rest of what
        # would be said goes nowhere, so that Python's own last flush succeeds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
