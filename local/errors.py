"""The two ways an embedded run ends before its time."""


class EmbeddedError(Exception):
    """Something a person can put right; the message is one line that says what."""


class StopRequestedError(Exception):
    """Ctrl-C, SIGTERM or SIGHUP arrived: not a failure, everything is to be stopped in order."""
