"""What a person reads when the product is ready: where it is, its keys, and a first event to paste."""

from pathlib import Path

from app.embedded.demo import DemoCredentials

_WELCOME = """
Lariba is ready.

  URL               {url}
  API docs          {url}/docs
  Source key        {key}
  Management token  {token}
  For scripts       {demo_env}
  Logs              {logs}

Send a first event:

{curl}

Ctrl-C stops everything; the data stay in {folder}.
"""

# The example of the public API page, to the letter.
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


def first_event(url: str, source_key: str) -> str:
    """A command that stores one event, ready to paste."""
    return _CURL.format(url=url, key=source_key)


def welcome(url: str, credentials: DemoCredentials, demo_env: Path, logs: Path) -> str:
    return _WELCOME.format(
        url=url,
        key=credentials.source_key,
        token=credentials.management_token,
        demo_env=demo_env,
        logs=logs,
        curl=first_event(url, credentials.source_key),
        folder=demo_env.parent,
    )
