"""The line protocol decoder and its slow twin: equal on whatever bytes, and right by the tables.

The tables hold the syntax case by case; floats are held to Python's own `float`, bit for bit.
"""

from __future__ import annotations

import math
import random
import struct
import warnings
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from influxdb_client.client.write.point import Point

from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import (
    DecodeError,
    IngestError,
    InvalidNameError,
    LimitError,
    PayloadError,
    TimeError,
    TooLargeError,
)
from ingest.limits import Limits
from ingest.line_protocol import decode, decode_fast
from ingest.line_protocol_slow import decode_slow, pieces
from ingest.testing import assert_same_batches
from ingest.timestamps import TimeUnit

NOW_US = 1_768_473_000_000_000
LIMITS = Limits()
UINT64_MAX = 2**64 - 1
EXACT = "wanted an integer up to 2**53, since there is a float"
SIGNED = "wanted an integer up to 2**63 - 1, since there is -1"


def outcome(
    decoder: Any, body: bytes, limits: Limits, unit: TimeUnit
) -> list[ColumnBatch] | tuple[type[IngestError], str]:
    """What a decoder makes of a body: batches, or the error in its words."""
    try:
        batches: list[ColumnBatch] = decoder(body, NOW_US, limits, unit)
    except IngestError as error:
        return type(error), str(error)
    return batches


def check(
    body: bytes, limits: Limits = LIMITS, unit: TimeUnit = TimeUnit.NS
) -> list[ColumnBatch] | tuple[type[IngestError], str]:
    """The outcome of a body, on which decoder and twin agree."""
    found = outcome(decode, body, limits, unit)
    wanted = outcome(decode_slow, body, limits, unit)
    if isinstance(found, tuple) or isinstance(wanted, tuple):
        assert found == wanted
    else:
        assert_same_batches(found, wanted)
    return found


def accepted(body: bytes, *, fast: bool = True, unit: TimeUnit = TimeUnit.NS) -> list[ColumnBatch]:
    """The batches of a body that both take, by the fast path if so said, else without it."""
    found = check(body, unit=unit)
    assert isinstance(found, list), found
    assert (decode_fast(body, NOW_US, LIMITS, unit) is not None) == fast
    return found


def refused(
    body: bytes,
    error: type[IngestError],
    *texts: str,
    limits: Limits = LIMITS,
    unit: TimeUnit = TimeUnit.NS,
) -> None:
    """Both refuse a body, in the same words, of which `texts` are a part."""
    found = check(body, limits, unit)
    assert isinstance(found, tuple), "it was taken"
    assert found[0] is error
    for text in texts:
        assert text in found[1]


def values_of(column: Column) -> list[Any]:
    """The values of a column, None where it is null."""
    rows = len(column.values) if column.offsets is None else len(column.offsets) - 1
    present = [True] * rows if column.validity is None else column.validity.tolist()
    if column.offsets is None:
        plain = column.values.tolist()
    else:
        ends = column.offsets.tolist()
        blob = column.values.tobytes()
        plain = [blob[ends[i] : ends[i + 1]].decode() for i in range(rows)]
    return [value if there else None for value, there in zip(plain, present, strict=True)]


def rows_of(body: bytes, *, fast: bool = True) -> list[tuple[str, dict[str, Any], set[str]]]:
    """Measurement, values by column and tags of each batch."""
    return [
        (batch.measurement, {n: values_of(c) for n, c in batch.columns.items()}, set(batch.tags))
        for batch in accepted(body, fast=fast)
    ]


def value_of(text: bytes, *, fast: bool = True) -> Any:
    """The value that a field spelled so has."""
    ((_, columns, _),) = rows_of(b"m v=" + text, fast=fast)
    return columns["v"][0]


def time_of(text: bytes, unit: TimeUnit = TimeUnit.NS) -> int:
    """The stored time of a line with this time."""
    (batch,) = accepted(b"m v=1 " + text, unit=unit)
    return int(batch.time_us[0])


# ------------------------------------------------------------------------ random bodies, any bytes

PIECES = (
    *(b"m", b"cpu", b"t", b"v", b"host", b"usage_idle", b"a_very_long_name_of_a_column", b"time"),
    *(b",", b" ", b"=", b"\n", b"\r\n", b"\\", b'"', b"#", b"\t", b"  ", b"\\ ", b"\\,", b"\\="),
    *(b"1", b"-1", b"1.5", b"1i", b"7u", b"t", b"false", b"e5", b".", b'"a b"', b'"\\""', b"nan"),
    *(b"0123456789012345678901", b"18446744073709551615u", b"\xc3\xa9", b"\xff", b"\0", b"_value"),
    *(b"m v=1\n", b"m,t=a v=1i 5\n", b'm v="x",w=T\n', b"# no\n", b"cpu,host=a usage_idle=1\n"),
)

NAMES = (
    "v",
    "host",
    "usage idle",
    "a,b",
    "k=v",
    "größe",
    "x" * 255,
    "\\",
    "a\\b",
    "日本",
    "_",
    "9",
)
SPELLINGS: dict[str, list[bytes]] = {
    "float": [b"1", b"-0", b"0.1", b".5", b"5.", b"1e3", b"-1.5E-7", b"123456.789", b"1e22"],
    "int": [b"0i", b"-1i", b"9007199254740992i", b"007i", b"12345678901i", b"1u"],
    "wide": [b"9223372036854775807i", b"-9223372036854775808i", b"1i", b"9007199254740993i"],
    "unsigned": [b"18446744073709551615u", b"9223372036854775808u", b"0u", b"1i"],
    "number": [b"1i", b"1.5", b"-9007199254740992i", b"3u"],
    "bool": [b"t", b"T", b"true", b"True", b"TRUE", b"f", b"F", b"false", b"False", b"FALSE"],
    "string": [
        *(b'""', b'"a"', b'"a b,c=d"', b'"\\""', b'"\\\\"', b'"x\\ny"', b'"two\nlines"'),
        *('"größe 日本"'.encode(), b'"' + b"long " * 20 + b'"', b'"#"', b'"\\\\\\" = "'),
    ],
}
TAG_VALUES = (
    "a",
    "server 1",
    "eu,west",
    "k=v",
    "größe",
    "\\",
    "c:\\dir",
    'q"',
    "x" * 40,
    "0i",
    "日",
)


def escaped(text: str, special: str = ",= ") -> bytes:
    """A name or tag value as it stands in a line."""
    for character in special:
        text = text.replace(character, "\\" + character)
    return text.encode()


def random_lines(rng: random.Random, lines: int) -> bytes:
    """A body that every decoder has to take: a few shapes of lines, repeated and varied."""
    shapes = []
    for measurement in rng.sample(["m", "disk io", "a,b", "größe", "k=v", "x" * 128], 3):
        names = rng.sample(NAMES, rng.randint(1, 6))
        split = rng.randrange(len(names))
        fields = {name: rng.choice(list(SPELLINGS)) for name in names[split:]}
        shapes.append((measurement, [n for n in names[:split] if not n.endswith("\\")], fields))
    found = []
    for _ in range(rng.randint(1, lines)):
        measurement, tags, fields = rng.choice(shapes[: rng.randint(1, 3)])
        line = escaped(measurement, ", ")
        for tag in tags if rng.random() < 0.8 else rng.sample(tags, len(tags)):
            if rng.random() < 0.9:
                value = rng.choice(TAG_VALUES)
                line += b"," + escaped(tag) + b"=" + escaped(value + ("." if value == "\\" else ""))
        kept = [name for name in fields if rng.random() < 0.8] or list(fields)[:1]
        pairs = [
            escaped(n + "." * n.endswith("\\")) + b"=" + rng.choice(SPELLINGS[fields[n]])
            for n in kept
        ]
        line += b" " * rng.choice((1, 1, 1, 2)) + b",".join(pairs)
        if rng.random() < 0.8:
            line += b" %d" % rng.choice((0, -1, rng.randrange(10**18), 1_768_473_000_000_000_000))
        found.append(line + rng.choice((b"", b"", b"", b" ", b"  \t")))
    for _ in range(rng.randint(0, 2)):
        found.insert(rng.randrange(len(found) + 1), rng.choice((b"", b'# "= x', b"  ", b"\t#")))
    end = rng.choice((b"\n", b"\n", b"\r\n"))
    return end.join(found) + end * rng.randint(0, 2)


SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
BODIES = st.builds(random_lines, SEEDS, st.integers(1, 30))
UNITS = st.sampled_from(list(TimeUnit))


@settings(max_examples=300)
@given(BODIES)
def test_decoder_and_twin_agree_on_good_bodies(body: bytes) -> None:
    found = check(body)
    assert isinstance(found, list), found
    assert decode_fast(body, NOW_US, LIMITS) is not None


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join), UNITS)
def test_decoder_and_twin_agree_on_anything_made_of_the_tokens(body: bytes, unit: TimeUnit) -> None:
    check(body, unit=unit)


@settings(max_examples=300)
@given(BODIES, SEEDS)
def test_decoder_and_twin_agree_on_changed_bodies(body: bytes, rng: random.Random) -> None:
    changed = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed))
        changed[at : at + rng.randint(0, 2)] = rng.choice((*PIECES, rng.randbytes(1)))
        if not changed:
            break
    check(bytes(changed))


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_decoder_and_twin_agree_on_any_bytes(body: bytes) -> None:
    check(body)


@pytest.mark.parametrize("seed", range(6))
def test_decoder_and_twin_agree_wherever_a_body_is_cut_off(seed: int) -> None:
    body = random_lines(random.Random(seed), 5)
    for end in range(len(body)):
        check(body[:end])


@settings(max_examples=200)
@given(BODIES, st.integers(1, 30), st.integers(1, 40), st.integers(0, 3000), st.integers(1, 300))
def test_decoder_and_twin_agree_about_every_limit(
    body: bytes, columns: int, request_columns: int, size: int, elements: int
) -> None:
    limits = Limits(
        max_columns=columns, max_request_columns=request_columns, max_decoded_bytes=size
    )
    check(body, limits)
    outcome(decode, body, Limits(max_elements=elements), TimeUnit.NS)


@settings(max_examples=300)
@given(st.one_of(BODIES, st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join)))
def test_pieces_are_the_lines_of_a_body_and_each_is_judged_as_in_it(body: bytes) -> None:
    found = pieces(body)
    numbers = [number for number, _ in found]
    assert numbers == sorted(set(numbers))
    judged = [outcome(decode, piece, LIMITS, TimeUnit.NS) for _, piece in found]
    whole = outcome(decode, body, LIMITS, TimeUnit.NS)
    bad = [n for n, result in zip(numbers, judged, strict=True) if isinstance(result, tuple)]
    if isinstance(whole, list):
        assert not bad
        assert sum(batch.num_rows for batch in whole) == len(found)
    elif bad:
        assert f"{len(bad)} of {len(found)} lines" in whole[1] or " both be stored as " in whole[1]
    for (_, piece), result in zip(found, judged, strict=True):
        assert [line for _, line in pieces(piece)] == [piece]
        assert isinstance(result, tuple) or [batch.num_rows for batch in result] == [1]


# --------------------------------------------------------------------------------------- floats

FLOAT_FORMATS = (
    "{!r}",
    "{:.17g}",
    "{:.3f}",
    "{:.25e}",
    "{:.1100f}",
    "{:.6E}",
    "{:.15g}",
    "{:.20g}",
)


def same_float(text: bytes) -> None:
    """A number reads as Python reads it, bit for bit, on both paths."""
    wanted = float(text)
    if math.isinf(wanted):
        refused(b"m v=" + text, PayloadError, "field 'v'")
        return
    (batch,) = decode_slow(b"m v=" + text, NOW_US, LIMITS)
    assert struct.pack("d", batch.columns["v"].values[0]) == struct.pack("d", wanted)
    fast = decode_fast(b"m v=" + text, NOW_US, LIMITS)
    if fast is not None:
        assert struct.pack("d", fast[0].columns["v"].values[0]) == struct.pack("d", wanted)
    elif len(text) < 25:
        raise AssertionError(f"{text!r} went to the slow twin")


@settings(max_examples=1000)
@given(st.floats(allow_nan=False, allow_infinity=False, width=64), st.sampled_from(FLOAT_FORMATS))
@example(2.2250738585072011e-308, "{!r}")
@example(9007199254740993.0, "{!r}")
@example(5e-324, "{:.1100f}")
def test_floats_in_every_format_read_as_python_reads_them(value: float, form: str) -> None:
    same_float(form.format(value).encode())


@settings(max_examples=1000)
@given(st.integers(0, 10**22), st.integers(-400, 330), st.booleans())
def test_digits_and_a_power_of_ten_read_as_python_reads_them(
    digits: int, power: int, negative: bool
) -> None:
    same_float(b"%s%de%d" % (b"-" if negative else b"", digits, power))


@settings(max_examples=1000)
@given(st.integers(0, 0x7FEFFFFFFFFFFFFF), st.integers(-1, 1), st.integers(17, 800))
def test_halfway_cases_read_as_python_reads_them(bits: int, nudge: int, digits: int) -> None:
    one, other = (struct.unpack("d", struct.pack("q", bits + i))[0] for i in (0, 1))
    if math.isinf(other):
        return
    middle = (Fraction(one) + Fraction(other)) / 2
    scale = 10**1080
    text = str(int(middle * scale) + nudge * 10 ** random.Random(bits).randint(0, 700))
    first, rest = text[:1], text[1:]
    if first == "-" or not text.strip("0"):
        return
    same_float(f"{first}.{rest}e{len(rest) - 1080}".encode())
    same_float(f"{first}.{rest[:digits]}e{len(rest) - 1080}".encode())


@settings(max_examples=1000)
@given(st.text(alphabet="0123456789.eE+-iu", min_size=1, max_size=12).map(str.encode))
def test_anything_like_a_number_is_judged_alike_by_both(text: bytes) -> None:
    check(b"m v=" + text)
    check(b"m v=" + text + b",w=1 5")


# ----------------------------------------------------------------------------- the syntax, by case


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *((b"1", 1.0), (b"-1", -1.0), (b"1.5", 1.5), (b".5", 0.5), (b"5.", 5.0), (b"-.5", -0.5)),
        *((b"1e5", 1e5), (b"1E5", 1e5), (b"1e+5", 1e5), (b"1e-5", 1e-5), (b"1.e5", 1e5)),
        *((b"00.50", 0.5), (b"1e-400", 0.0), (b"0e999", 0.0), (b"1" * 40, float("1" * 40))),
        *((b"1i", 1), (b"-1i", -1), (b"0i", 0), (b"-0i", 0), (b"007i", 7), (b"0" * 30 + b"7i", 7)),
        *((b"9223372036854775807i", 2**63 - 1), (b"-9223372036854775808i", -(2**63))),
        *((b"0u", 0), (b"9223372036854775807u", 2**63 - 1), (b"9223372036854775808u", 2**63)),
        *((b"18446744073709551615u", UINT64_MAX), (b"00018446744073709551615u", UINT64_MAX)),
        *((b"t", True), (b"T", True), (b"true", True), (b"True", True), (b"TRUE", True)),
        *((b"f", False), (b"F", False), (b"false", False), (b"False", False), (b"FALSE", False)),
        *((b'""', ""), (b'"a"', "a"), (b'"a b,c=d#"', "a b,c=d#"), (b'"\\""', '"')),
        *((b'"\\\\"', "\\"), (b'"\\n"', "\\n"), (b'"\\\\\\\\"', "\\\\"), (b'"a\\\\\\"b"', 'a\\"b')),
        *((b'"a\nb"', "a\nb"), (b'"a\r\nb"', "a\r\nb"), ('"größe 日"'.encode(), "größe 日")),
        *((b'"\\ \\, \\="', "\\ \\, \\="), (b'"\0"', "\0"), (b'"' + b"x" * 99 + b'"', "x" * 99)),
    ],
)
def test_a_value_in_each_spelling(text: bytes, wanted: Any) -> None:
    found = value_of(text)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"nan", b"NaN", b"NAN", b"-nan", b"inf", b"Inf", b"-inf", b"+Inf", b"infinity"),
        *(b"+1", b"+1i", b"--1", b"1-", b"1+1", b"1.2.3", b".", b"-", b"-.", b"e5", b".e5", b"1e"),
        *(b"1e+", b"1e5.5", b"1ee5", b"1e400", b"-1e400", b"1_000", b"0x10", b"1f", b"1d", b"1,5x"),
        *(b"9" * 400, b"i", b"-i", b"1.5i", b"1e5i", b"1ii", b"1iu", b"1i0", b".i", b"u", b"-1u"),
        *(b"9223372036854775808i", b"-9223372036854775809i", b"18446744073709551616u", b"-0u"),
        *(b"99999999999999999999999i", b"99999999999999999999999u", b"1.5u", b"1t", b"1n"),
        *(b"tr", b"tRUE", b"truE", b"truex", b"yes", b"fal", b"fALSE", b"tt", b"abc", b"'a'"),
        *(b'"', b'"a', b'"a\\"', b'"a"b', b'"a""b"', b'a"b"', b'"a"i', b"\\", b"\xc3\xa9", b"1\t"),
        *(b"0" * 2000 + b"1", b"1" * 2000 + b"i", b"1." + b"0" * 2000),
    ],
)
def test_a_value_that_is_none_is_an_error_and_never_a_string(text: bytes) -> None:
    refused(
        b"m w=1i,v=" + text, PayloadError, "line 1, ", "1 of 1 lines is bad; nothing was written"
    )


@pytest.mark.parametrize(
    ("line", "measurement", "wanted", "tags"),
    [
        (b"m v=1", "m", {"v": [1.0]}, set()),
        (b"m,t=a v=1", "m", {"t": ["a"], "v": [1.0]}, {"t"}),
        (b"m  \t v=1", "m", {"v": [1.0]}, set()),
        (b" \t m v=1", "m", {"v": [1.0]}, set()),
        (rb"a\ b\,c\=d,t\ 1\,2\=3=x\ y\,z\=w f\ 1\,2\=3=1", r"a b,c\=d",
         {"t 1,2=3": ["x y,z=w"], "f 1,2=3": [1.0]}, {"t 1,2=3"}),
        (rb"a\b\\c,t\x=c:\dir\\x,u=\\\\srv f\y=1", r"a\b\\c",
         {r"t\x": [r"c:\dir\\x"], "u": [r"\\\\srv"], r"f\y": [1.0]}, {r"t\x", "u"}),
        (rb"m,t=a\\\,b v=1", "m", {"t": [r"a\\,b"], "v": [1.0]}, {"t"}),
        (rb"\#m v=1", r"\#m", {"v": [1.0]}, set()),
        (rb"\,m v=1", ",m", {"v": [1.0]}, set()),
        (b'm"x,"t"="a" "v"=1', 'm"x', {'"t"': ['"a"'], '"v"': [1.0]}, {'"t"'}),
        (b"a=b,t=c v=1", "a=b", {"t": ["c"], "v": [1.0]}, {"t"}),
        (b"m,t=#a #v=1", "m", {"t": ["#a"], "#v": [1.0]}, {"t"}),
        ("größe,日=é ü=1".encode(), "größe", {"日": ["é"], "ü": [1.0]}, {"日"}),
        (b"m,t=a\tb \tv=1", "m", {"t": ["a\tb"], "v": [1.0]}, {"t"}),
    ],
)  # fmt: skip
def test_names_and_their_escapes(
    line: bytes, measurement: str, wanted: dict[str, Any], tags: set[str]
) -> None:
    assert rows_of(line) == [(measurement, wanted, tags)]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"m", "byte 1: found the end of the line, wanted a space and a field"),
        (b"m ", "wanted a space and a field"),
        (b"m,t=a", "found the end of the line, wanted a space and a field"),
        (b",t=a v=1", "byte 0: found ',t=a v=1', wanted the name of a measurement"),
        (b"m,", "byte 2: found the end of the line, wanted the key of a tag"),
        (b"m, v=1", "found ' v=1', wanted the key of a tag"),
        (b"m,=a v=1", "wanted the key of a tag"),
        (b"m,t v=1", "found ' v=1', wanted '=' after the key of tag 't'"),
        (b"m,t= v=1", "found ' v=1', wanted the value of tag 't'"),
        (b"m,t=,u=a v=1", "wanted the value of tag 't'"),
        (b"m,t=a=b v=1", "found '=b v=1', wanted a comma or a space after the value of tag 't'"),
        (b"m,t=a, v=1", "wanted the key of a tag"),
        (b"m,t=a,t=b v=1", "tag 't' is there twice"),
        (b"m v", "wanted '=' after the key of field 'v'"),
        (b"m =1", "found '=1', wanted the key of a field"),
        (b"m v=1,", "found the end of the line, wanted the key of a field"),
        (b"m v=1,,w=1", "wanted the key of a field"),
        (b"m v=1,w", "wanted '=' after the key of field 'w'"),
        (b"m v w=1", "wanted '=' after the key of field 'v'"),
        (b'm v="abc', "field 'v': found no quote that closes the string"),
        (b'm v="abc"d', "found 'd', wanted a comma or a space after the string of field 'v'"),
        (b"m v=1.2.3", "field 'v': found '1.2.3', wanted a number, an integer with 'i' or 'u'"),
        (b"m v=abc", "field 'v': found 'abc'"),
        (b"m v=", "field 'v': found nothing"),
        (b"m v=1 5 6", "found '6', wanted the end of the line after the time"),
        (b"m v=1 5,6", "found ',6', wanted the end of the line after the time"),
        (b"m" * 129 + b" v=1", "129 characters"),
        (b"m\0 v=1", "U+0000"),
        (b"m\tv=1", "U+0009"),
        (b"m " + b"k" * 256 + b"=1", "has a name of 256 bytes"),
        (b"m\\", "found the end of the line"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_what_was_found_and_wanted(line: bytes, text: str) -> None:
    found = check(b"m v=1\n# comment\n\n" + line + b"\nm v=2\n" if b'"abc' not in line else line)
    assert isinstance(found, tuple)
    assert text in found[1]
    if b'"abc' not in line:
        assert "line 4, " in found[1]
        assert found[1].endswith("; 1 of 3 lines are bad; nothing was written")


def test_the_first_bad_line_is_named_and_all_are_counted() -> None:
    body = b'm v="\n\n"\nbad\nm v=1\nm v=x\n,\n'
    refused(body, PayloadError, "line 4, 'bad': ", "3 of 5 lines are bad; nothing was written")


def test_counting_bad_lines_ends_somewhere() -> None:
    refused(b"m v=1\n" + b"x\n" * 12_000, PayloadError, "10000 of the first 10001 lines are bad")


def test_a_long_or_odd_line_is_shown_cut_and_printable() -> None:
    line = b"m\xff\x1b v=" + b"x" * 1000
    found = check(line)
    assert isinstance(found, tuple)
    assert len(found[1]) < 250
    assert found[1].isprintable()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"\xff v=1", "the measurement is not UTF-8"),
        (b"m,t=\xc3 v=1", "tag 't' is not UTF-8"),
        (b"m,\xff=a v=1", "the key of a tag is not UTF-8"),
        (b"m \xff=1", "the key of a field is not UTF-8"),
        (b'm v="\xed\xa0\x80"', "field 'v' is not UTF-8"),
    ],
)
def test_names_and_strings_that_are_not_utf8_are_refused(line: bytes, text: str) -> None:
    refused(line, DecodeError, text)


def test_a_comment_may_hold_any_bytes_and_quotes() -> None:
    body = b'# \xff "= x="\nm v=1\n  # a=" \n'
    assert rows_of(body, fast=False) == [("m", {"v": [1.0]}, set())]
    assert rows_of(body.replace(b"\xff", b"")) == [("m", {"v": [1.0]}, set())]


@pytest.mark.parametrize("body", [b"\n", b"#", b"# c\n\n  \r\n", b"  ", b"\r\n"])
def test_a_body_without_a_line_is_refused(body: bytes) -> None:
    refused(body, PayloadError, "no line but comments and empty ones")
    refused(b"", DecodeError, "the body is empty")


def test_lines_end_with_a_line_feed_a_carriage_return_before_it_or_the_body() -> None:
    one = b"m,t=a v=1i 1000"
    for end in (b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b" \n", b" \t \r\n", b"\n \n# c\r\n"):
        for last in (b"", end, b"\r"):
            (batch,) = accepted(one + end + one + last)
            assert batch.time_us.tolist() == [1, 1]


# ------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("text", "unit", "wanted"),
    [
        *((b"0", TimeUnit.NS, 0), (b"999", TimeUnit.NS, 0), (b"1000", TimeUnit.NS, 1)),
        *((b"-1", TimeUnit.NS, -1), (b"-1000", TimeUnit.NS, -1), (b"-1001", TimeUnit.NS, -2)),
        (b"1768473000123456789", TimeUnit.NS, 1_768_473_000_123_456),
        (b"1768473000123456", TimeUnit.US, 1_768_473_000_123_456),
        (b"1768473000123", TimeUnit.MS, 1_768_473_000_123_000),
        (b"1768473000", TimeUnit.S, 1_768_473_000_000_000),
        (b"29474550", TimeUnit.M, 1_768_473_000_000_000),
        (b"491242", TimeUnit.H, 1_768_471_200_000_000),
        *((b"-2208988800", TimeUnit.S, -2_208_988_800_000_000), (b"007", TimeUnit.S, 7_000_000)),
        *(
            (b"-0", TimeUnit.S, 0),
            (b"1", TimeUnit.H, 3_600_000_000),
            (b"-1", TimeUnit.M, -60_000_000),
        ),
        (b"9223372036854775807", TimeUnit.NS, 9_223_372_036_854_775),
        (b"9246182399", TimeUnit.S, 9_246_182_399_000_000),
    ],
)
def test_a_time_is_in_the_unit_of_the_request_whatever_its_magnitude(
    text: bytes, unit: TimeUnit, wanted: int
) -> None:
    assert time_of(text, unit) == wanted


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *((b"9223372036854775808", TimeUnit.NS), (b"-9223372036854775809", TimeUnit.NS)),
        *(
            (b"-2208988800000000001", TimeUnit.NS),
            (b"9246182400", TimeUnit.S),
            (b"9" * 99, TimeUnit.S),
        ),
        *(
            (b"-2208988801", TimeUnit.S),
            (b"1768473000", TimeUnit.M),
            (b"1768473000000", TimeUnit.S),
        ),
        *(
            (b"2568384", TimeUnit.H),
            (b"-613609", TimeUnit.H),
            (b"-9223372036854775808", TimeUnit.H),
        ),
    ],
)
def test_a_time_outside_the_years_names_its_line(text: bytes, unit: TimeUnit) -> None:
    body = b"m v=1 0\nm v=1 " + text
    refused(body, TimeError, "line 2, ", "outside the years 1900 to 2262", unit=unit)


@pytest.mark.parametrize("text", [b"1.5", b"1e9", b"+1", b"-", b"1i", b"x", b"--1", b"1-", b"\xff"])
def test_a_time_that_is_no_integer_is_refused(text: bytes) -> None:
    refused(b"m v=1 " + text, TimeError, "wanted an integer")


def test_lines_without_a_time_have_the_time_of_the_request() -> None:
    (batch,) = accepted(b"m v=1\nm v=2 7000\nm v=3 \n")
    assert batch.time_us.tolist() == [NOW_US, 7, NOW_US]
    assert batch.range_us == (7, NOW_US)


# ------------------------------------------------------------------------------- rows to columns


def test_rows_of_a_measurement_with_other_tags_and_fields_have_nulls() -> None:
    body = b'b v=1i 1\na,t=x s="p" 2\nb,t=y w=t,v=2i 3\nb s="",f=.5 4\na,u=z v=1i'
    assert rows_of(body) == [
        (
            "b",
            {
                "v": [1, 2, None],
                "t": [None, "y", None],
                "w": [None, True, None],
                "s": [None, None, ""],
                "f": [None, None, 0.5],
            },
            {"t"},
        ),
        (
            "a",
            {"t": ["x", None], "s": ["p", None], "u": [None, "z"], "v": [None, 1]},
            {"t", "u"},
        ),
    ]


def test_a_field_repeated_in_a_line_has_its_last_value() -> None:
    body = b'm v="a",w=1,v=2i\nm v=3i,w=2'
    assert rows_of(body, fast=False) == [("m", {"v": [2, 3], "w": [1.0, 2.0]}, set())]


@pytest.mark.parametrize(
    ("body", "wanted", "tags"),
    [
        (b"m,a=x a=1", {"a": ["x"], "a_value": [1.0]}, {"a"}),
        (b"m a=1\nm,a=x b=1", {"a_value": [1.0, None], "a": [None, "x"], "b": [None, 1.0]}, {"a"}),
        (b"m time=1", {"time_value": [1.0]}, set()),
        (b"m,time=x v=1", {"time_value": ["x"], "v": [1.0]}, {"time_value"}),
        (b"m Time=1", {"Time": [1.0]}, set()),
    ],
)
def test_a_field_named_as_a_tag_or_the_time_is_stored_under_another_name(
    body: bytes, wanted: dict[str, Any], tags: set[str]
) -> None:
    assert rows_of(body) == [("m", wanted, tags)]


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"m,a=x a=1,a_value=2",
            b"m time=1,time_value=2",
            b"m,time=x time=1",
            b"m,a_value=1,a=1 a=2",
        ),
        *(b"m,time=x time_value=1", b"m a=1\nm a_value=1\nm,a=1 b=1"),
    ],
)
def test_a_name_that_two_columns_would_have_is_refused(body: bytes) -> None:
    refused(body, InvalidNameError, "measurement 'm': ", " would both be stored as column ")


def test_a_name_that_is_too_long_with_its_suffix_is_refused() -> None:
    name = b"k" * 250
    refused(b"m," + name + b"=1 " + name + b"=2", InvalidNameError, "has a name of 256 bytes")


def test_integers_and_floats_of_one_column_are_floats_while_that_is_exact() -> None:
    body = b"m v=1i\nm v=1.5\nm v=-9007199254740992i\nm v=3u"
    assert rows_of(body) == [("m", {"v": [1.0, 1.5, -9007199254740992.0, 3.0]}, set())]
    (batch,) = accepted(body)
    assert batch.columns["v"].type is ColumnType.FLOAT64


@pytest.mark.parametrize(
    ("body", "line", "text"),
    [
        (b"m v=1\nm v=t", 2, "found a boolean, wanted a float as in line 1"),
        (b'm v=1i\n\nm v="a"', 3, "found a string, wanted an integer as in line 1"),
        (b"m v=1i\nm v=2.5\nm v=t", 3, "found a boolean, wanted an integer as in line 1"),
        (b"m v=t\nm v=1", 2, "found a float, wanted a boolean as in line 1"),
        (b"m v=1.5\nm v=9007199254740993i", 2, f"found {2**53 + 1}, {EXACT} in line 1"),
        (b"m v=18446744073709551615u\nm v=1.5", 1, f"found {UINT64_MAX}, {EXACT} in line 2"),
        (b"m v=-1i\nm v=18446744073709551615u", 2, f"found {UINT64_MAX}, {SIGNED} in line 1"),
    ],
)
def test_types_that_cannot_be_one_column_name_their_lines(
    body: bytes, line: int, text: str
) -> None:
    where = f"line {line}: measurement 'm', field 'v': "
    refused(body, PayloadError, where + text, "nothing was written")


def test_types_of_columns_and_which_are_wide() -> None:
    body = b'm,t=a f=1,i=1i,w=9007199254740993i,u=18446744073709551615u,b=t,s="x"'
    (batch,) = accepted(body)
    found = {name: (column.type, column.wide) for name, column in batch.columns.items()}
    assert found == {
        "t": (ColumnType.UTF8, False),
        "f": (ColumnType.FLOAT64, False),
        "i": (ColumnType.INT64, False),
        "w": (ColumnType.INT64, True),
        "u": (ColumnType.UINT64, False),
        "b": (ColumnType.BOOL, False),
        "s": (ColumnType.UTF8, False),
    }


# ------------------------------------------------------------------------------------------ limits


def test_a_body_with_a_column_of_its_own_in_every_line_is_refused_before_it_is_built() -> None:
    sparse = b"".join(b"m k%d=1\n" % i for i in range(10_000))
    refused(sparse, LimitError, "columns of measurement 'm', the time included: 10001, over")
    wide = Limits(max_columns=20_000)
    refused(sparse, TooLargeError, "memory of the columns", limits=wide)


def test_columns_are_counted_over_all_measurements() -> None:
    body = b"".join(b"m%d a=1,b=2\n" % i for i in range(600))
    limits = Limits(max_request_columns=1199)
    refused(
        body, LimitError, "columns of all measurements of one request: 1200, over", limits=limits
    )
    assert isinstance(check(body, Limits(max_request_columns=1200)), list)


def test_memory_is_counted_with_the_cells_that_have_no_value() -> None:
    body = b"".join(b"m k%d=1\n" % (i % 100) for i in range(1000))
    size = 8000 + 100 * (8000 + 1000)
    assert isinstance(check(body, Limits(max_decoded_bytes=size)), list)
    refused(body, TooLargeError, str(size - 1), limits=Limits(max_decoded_bytes=size - 1))


def test_only_the_slow_path_counts_elements() -> None:
    body = b"m v=1\n" * 1000
    limits = Limits(max_elements=1999)
    assert decode(body, NOW_US, limits)[0].num_rows == 1000
    refused(body + b"x", LimitError, "only the slow decoder could take or refuse", limits=limits)
    with pytest.raises(LimitError, match="1000, over the limit of 999"):
        pieces(body, 999)
    assert len(pieces(body, 1000)) == 1000


def test_many_columns_measurements_and_tiny_cells_stay_on_the_fast_path() -> None:
    wide = b"m " + b",".join(b"a%d=1" % i for i in range(1500))
    assert len(accepted(b"\n".join([wide] * 3))[0].columns) == 1500
    assert len(accepted(b"".join(b"m%d v=1\n" % i for i in range(1500)))) == 1500
    assert accepted(b"m a=1\n" * 5000)[0].num_rows == 5000
    assert accepted(b"m a=t,b=f\n" * 5000)[0].num_rows == 5000


def test_a_changing_order_of_keys_changes_nothing() -> None:
    rng = random.Random(5)
    tags, fields = [b"t%d" % i for i in range(9)], [b"f%d" % i for i in range(9)]
    lines = []
    for row in range(300):
        some = rng.sample(tags, rng.randint(0, 9)), rng.sample(fields, rng.randint(1, 9))
        head = b",".join([b"m%d" % rng.randrange(3), *(b"%s=%d" % (tag, row) for tag in some[0])])
        lines.append(head + b" " + b",".join(b"%s=%d" % (name, row) for name in some[1]))
    accepted(b"\n".join(lines))


# ----------------------------------------------------------------------------------------- pieces


def test_pieces_have_the_numbers_of_their_lines_and_keep_strings_whole() -> None:
    body = b'# c\r\nm v="a\nb" 1\r\n\n  \tm,t=a\\ b v=x\nm v="open\n\nm v=2\n'
    assert pieces(body) == [
        (2, b'm v="a\nb" 1'),
        (5, b"m,t=a\\ b v=x"),
        (6, b'm v="open\n\nm v=2\n'),
    ]
    assert pieces(b"") == pieces(b"\n#\n \r\n") == []
    assert pieces(b'm,t="a v="b\nc" 1\nm v=1') == [(1, b'm,t="a v="b\nc" 1'), (3, b"m v=1")]
    assert pieces(b'm v=a"b\nm v=1') == [(1, b'm v=a"b'), (2, b"m v=1")]
    assert pieces(b'm k\\="=1\nm v=1') == [(1, b'm k\\="=1'), (2, b"m v=1")]


# ---------------------------------------------------------------------------------- real producers

new_point: Any = Point  # which has no types
ODD_TEXTS = ("plain", "a b", "a,b", "a=b", 'say "hi"', "c:\\dir", "größe", "日本", "#x", "a\\b c")


def test_what_influxdb_client_writes_is_read_back() -> None:
    point = new_point("disk io,1")
    for i, text in enumerate(ODD_TEXTS):
        point.tag(f"tag {i},=", text).field(f"text {i},=", text + "\nnext")
    point.field("f", 0.1 + 0.2).field("i", -5).field("b", True).field("big", 1e300)
    point.time(datetime(2026, 1, 15, 10, 30, 0, 123456, tzinfo=UTC))
    ((measurement, columns, tags),) = rows_of(point.to_line_protocol().encode())
    assert measurement == "disk io,1"
    assert tags == {f"tag {i},=" for i in range(len(ODD_TEXTS))}
    assert [columns[f"tag {i},="] for i in range(len(ODD_TEXTS))] == [[t] for t in ODD_TEXTS]
    assert [columns[f"text {i},="] for i in range(len(ODD_TEXTS))] == [
        [text + "\nnext"] for text in ODD_TEXTS
    ]
    assert (columns["f"], columns["i"], columns["b"]) == ([0.1 + 0.2], [-5], [True])
    assert accepted(point.to_line_protocol().encode())[0].time_us.tolist() == [1768473000123456]


@settings(max_examples=300)
@given(
    st.dictionaries(st.text("abc ,=é", min_size=1), st.text("xyz ,=\\é", min_size=1), max_size=4),
    st.dictionaries(
        st.text("gh ,=é", min_size=1).map("f{}".format),
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-(2**63), 2**63 - 1),
            st.booleans(),
            st.text('s "\\\n,=é'),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_any_point_of_influxdb_client_is_read_back(
    tags: dict[str, str], fields: dict[str, Any]
) -> None:
    point = new_point("m")
    tags = {name: value for name, value in tags.items() if not value.endswith("\\")}
    for name, value in tags.items():
        point.tag(name, value)
    for name, value in fields.items():
        point.field(name, value)
    ((_, columns, found),) = rows_of(point.to_line_protocol().encode())
    assert found == set(tags)
    assert columns == {name: [value] for name, value in (*tags.items(), *fields.items())}


def test_what_questdb_writes_is_read_back_but_for_its_own_escapes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the way without a server is the old one
        from questdb.ingress import Buffer, TimestampNanos
    buffer: Any = Buffer(protocol_version=1)
    for row in range(3):
        buffer.row(
            "disk io",
            symbols={"host": "a b,c=d", "region": "größe"},
            columns={"f": 0.1 * row, "i": row, "b": row == 1, "s": 'a "b" c\\d, e=f'},
            at=TimestampNanos(1_768_473_000_000_000_000 + row),
        )
    ((measurement, columns, tags),) = rows_of(bytes(buffer))
    assert (measurement, tags) == ("disk io", {"host", "region"})
    assert columns == {
        "host": ["a b,c=d"] * 3,
        "region": ["größe"] * 3,
        "f": [0.0, 0.1, 0.2],
        "i": [0, 1, 2],
        "b": [False, True, False],
        "s": ['a "b" c\\d, e=f'] * 3,
    }

    buffer.clear()
    buffer.row("m", symbols={"t": "c:\\dir"}, columns={"s": "two\nlines"}, at=TimestampNanos(1))
    assert rows_of(bytes(buffer)) == [("m", {"t": ["c:\\\\dir"], "s": ["two\\\nlines"]}, {"t"})]


def test_a_batch_counts_what_it_holds() -> None:
    (batch,) = accepted(b'm,t=a f=1,s="x"\nm b=t,i=1i')
    held = batch.time_us.nbytes + sum(column.nbytes for column in batch.columns.values())
    assert batch.nbytes > held
    assert all(np.asarray(column.values).flags.c_contiguous for column in batch.columns.values())


@pytest.mark.parametrize("line", [b"\n", b"#\n", b"\r\n", b" \n"])
def test_lines_that_hold_nothing_are_counted_before_they_are_looked_at(line: bytes) -> None:
    body = line * 11 + b"bad"
    with pytest.raises(LimitError, match="ARC_MAX_ELEMENTS"):
        decode(body, NOW_US, Limits(max_elements=10))
    with pytest.raises(LimitError, match="ARC_MAX_ELEMENTS"):
        pieces(body, 10)
    with pytest.raises(PayloadError, match="line 12"):
        decode(body, NOW_US, Limits(max_elements=20))
