"""Compressed bodies, expanded while they are read: exact, and nothing that is not whole."""

import gzip
import random
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, repeat

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, PayloadTooLarge, UnsupportedContentEncoding
from app.wire.content_encoding import encoding_of, expand
from tests.support.examples import examples

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MEBIBYTE = 1_048_576


def _bare_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(data) + encoder.flush()


def _checked_zstd(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


_COMPRESS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", _bare_deflate),
    "zstd": ("zstd", zstd.compress),
    "zstd with a checksum": ("zstd", _checked_zstd),
    "br": ("br", brotli.compress),
}
_KINDS = sorted(_COMPRESS)
# Some of it repeats and some does not: several blocks, several steps of output.
_TEXT = random.Random(7).randbytes(70_000) + b"lariba " * 30_000


def _reader(data: bytes, *sizes: int) -> Callable[[int], bytes]:
    """Yields `data` in pieces of the given sizes, the last of them again and again, or as large as asked for."""
    place = [0]
    wanted = chain(sizes, repeat(sizes[-1] if sizes else len(data) + 1))

    def read(size: int) -> bytes:
        start = place[0]
        place[0] = start + min(size, next(wanted))
        return data[start : place[0]]

    return read


def _expanded(
    data: bytes,
    name: str,
    *sizes: int,
    compressed_bytes_max: int = _MEBIBYTE,
    expanded_bytes_max: int = _MEBIBYTE,
) -> bytes:
    encoding = encoding_of(name)
    assert encoding is not None
    return expand(
        _reader(data, *sizes),
        encoding,
        compressed_bytes_max=compressed_bytes_max,
        expanded_bytes_max=expanded_bytes_max,
    )


class TestTaking:
    @pytest.mark.parametrize("kind", _KINDS)
    @pytest.mark.parametrize("size", [1, 7, 65_536, 1_000_000])
    @pytest.mark.parametrize("data", [b"", b"x", b"{}", _TEXT], ids=["nothing", "a byte", "an object", "a text"])
    def test_what_was_compressed_comes_back(self, kind: str, size: int, data: bytes) -> None:
        name, compress = _COMPRESS[kind]

        assert _expanded(compress(data), name, size) == data

    @pytest.mark.parametrize("level", range(10))
    def test_bare_deflate_is_distinguished_from_wrapped_at_every_level(self, level: int) -> None:
        for data in (b"", b"x", _TEXT):
            for wrapper in (-15, -9, 9, 15):
                encoder = zlib.compressobj(level, wbits=wrapper)
                assert _expanded(encoder.compress(data) + encoder.flush(), "deflate") == data

    @pytest.mark.parametrize("size", [1, 3, 65_536])
    def test_members_of_gzip_and_frames_of_zstd_follow_each_other(self, size: int) -> None:
        skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"

        assert _expanded(gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b"), "gzip", size) == b"ab"
        assert _expanded(zstd.compress(b"a") + skippable + zstd.compress(b"b"), "zstd", size) == b"ab"

    def test_a_body_may_be_as_large_as_each_limit_and_no_larger(self) -> None:
        for name, compress in _COMPRESS.values():
            body = compress(_TEXT)
            limits = {"compressed_bytes_max": len(body), "expanded_bytes_max": len(_TEXT)}
            assert _expanded(body, name, **limits) == _TEXT
            with pytest.raises(PayloadTooLarge, match="compressed body is larger than"):
                _expanded(body, name, **limits | {"compressed_bytes_max": len(body) - 1})
            with pytest.raises(PayloadTooLarge, match="when expanded"):
                _expanded(body, name, **limits | {"expanded_bytes_max": len(_TEXT) - 1})


class TestRefusing:
    @pytest.mark.parametrize("kind", _KINDS)
    def test_a_body_that_is_cut_anywhere_is_refused(self, kind: str) -> None:
        name, compress = _COMPRESS[kind]
        whole = compress(b'{"event_type": "payment.failed", "payload": {"amount": 49.99}}' * 3)
        for length in range(len(whole)):
            with pytest.raises(BadRequest, match=f"^The {name} body ends before its end"):
                _expanded(whole[:length], name)

    @pytest.mark.parametrize("kind", _KINDS)
    @pytest.mark.parametrize("rest", [b"\x00", b"x", b"{}" * 50, b"\xff" * 70_000])
    @pytest.mark.parametrize("size", [1, 1_000_000])
    def test_a_body_that_goes_on_after_its_end_is_refused(self, kind: str, rest: bytes, size: int) -> None:
        name, compress = _COMPRESS[kind]
        for data in (b"{}", _TEXT):
            with pytest.raises(BadRequest):
                _expanded(compress(data) + rest, name, size)

    def test_deflate_and_br_streams_do_not_follow_each_other(self) -> None:
        for kind in ("deflate", "bare deflate", "br"):
            name, compress = _COMPRESS[kind]
            for size in (1, 1_000):
                with pytest.raises(BadRequest, match="after its end"):
                    _expanded(compress(b"a") + compress(b"b"), name, size)

    @pytest.mark.parametrize("kind", ["gzip", "deflate", "zstd with a checksum"])
    def test_a_wrong_bit_in_what_carries_a_checksum_is_found(self, kind: str) -> None:
        name, compress = _COMPRESS[kind]
        data = b"lariba" * 20
        whole = compress(data)
        for bit in range(len(whole) * 8):
            wrong = bytearray(whole)
            wrong[bit // 8] ^= 1 << bit % 8
            with suppress(BadRequest, PayloadTooLarge):
                assert _expanded(bytes(wrong), name) == data  # a bit that means nothing, as gzip's time stamp

    @pytest.mark.parametrize("name", ["gzip", "deflate", "zstd", "br"])
    def test_plain_json_under_the_name_of_an_encoding_is_refused(self, name: str) -> None:
        with pytest.raises(BadRequest):
            _expanded(b'{"event_type": "payment.failed"}', name)

    def test_what_needs_a_dictionary_is_refused(self) -> None:
        dictionary = b"payment.failed " * 100
        encoder = zlib.compressobj(zdict=dictionary)
        deflated = encoder.compress(dictionary) + encoder.flush()
        framed = zstd.compress(dictionary, zstd_dict=zstd.ZstdDict(dictionary, is_raw=True))

        for body, name in ((deflated, "deflate"), (framed, "zstd")):
            with pytest.raises(BadRequest):
                _expanded(body, name)


class TestNames:
    @pytest.mark.parametrize("header", ["", " ", "identity", "Identity", ",", "identity, identity"])
    def test_no_encoding_and_identity_are_a_body_as_it_is(self, header: str) -> None:
        assert encoding_of(header) is None

    @pytest.mark.parametrize(
        ("header", "name"),
        [("GZip", "gzip"), ("x-gzip", "gzip"), (" br ", "br"), (",zstd,", "zstd"), ("identity, deflate", "deflate")],
    )
    def test_names_are_read_as_http_means_them(self, header: str, name: str) -> None:
        encoding = encoding_of(header)

        assert encoding is not None
        assert encoding.name == name

    @pytest.mark.parametrize(
        "header", ["compress", "gzip, gzip", "gzip, br", "gzip;q=1", "*", "aws-chunked", "\xff", "zstd " + "x" * 9_000]
    )
    def test_an_unknown_encoding_and_more_than_one_are_refused(self, header: str) -> None:
        with pytest.raises(UnsupportedContentEncoding):
            encoding_of(header)

    def test_the_refusal_lists_what_is_taken(self) -> None:
        listed = str(UnsupportedContentEncoding.accept_encoding).split(", ")

        assert listed == ["gzip", "deflate", "zstd", "br"]
        for name in listed:
            assert encoding_of(name) is not None
            assert name in UnsupportedContentEncoding().message


_few = settings(max_examples=examples(100), deadline=None)


@_few
@given(
    data=st.binary(max_size=3_000) | st.text(max_size=3).map(lambda text: text.encode() * 40_000),
    kind=st.sampled_from(_KINDS),
    sizes=st.lists(st.integers(1, 5_000), min_size=1, max_size=9),
)
def test_any_bytes_come_back_through_any_encoding_in_any_pieces(data: bytes, kind: str, sizes: list[int]) -> None:
    name, compress = _COMPRESS[kind]

    assert _expanded(compress(data), name, *sizes) == data


@_few
@given(data=st.binary(max_size=300), name=st.sampled_from(["gzip", "deflate", "zstd", "br"]), size=st.integers(1, 300))
def test_no_bytes_whatever_they_are_raise_anything_but_a_refusal(data: bytes, name: str, size: int) -> None:
    with suppress(BadRequest, PayloadTooLarge):
        _expanded(data, name, size)


@_few
@given(
    kind=st.sampled_from(_KINDS),
    changes=st.dictionaries(st.integers(0, 500), st.integers(0, 255), min_size=1, max_size=5),
    size=st.integers(1, 500),
)
def test_no_change_to_a_compressed_body_raises_anything_but_a_refusal(
    kind: str, changes: dict[int, int], size: int
) -> None:
    name, compress = _COMPRESS[kind]
    body = bytearray(compress(b'{"event_type": "payment.failed"}' * 500))
    for place, value in changes.items():
        body[place % len(body)] = value

    with suppress(BadRequest, PayloadTooLarge):
        _expanded(bytes(body), name, size)
