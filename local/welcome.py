"""The text that a person reads when the product is ready: address, keys, an event to send and how to see it."""

from pathlib import Path

from local import demo_env

COUNTED_MAX = 10_000
"""Counting at a start ends here."""

_WELCOME = """
Lariba is ready.

  URL               {url}
  API docs          {url}/docs
  Source key        {key}
  Management token  {token}
  All settings      {demo_env}
  Logs              {logs}

{steps}

Python, JavaScript, a project of your own, the operator's commands: README.md.
Ctrl-C stops everything; the data stay in {folder}.
"""

_FIRST = """\
1. Send an event:

{curl}

2. Look at it:

{look}"""

_AGAIN = """\
{stored} stored. Look at the newest:

{look}

Send another:

{curl}"""

# The example of the public API page, unchanged.
_CURL = """\
curl -X POST "{url}/v1/events/ingest" \\
  -H "Content-Type: application/json" \\
  -H "X-API-Key: {key}" \\
  -H "Idempotency-Key: demo-request-001" \\
  -d '{{
    "event_id": "evt_demo_001",
    "event_type": "payment.failed",
    "source_id": "src_demo",
    "environment": "production",
    "severity": "critical",
    "timestamp": "2026-06-01T10:00:00Z",
    "payload": {{
      "amount": 49.99,
      "currency": "EUR",
      "reason": "card_declined"
    }}
  }}'"""

# Without event_id and Idempotency-Key, so that it is a new event each time.
_CURL_ANOTHER = """\
curl -X POST "{url}/v1/events/ingest" \\
  -H "Content-Type: application/json" -H "X-API-Key: {key}" \\
  -d '{{"event_type": "payment.failed", "source_id": "src_demo", "environment": "production", "payload": {{}}}}'"""

# On one line, so that it can be pasted anywhere. The day that a search usually covers may be over.
_LOOK = 'curl -sG "{url}/v1/events" -H "Authorization: Bearer {token}" -d project_id={project} -d from=-30d -d limit=10'


def first_event(url: str, source_key: str) -> str:
    """A command that stores one event, to paste."""
    return _CURL.format(url=url, key=source_key)


def welcome(path: Path, logs: Path, events: int) -> str:
    """`path` is the run's demo.env; `events` are stored."""
    known = demo_env.read(path)
    url, key = known["LARIBA_URL"], known["LARIBA_SOURCE_KEY"]
    token = known["LARIBA_MANAGEMENT_TOKEN"]
    look = _LOOK.format(url=url, token=token, project=known["LARIBA_PROJECT_ID"])
    if events:
        curl = _CURL_ANOTHER.format(url=url, key=key)
        steps = _AGAIN.format(stored=_how_many(events), look=look, curl=curl)
    else:
        steps = _FIRST.format(curl=first_event(url, key), look=look)
    return _WELCOME.format(url=url, key=key, token=token, demo_env=path, logs=logs, folder=path.parent, steps=steps)


def _how_many(events: int) -> str:
    if events > COUNTED_MAX:
        return f"More than {COUNTED_MAX:,} events are"
    return f"{events:,} events are" if events > 1 else "1 event is"
