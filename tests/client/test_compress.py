"""What is compressed is what the daemon decompresses, and what cannot get smaller is left alone."""

from __future__ import annotations

import gzip
import sys

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from arc.client import compress as module
from arc.client.compress import compress, decompress, encoding_of
from arc.client.errors import UsageError
from ingest.decompress import decompress as decompress_as_the_daemon

BODY = b"\x83\xa1m\xa3cpu" + bytes(range(256)) * 40


@pytest.fixture(params=["zstd", "gzip"])
def encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both formats, gzip as where `backports.zstd` is not installed."""
    if request.param == "gzip":
        monkeypatch.setitem(sys.modules, "backports.zstd", None)
        monkeypatch.delattr("backports.zstd")
    return str(request.param)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_body_comes_back_as_it_was(encoding: str, kind: type[bytes | bytearray]) -> None:
    small = compress(kind(BODY), 1)
    assert len(small) < len(BODY)
    assert encoding_of(small) == encoding
    assert decompress(small) == BODY
    assert decompress_as_the_daemon(bytes(small), encoding, len(BODY)) == BODY


@given(st.binary(max_size=200), st.integers(0, 20), st.integers(0, 300))
def test_whatever_it_is_comes_back(piece: bytes, times: int, minimum: int) -> None:
    body = b"\x83" + piece * times
    assert decompress(compress(body, minimum)) == body


def test_a_body_under_the_minimum_is_the_same_object(encoding: str) -> None:
    assert compress(BODY, len(BODY) + 1) is BODY
    assert compress(BODY, len(BODY)) is not BODY
    assert encoding_of(BODY) is None


def test_a_body_that_would_not_get_smaller_is_the_same_object(encoding: str) -> None:
    body = bytearray(b"\x93abc")
    assert compress(body, 0) is body
    assert decompress(body) == bytes(body)


@pytest.mark.parametrize("spoil", ["cut", "bit", "tail"])
def test_a_damaged_body_is_refused(encoding: str, spoil: str) -> None:
    small = bytearray(compress(BODY, 1))
    if spoil == "cut":
        del small[-5:]
    elif spoil == "bit":
        small[10] ^= 0xFF
    else:
        small += b"tail"
    with pytest.raises(UsageError, match=f"a body of {encoding} is damaged"):
        decompress(small)


def test_a_body_that_grows_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DECOMPRESSED_BYTES", 1_000)
    for small in (zstd.compress(bytes(1_001)), gzip.compress(bytes(1_001))):
        with pytest.raises(UsageError, match="more than 1000 bytes once decompressed"):
            decompress(small)
    for small in (zstd.compress(bytes(1_000)), gzip.compress(bytes(1_000))):
        assert decompress(small) == bytes(1_000)


def test_zstd_that_cannot_be_read_here_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    small = zstd.compress(BODY)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.delattr("backports.zstd")
    with pytest.raises(UsageError, match=r"cannot be read without backports\.zstd"):
        decompress(small)
