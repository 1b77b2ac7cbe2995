"""The least that Flask can do: a constant 201. What a server makes of it is the ceiling of any Flask endpoint."""

from flask import Flask, Response

_BODY = b'{"accepted":true,"event_id":"evt_0190c6a0-7a3b-7c11-9f10-6a3f0d5f2b11","status":"stored"}\n'

app = Flask(__name__)


@app.post("/v1/events/ingest")
def ingest() -> Response:
    """Neither read the body nor store anything."""
    return Response(_BODY, status=201, mimetype="application/json")
