"""Expands a compressed body while it is read: gzip, deflate, zstd and br (RFC 9110 §8.4). Knows no HTTP framework.

Memory holds one chunk of the compressed bytes, one step of the expanded ones, the decoder's window, and the result,
which ends at its limit: a compression bomb is refused as soon as it passes the limit.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Protocol

import brotli

from app.errors import BadRequest, PayloadTooLarge, UnsupportedContentEncoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_BYTES: Final = 65_536
_STEP_BYTES: Final = 65_536

# RFC 9659: a decoder of the content coding must support a window of 8 MiB, and need not support more. A frame may ask
# for gigabytes.
_ZSTD_OPTIONS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}

# An empty zstd frame costs the client 8 bytes, and us 16 µs for a decoder: the 65,000 that fit into 512 KiB would be a
# second of work. A batch with one member for each event stays below.
_STREAMS_MAX: Final = 1_000

# zlib's own numbers for the wrapper around the compressed blocks.
_GZIP_WRAPPER: Final = 16 + zlib.MAX_WBITS
_ZLIB_WRAPPER: Final = zlib.MAX_WBITS
_NO_WRAPPER: Final = -zlib.MAX_WBITS
_ZLIB_METHOD: Final = 8


class _Stream(Protocol):
    """The decoder of one gzip member, one zstd frame, or one deflate or br stream."""

    def step(self, data: bytes) -> bytes:
        """At most about _STEP_BYTES of output. `data` must be empty until the stream is hungry."""

    @property
    def is_hungry(self) -> bool:
        """Whether all output of the data given so far has been taken."""

    @property
    def is_finished(self) -> bool: ...

    @property
    def rest(self) -> bytes:
        """The bytes given after the end of the stream."""


class _Inflating:
    """One gzip member, or one deflate stream with or without its wrapper."""

    def __init__(self, wrapper: int) -> None:
        self._decoder = zlib.decompressobj(wrapper)
        self.is_hungry = True

    def step(self, data: bytes) -> bytes:
        piece = self._decoder.decompress(self._decoder.unconsumed_tail + data, _STEP_BYTES)
        # A full step may have left output inside zlib even where it has consumed all input.
        self.is_hungry = len(piece) < _STEP_BYTES
        return piece

    @property
    def is_finished(self) -> bool:
        return self._decoder.eof

    @property
    def rest(self) -> bytes:
        return self._decoder.unused_data


class _Zstd:
    """One zstd frame; a skippable one expands to nothing."""

    def __init__(self) -> None:
        self._decoder = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)

    def step(self, data: bytes) -> bytes:
        return self._decoder.decompress(data, max_length=_STEP_BYTES)

    @property
    def is_hungry(self) -> bool:
        return self._decoder.needs_input

    @property
    def is_finished(self) -> bool:
        return self._decoder.eof

    @property
    def rest(self) -> bytes:
        return self._decoder.unused_data


class _Brotli:
    """One br stream. A step may exceed its limit by half. Its window of up to 16 MiB (RFC 7932) is filled before the
    first output appears, so that is the memory that a bomb can take.
    """

    rest = b""  # brotli itself refuses bytes after the end

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()
        self.is_hungry = True

    def step(self, data: bytes) -> bytes:
        piece: bytes = self._decoder.process(data, output_buffer_limit=_STEP_BYTES)
        # can_accept_more_data() considers input that waits, and not output that waits.
        self.is_hungry = len(piece) < _STEP_BYTES and self._decoder.can_accept_more_data()
        return piece

    @property
    def is_finished(self) -> bool:
        return bool(self._decoder.is_finished())


@dataclass(frozen=True, slots=True)
class Encoding:
    """One content coding: its decoder, chosen by a stream's first bytes, and how many streams may follow each other."""

    name: str
    begin: Callable[[bytes], _Stream]
    streams_max: int = 1


def _begin_deflate(start: bytes) -> _Stream:
    # RFC 9110 means the zlib format; many clients send bare blocks. One nibble decides: in a bare block it would be a
    # stored block whose padding is not zero, which no encoder writes.
    return _Inflating(_ZLIB_WRAPPER if start[0] & 0x0F == _ZLIB_METHOD else _NO_WRAPPER)


_GZIP: Final = Encoding("gzip", lambda _: _Inflating(_GZIP_WRAPPER), _STREAMS_MAX)
_ENCODINGS: Final = {
    "gzip": _GZIP,
    "x-gzip": _GZIP,
    "deflate": Encoding("deflate", _begin_deflate),
    "zstd": Encoding("zstd", lambda _: _Zstd(), _STREAMS_MAX),
    "br": Encoding("br", lambda _: _Brotli()),
}


def encoding_of(header: str) -> Encoding | None:
    """The coding in a Content-Encoding header; None if there is none. Raises UnsupportedContentEncoding."""
    # A list may have empty elements (RFC 9110 §5.6.1), and identity changes nothing.
    names = [name for part in header.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not names:
        return None
    # Two codings on top of each other multiply what a byte can expand to, and no client sends them.
    if len(names) > 1 or names[0] not in _ENCODINGS:
        raise UnsupportedContentEncoding
    return _ENCODINGS[names[0]]


def expand(
    read: Callable[[int], bytes], encoding: Encoding, *, compressed_bytes_max: int, expanded_bytes_max: int
) -> bytes:
    """The expanded form of the body that `read(size)` yields in pieces; an empty piece is its end.

    Raises PayloadTooLarge as soon as a limit is passed, and BadRequest if the body is corrupt, or ends before or after
    its streams do.
    """
    expanded = BytesIO()  # getvalue() copies nothing; joining pieces would hold the body twice
    stream: _Stream | None = None
    streams = 0
    for chunk in _chunks(read, compressed_bytes_max):
        rest = chunk
        while rest:
            if stream is None or stream.is_finished:
                streams += 1
                if streams > encoding.streams_max:
                    raise BadRequest(_too_many_streams(encoding))
                stream = encoding.begin(rest)
            try:
                rest = _expand_into(expanded, stream, rest, expanded_bytes_max)
            except (zlib.error, zstd.ZstdError, brotli.error):
                raise BadRequest(_cannot_be_expanded(encoding)) from None
    if stream is None or not stream.is_finished:
        raise BadRequest(f"The {encoding.name} body ends before its end.")
    return expanded.getvalue()


def _chunks(read: Callable[[int], bytes], bytes_max: int) -> Iterator[bytes]:
    taken = 0
    while chunk := read(min(_CHUNK_BYTES, bytes_max + 1 - taken)):
        taken += len(chunk)
        if taken > bytes_max:
            raise PayloadTooLarge(f"The compressed body is larger than {bytes_max} bytes.")
        yield chunk


def _expand_into(expanded: BytesIO, stream: _Stream, data: bytes, bytes_max: int) -> bytes:
    """Write what `data` expands to; return the bytes behind the end of the stream."""
    while True:
        expanded.write(stream.step(data))
        if expanded.tell() > bytes_max:
            raise PayloadTooLarge(f"The body is larger than {bytes_max} bytes when expanded.")
        if stream.is_finished:
            return stream.rest
        if stream.is_hungry:
            return b""
        data = b""


def _too_many_streams(encoding: Encoding) -> str:
    if encoding.streams_max == 1:
        return f"The {encoding.name} body goes on after its end."
    return f"The {encoding.name} body is made of more than {encoding.streams_max} parts."


def _cannot_be_expanded(encoding: Encoding) -> str:
    window = ", or needs a window above 8 MiB" if encoding.name == "zstd" else ""
    return f"The {encoding.name} body cannot be expanded: it is corrupt, or goes on after its end{window}."
