"""Why a local run ends early."""


class EmbeddedError(Exception):
    """A person can correct it; the message is one line that says how."""


class StopRequestedError(Exception):
    """Ctrl-C, SIGTERM or SIGHUP arrived: everything is stopped in order, and the run succeeds."""
