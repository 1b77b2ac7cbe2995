"""POST /v1/events/ingest with a compressed body: the same event, the same limits, the same promises."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO

import brotli
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from app.wire.body_reads import ENDED_EARLY
from tests.support.people import Tenant, events_of
from tests.support.sending import PATH, error_of, event_for, send

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _bare_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(data) + encoder.flush()


_COMPRESS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", _bare_deflate),
    "zstd": ("zstd", zstd.compress),
    "br": ("br", brotli.compress),
}
_KINDS = sorted(_COMPRESS)
_BYTES_MAX = 524_288


def _send(client: FlaskClient, tenant: Tenant, body: bytes, encoding: str, key: str | None = None) -> TestResponse:
    return send(client, tenant, body, idempotency_key=key, headers={"Content-Encoding": encoding})


def _stream(
    client: FlaskClient, tenant: Tenant, body: bytes, encoding: str, *, announced_bytes: int | None
) -> TestResponse:
    """Send `body` under a Content-Length of its own, or chunked, on a server that knows where a body ends."""
    length = {"HTTP_TRANSFER_ENCODING": "chunked"} if announced_bytes is None else {"CONTENT_LENGTH": announced_bytes}
    return client.post(
        PATH,
        input_stream=BytesIO(body),
        headers={"X-API-Key": tenant.key, "Content-Encoding": encoding},
        content_type="application/json",
        environ_overrides={"wsgi.input_terminated": True} | {name: str(value) for name, value in length.items()},
    )


class TestTaking:
    @pytest.mark.parametrize("kind", _KINDS)
    def test_a_compressed_event_is_stored_once_as_it_was(
        self, client: FlaskClient, context: Context, alice: Tenant, kind: str
    ) -> None:
        encoding, compress = _COMPRESS[kind]
        body = compress(json.dumps(event_for(alice, payload={"text": "ü" * 20_000})).encode())

        first = _send(client, alice, body, encoding, "k")
        second = _send(client, alice, body, encoding, "k")

        assert (first.status_code, second.status_code) == (201, 201)
        assert second.headers["Idempotent-Replayed"] == "true"
        assert [json.loads(event.payload_text) for event in events_of(context, alice)] == [{"text": "ü" * 20_000}]

    def test_one_event_is_the_same_content_plain_and_in_every_encoding(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        body = json.dumps(event_for(alice, event_id="e")).encode()

        assert send(client, alice, body, idempotency_key="k").status_code == 201
        for encoding, compress in _COMPRESS.values():
            assert _send(client, alice, compress(body), encoding).json == {
                "accepted": True,
                "event_id": "e",
                "status": "duplicate",
            }
            assert _send(client, alice, compress(body), encoding, "k").headers["Idempotent-Replayed"] == "true"
        assert len(events_of(context, alice)) == 1

    @pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
    def test_identity_is_no_encoding(self, client: FlaskClient, context: Context, alice: Tenant, encoding: str) -> None:
        assert _send(client, alice, json.dumps(event_for(alice)).encode(), encoding).status_code == 201

    def test_a_body_that_just_fits_when_expanded_is_taken(self, client: FlaskClient, alice: Tenant) -> None:
        body = json.dumps(event_for(alice)).encode().ljust(_BYTES_MAX)

        assert _send(client, alice, gzip.compress(body), "gzip").status_code == 201

    def test_a_chunked_compressed_body_is_taken(self, client: FlaskClient, context: Context, alice: Tenant) -> None:
        body = gzip.compress(json.dumps(event_for(alice)).encode())

        assert _stream(client, alice, body, "gzip", announced_bytes=None).status_code == 201
        assert len(events_of(context, alice)) == 1


class TestRefusing:
    @pytest.fixture(autouse=True)
    def _nothing_is_stored(self, context: Context, alice: Tenant) -> Iterator[None]:
        yield
        assert events_of(context, alice) == []

    @pytest.mark.parametrize("kind", _KINDS)
    def test_a_body_of_ten_megabytes_when_expanded_is_a_413(
        self, client: FlaskClient, alice: Tenant, kind: str
    ) -> None:
        encoding, compress = _COMPRESS[kind]

        response = _send(client, alice, compress(b" " * 10_000_000), encoding)

        assert (response.status_code, error_of(response)["code"]) == (413, "payload_too_large")
        assert error_of(response)["message"] == f"The body is larger than {_BYTES_MAX} bytes when expanded."

    @pytest.mark.parametrize("kind", _KINDS)
    def test_one_byte_too_many_when_expanded_is_a_413(self, client: FlaskClient, alice: Tenant, kind: str) -> None:
        encoding, compress = _COMPRESS[kind]
        body = json.dumps(event_for(alice)).encode().ljust(_BYTES_MAX + 1)

        assert _send(client, alice, compress(body), encoding).status_code == 413

    @pytest.mark.parametrize("transfer", ["announced", "chunked"])
    @pytest.mark.parametrize("bytes_more", [1, 2, 1_000_000])
    def test_too_much_before_it_is_expanded_is_a_413_too(
        self, client: FlaskClient, alice: Tenant, transfer: str, bytes_more: int
    ) -> None:
        # Stored blocks: the compressed body is larger than what it expands to.
        body = (b"\x00\x00\x00\xff\xff" * ((_BYTES_MAX + bytes_more) // 5 + 1))[: _BYTES_MAX + bytes_more]
        announced_bytes = len(body) if transfer == "announced" else None

        response = _stream(client, alice, body, "deflate", announced_bytes=announced_bytes)

        assert (response.status_code, error_of(response)["code"]) == (413, "payload_too_large")
        assert error_of(response)["message"] == f"The compressed body is larger than {_BYTES_MAX} bytes."

    @pytest.mark.parametrize("encoding", ["compress", "gzip, br", "gzip, gzip", "aws-chunked", "zip"])
    def test_an_encoding_that_is_not_taken_is_a_415_that_lists_the_others(
        self, client: FlaskClient, alice: Tenant, encoding: str
    ) -> None:
        response = _send(client, alice, json.dumps(event_for(alice)).encode(), encoding)

        assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")
        assert response.headers["Accept-Encoding"] == "gzip, deflate, zstd, br"

    def test_a_415_for_the_media_type_does_not_speak_of_encodings(self, client: FlaskClient, alice: Tenant) -> None:
        response = send(client, alice, content_type="text/plain")

        assert response.status_code == 415
        assert "Accept-Encoding" not in response.headers

    @pytest.mark.parametrize("kind", _KINDS)
    def test_what_is_cut_corrupt_or_not_compressed_at_all_is_a_400(
        self, client: FlaskClient, alice: Tenant, kind: str
    ) -> None:
        encoding, compress = _COMPRESS[kind]
        plain = json.dumps(event_for(alice)).encode()
        body = compress(plain)

        for wrong in (b"", plain, body[:-1], body[: len(body) // 2], body + b"x", body + b"\x00" * 9, b"\xff" + body):
            response = _send(client, alice, wrong, encoding)
            assert (response.status_code, error_of(response)["code"]) == (400, "bad_request"), wrong

    def test_a_whole_stream_in_a_body_that_ends_early_is_a_400(self, client: FlaskClient, alice: Tenant) -> None:
        body = gzip.compress(json.dumps(event_for(alice)).encode())

        response = _stream(client, alice, body, "gzip", announced_bytes=len(body) + 10)

        assert response.status_code == 400
        assert error_of(response)["message"] == ENDED_EARLY

    def test_the_position_of_a_fault_is_that_in_the_expanded_body(self, client: FlaskClient, alice: Tenant) -> None:
        response = _send(client, alice, zstd.compress(b'{"a": 1,}'), "zstd")

        assert response.status_code == 400
        assert "character 8" in error_of(response)["message"]

    def test_a_wrong_key_is_refused_before_anything_is_expanded(
        self, client: FlaskClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr("app.web.request_body.expand")

        response = send(client, alice, gzip.compress(b"{}"), key="wrong", headers={"Content-Encoding": "gzip"})

        assert response.status_code == 401
