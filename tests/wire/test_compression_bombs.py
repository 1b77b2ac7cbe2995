"""Compressed bodies that would cost far more than they weigh: refused in time, and memory stays flat."""

import gzip
import resource
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import chain, repeat

import brotli
import pytest

from app.errors import BadRequest, PayloadTooLarge
from app.wire.content_encoding import encoding_of, expand

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MEBIBYTE = 1_048_576


class TestBombs:
    """None of them ever ends: what expands all of it, or keeps it, does not end either."""

    @pytest.mark.parametrize("name", ["gzip", "deflate", "zstd", "br"])
    def test_a_bomb_is_refused_and_costs_no_memory(self, name: str) -> None:
        start, piece = _BOMBS[name]()
        tracemalloc.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with pytest.raises(PayloadTooLarge, match="larger than 1048576 bytes when expanded"):
                _expand_endless(name, start, piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        # The result, what its buffer has in reserve, a chunk and a step; outside Python also br's window.
        assert peak < 2 * _MEBIBYTE
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert kibibytes < 32 * 1024

    @pytest.mark.parametrize("name", ["gzip", "deflate", "zstd", "br"])
    def test_an_endless_stream_of_nothing_is_cut_off(self, name: str) -> None:
        start, piece = _NOTHINGS[name]

        with pytest.raises(PayloadTooLarge, match="The compressed body is larger than"):
            _expand_endless(name, start, piece, compressed_bytes_max=_MEBIBYTE)

    def test_a_limit_stops_the_reading_one_byte_behind_it(self) -> None:
        encoding = encoding_of("deflate")
        assert encoding is not None
        body = BytesIO(_EMPTY_STORED_BLOCK * 100_000)

        with pytest.raises(PayloadTooLarge):
            expand(body.read, encoding, compressed_bytes_max=100_000, expanded_bytes_max=10)

        assert body.tell() == 100_001


class TestWindows:
    def test_zstd_may_use_the_window_that_its_rfc_grants(self) -> None:
        assert _expanded(_zstd_with_window(23), "zstd") == b"x"

    @pytest.mark.parametrize("window_log", [24, 27, 31])
    def test_a_zstd_window_above_8_mebibytes_is_refused(self, window_log: int) -> None:
        with pytest.raises(BadRequest, match="window above 8 MiB"):
            _expanded(_zstd_with_window(window_log), "zstd")


@pytest.mark.parametrize(
    ("empty", "name"),
    [
        (gzip.compress(b"", mtime=0), "gzip"),
        (zstd.compress(b""), "zstd"),
        (b"\x50\x2a\x4d\x18\x00\x00\x00\x00", "zstd"),
    ],
)
def test_a_body_of_a_thousand_parts_is_taken_and_of_one_more_refused_before_the_rest_is_read(
    empty: bytes, name: str
) -> None:
    assert _expanded(empty * 1_000, name) == b""
    with pytest.raises(BadRequest, match="more than 1000 parts"):
        _expanded(empty * 1_001, name)
    with pytest.raises(BadRequest, match="more than 1000 parts"):
        _expand_endless(name, b"", empty)


def _zstd_with_window(window_log: int) -> bytes:
    """A frame of one byte that declares a window of 2**window_log."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3]) + b"\x09\x00\x00x"


def _expanded(data: bytes, name: str) -> bytes:
    encoding = encoding_of(name)
    assert encoding is not None
    limits = {"compressed_bytes_max": _MEBIBYTE, "expanded_bytes_max": _MEBIBYTE}
    return expand(BytesIO(data).read, encoding, **limits)


def _expand_endless(name: str, start: bytes, piece: bytes, *, compressed_bytes_max: int = 1 << 40) -> bytes:
    """What comes of `start` and then `piece` for ever, where a body may expand to a mebibyte."""
    encoding = encoding_of(name)
    assert encoding is not None
    pieces = _pieces(start, piece)
    return expand(
        lambda size: next(pieces)[:size],
        encoding,
        compressed_bytes_max=compressed_bytes_max,
        expanded_bytes_max=_MEBIBYTE,
    )


def _pieces(start: bytes, piece: bytes) -> Iterator[bytes]:
    # Whole pieces only, so that a reader who asks for less cannot tear one apart.
    packed = piece * (max(1, 60_000 // len(piece)))
    return chain([start] if start else [], repeat(packed))


def _zlib_bomb(wrapper: int) -> tuple[bytes, bytes]:
    """How a stream of zeros begins, and a piece of 1 KiB that means a mebibyte more of them."""
    encoder = zlib.compressobj(9, wbits=wrapper)
    start = encoder.compress(bytes(_MEBIBYTE)) + encoder.flush(zlib.Z_FULL_FLUSH)
    return start, encoder.compress(bytes(_MEBIBYTE)) + encoder.flush(zlib.Z_FULL_FLUSH)


def _brotli_bomb() -> tuple[bytes, bytes]:
    """The largest window and blocks of 16 MiB, some twenty bytes each."""
    encoder = brotli.Compressor(quality=5, lgwin=24)
    start = encoder.process(bytes(16 * _MEBIBYTE)) + encoder.flush()
    return start, encoder.process(bytes(16 * _MEBIBYTE)) + encoder.flush()


def _zstd_bomb() -> tuple[bytes, bytes]:
    """A window of 8 MiB and blocks of 4 bytes that mean 128 KiB of zeros: 320 KB of them would be 10 GiB."""
    return _zstd_with_window(23)[:6], (1 << 1 | 131_072 << 3).to_bytes(3, "little") + b"\x00"


_BOMBS: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "gzip": lambda: _zlib_bomb(31),
    "deflate": lambda: _zlib_bomb(15),
    "zstd": _zstd_bomb,
    "br": _brotli_bomb,
}
_EMPTY_STORED_BLOCK = b"\x00\x00\x00\xff\xff"
_NOTHINGS = {
    "gzip": (gzip.compress(b"", mtime=0)[:10], _EMPTY_STORED_BLOCK),
    "deflate": (b"", _EMPTY_STORED_BLOCK),
    "zstd": (_zstd_with_window(17)[:6], b"\x00\x00\x00"),
    # A window of 16 bits, then metadata blocks without content, a byte each.
    "br": (brotli.Compressor(lgwin=16).flush(), b"\x06"),
}
