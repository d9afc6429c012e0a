"""The decoder and its slow twin: equal on whatever bytes, and right where Python can tell.

Random bodies come from `ingest.testing`; the tables below hold what chance would miss.
"""

from __future__ import annotations

import math
import random
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.data import WORKLOADS, columnar_body, columns, workload_body
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import (
    ClientError,
    ColumnLengthError,
    DecodeError,
    IngestError,
    InvalidNameError,
    LimitError,
    PayloadError,
    TimeError,
    TooLargeError,
    ValueTypeError,
)
from ingest.limits import Limits
from ingest.msgpack_decoder import decode, decode_fast
from ingest.msgpack_slow import decode_slow
from ingest.testing import (
    INT_BOUNDARIES,
    LENGTH_BOUNDARIES,
    NIL,
    NOT_UTF8,
    Encoded,
    array,
    array_forms,
    assert_same_batches,
    bin_forms,
    bodies,
    column_values,
    columnar,
    damaged_bodies,
    faulty_bodies,
    float_forms,
    int_forms,
    map_forms,
    random_body,
    random_rows,
    spell_body,
    spell_map,
    str_forms,
    timestamp_forms,
)
from ingest.timestamps import TimeUnit

NOW_US = 1_768_473_000_000_000
LIMITS = Limits()
NAN = float("nan")

Outcome = list[ColumnBatch] | tuple[type[IngestError], str]


def outcome(decoder: Callable[..., list[ColumnBatch]], body: bytes, limits: Limits) -> Outcome:
    """What a decoder makes of a body: batches, or the class and the text of its refusal."""
    try:
        return decoder(body, NOW_US, limits)
    except ClientError as error:
        return type(error), str(error)


def check(body: bytes, limits: Limits = LIMITS) -> Outcome:
    """Hold decoder and twin equal on a body; what both made of it."""
    found, wanted = outcome(decode, body, limits), outcome(decode_slow, body, limits)
    if isinstance(found, list) and isinstance(wanted, list):
        assert_same_batches(found, wanted)
    else:
        assert found == wanted
    return found


def accepted(body: bytes, *, fast: bool = True) -> list[ColumnBatch]:
    """The batches of a body that both take, by the fast path if so said, otherwise without it."""
    found = check(body)
    assert isinstance(found, list), found
    assert (decode_fast(body, NOW_US, LIMITS) is not None) == fast
    return found


def refused(body: bytes, error: type[IngestError], text: str, limits: Limits = LIMITS) -> None:
    """Both refuse a body, in the same words, of which `text` is a part."""
    found = check(body, limits)
    assert isinstance(found, tuple), "it was taken"
    assert found[0] is error
    assert text in found[1]


def decoded(values: Any, *, fast: bool = True) -> Column | None:
    """The one column of a body, out of the fast path if so said; None: it was null throughout."""
    (batch,) = accepted(columnar("cpu", {"v": values}), fast=fast)
    return batch.columns.get("v")


def column(values: Any, *, fast: bool = True) -> Column:
    """The one column of a body, which is not null throughout."""
    found = decoded(values, fast=fast)
    assert found is not None
    return found


def encoded_column(*cells: bytes) -> Encoded:
    """An array of cells that are already MessagePack."""
    return Encoded(array_forms(len(cells))[0] + b"".join(cells))


# ------------------------------------------------------------------------ random bodies, any bytes


@settings(max_examples=500)
@given(bodies())
def test_decoder_and_twin_agree_on_good_bodies_in_every_spelling(body: bytes) -> None:
    assert isinstance(check(body), list)


@settings(max_examples=500)
@given(faulty_bodies())
def test_decoder_and_twin_agree_on_faulty_bodies_and_their_errors(body: bytes) -> None:
    check(body)


@settings(max_examples=1000)
@given(damaged_bodies())
def test_decoder_and_twin_agree_on_changed_cut_and_prolonged_bodies(body: bytes) -> None:
    check(body)


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_decoder_and_twin_agree_on_any_bytes(body: bytes) -> None:
    check(body)


@pytest.mark.parametrize("seed", range(4))
def test_a_body_cut_off_at_any_byte_is_refused_or_ends_between_two_maps(seed: int) -> None:
    body = random_body(random.Random(seed), maps=2, columns=3, rows=12)
    whole = len(accepted_or_slow(body))
    for end in range(len(body)):
        found = check(body[:end])
        assert isinstance(found, tuple) or len(found) < whole


def accepted_or_slow(body: bytes) -> list[ColumnBatch]:
    found = check(body)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_behind_a_body_is_looked_at(byte: int) -> None:
    body = columnar("cpu", {"v": [1]}) + bytes([byte])
    refused(body, DecodeError if byte not in SCALARS else PayloadError, "")


#: Type bytes that are a whole object: as a body's last byte they are decodable, but no map. 0x80
#: is a map, without a measurement; 0x90 an array of none.
SCALARS = frozenset([*range(0x81), 0x90, 0xA0, 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)])


@pytest.mark.parametrize("seed", range(200))
def test_good_maps_in_every_spelling_take_the_fast_path(seed: int) -> None:
    rng = random.Random(seed)
    accepted(spell_map(rng, random_rows(rng)))


@settings(max_examples=300)
@given(st.integers(0, 2**32).map(random.Random))
def test_decoded_values_are_the_ones_that_were_spelled(rng: random.Random) -> None:
    rows = random_rows(rng)
    (batch,) = decode(spell_body(rng, [rows]), NOW_US, LIMITS)
    assert batch.measurement == rows.measurement
    assert batch.tags == frozenset(rows.tags or ())
    wanted = {name: as_stored(values) for name, values in rows.columns if name != "time"}
    wanted = {name: values for name, values in wanted.items() if set(values) != {None}}
    assert list(batch.columns) == list(wanted)
    for name, values in wanted.items():
        assert repr(column_values(batch.columns[name])) == repr(values)


def as_stored(values: list[Any]) -> list[Any]:
    """What a column of these values holds: NaN among strings is null, integers may be floats."""
    if any(isinstance(value, str) for value in values):
        return [value if isinstance(value, str) else None for value in values]
    if any(isinstance(value, float) for value in values):
        return [None if value is None else float(value) for value in values]
    return values


def test_threads_decode_at_the_same_time_without_harm() -> None:
    bodies_ = [workload_body("mixed", 500, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda body: decode(body, NOW_US, LIMITS), bodies_ * 8))
    for body, found in zip(bodies_ * 8, results, strict=True):
        assert_same_batches(found, decode(body, NOW_US, LIMITS))


def test_what_is_decoded_keeps_no_hold_on_the_body() -> None:
    body = workload_body("mixed", 100)
    before = sys.getrefcount(body)
    batches = decode(body, NOW_US, LIMITS)
    assert sys.getrefcount(body) == before
    assert len(batches) == 1


# ------------------------------------------------- what real clients send takes the fast path


def telegraf() -> bytes:
    """`outputs.arc`: an array of columnar maps, unsigned integers, nil where a field is missing."""
    cpu = {
        "time": [1_768_473_000_000, 1_768_473_010_000],
        "host": ["web-1", "web-2"],
        "cpu": ["cpu-total", None],
        "usage_idle": [98.5, None],
    }
    net = {
        "time": [1_768_473_000_000, 1_768_473_010_000],
        "host": ["web-1", "web-2"],
        "bytes_recv": [Encoded(int_forms(5)[-2]), Encoded(int_forms(2**40)[0])],
        "err_in": [None, None],
        "speed": [-1, 1000],
    }
    return array_forms(2)[0] + columnar("cpu", cpu) + columnar("win.net", net)


def otel_exporter() -> bytes:
    """The `arc` exporter: dotted and underscored names, attributes with nil where missing."""
    columns_ = {
        "time": [1_768_473_000_000] * 3,
        "value": [1.5, 2.0, None],
        "_monotonic": [True, True, False],
        "service.name": ["api", "api", "db"],
        "http.status_code": [200, None, 404],
        "k8s.pod.name": [None, "pod-é", None],
    }
    return columnar("http.server.duration", columns_)


def redpanda() -> bytes:
    """Redpanda Connect: a `batch` envelope."""
    one = columnar("events", {"time": [NOW_US], "id": ["a"], "n": [1]})
    return b"\x81\xa5batch" + array_forms(2)[0] + one + one


def pandas_3() -> bytes:
    """A data frame of pandas 3: missing strings are NaN, the first one as well; times in ms."""
    missing = Encoded(float_forms(NAN)[-1])
    columns_ = {
        "time": [1_768_473_000_000 + i for i in range(40)],
        "first": [missing, "a", "b", missing] * 10,
        "last": ["a", "b", "c", missing] * 10,
        "long": ["x" * 40, missing] * 20,
        "value": [1.0, missing] * 20,
    }
    return columnar("frame", columns_)


def arc_tsdb_client() -> bytes:
    """`write_columnar`: one map, µs."""
    columns_ = {"time": [NOW_US + i for i in range(3)], "host": ["a", "bc", "def"], "v": [1, 2, 3]}
    return ormsgpack.packb({"m": "cpu", "columns": columns_})


CLIENTS = (telegraf, otel_exporter, redpanda, pandas_3, arc_tsdb_client)


@pytest.mark.parametrize("client", CLIENTS)
def test_bodies_of_real_clients_take_the_fast_path(client: Callable[[], bytes]) -> None:
    assert accepted(client())


@pytest.mark.parametrize("workload", WORKLOADS)
def test_bodies_of_the_benchmarks_take_the_fast_path(workload: str) -> None:
    accepted(workload_body(workload, 300))


def test_values_of_a_telegraf_body_are_stored_as_they_were_sent() -> None:
    cpu, net = decode(telegraf(), NOW_US, LIMITS)
    assert (cpu.measurement, net.measurement) == ("cpu", "win.net")
    assert cpu.time_us.tolist() == [1_768_473_000_000_000, 1_768_473_010_000_000]
    assert column_values(cpu.columns["cpu"]) == ["cpu-total", None]
    assert column_values(cpu.columns["usage_idle"]) == [98.5, None]
    assert column_values(net.columns["bytes_recv"]) == [5, 2**40]
    assert column_values(net.columns["speed"]) == [-1, 1000]
    assert "err_in" not in net.columns


def test_missing_strings_of_pandas_are_null() -> None:
    (batch,) = decode(pandas_3(), NOW_US, LIMITS)
    assert column_values(batch.columns["first"])[:4] == [None, "a", "b", None]
    assert column_values(batch.columns["long"])[:2] == ["x" * 40, None]
    assert batch.columns["value"].validity is None


@pytest.mark.parametrize("workload", WORKLOADS)
def test_workloads_decode_to_the_columns_that_made_them(workload: str) -> None:
    made = columns(workload, 200)
    (batch,) = decode(columnar_body(made, "cpu"), NOW_US, LIMITS)
    for name, values in made.items():
        if name != "time":
            plain = values.tolist() if isinstance(values, np.ndarray) else values
            assert column_values(batch.columns[name]) == plain


# ------------------------------------------------------------------------------------ envelopes

ONE = columnar("a", {"v": [1]})
TWO = columnar("b", {"v": [2]})


@pytest.mark.parametrize(
    ("body", "fast"),
    [
        (ONE + TWO, True),
        (b"\x92" + ONE + TWO, True),
        (b"\xdc\x00\x02" + ONE + TWO, True),
        (b"\xdd\x00\x00\x00\x02" + ONE + TWO, True),
        (b"\x91" + ONE + b"\x91" + TWO, True),
        (ONE + b"\x91" + TWO, True),
        (b"\x81\xa5batch\x92" + ONE + TWO, True),
        (b"\x81\xa5batch\x91" + ONE + b"\x81\xa5batch\x91" + TWO, True),
        (b"\x82\xa5batch\x92" + ONE + TWO + b"\xa7columns\x81\xa1v\x91\x09", False),
        (b"\x83\xa1m\xa1x\xa7columns\x81\xa1v\x91\x09\xa5batch\x92" + ONE + TWO, False),
        (b"\xde\x00\x01\xd9\x05batch\x92" + ONE + TWO, False),
    ],
)
def test_every_envelope_gives_its_maps_in_order(body: bytes, fast: bool) -> None:
    found = accepted(body, fast=fast)
    assert [batch.measurement for batch in found] == ["a", "b"]
    assert [column_values(batch.columns["v"]) for batch in found] == [[1], [2]]


def test_unknown_keys_are_ignored_and_an_integer_names_a_measurement() -> None:
    body = b"\x84\xa1t\x05\xa1m\xcc\x07\xa7columns\x81\xa1v\x91\x01\xa1x\x81\x01\x92\xc0\xa0"
    (batch,) = accepted(body, fast=False)
    assert batch.measurement == "measurement_7"


def test_rows_without_a_time_get_the_time_of_the_server() -> None:
    (batch,) = accepted(columnar("cpu", {"v": [1, 2, 3]}))
    assert batch.time_us.tolist() == [NOW_US] * 3
    assert (batch.min_us, batch.max_us) == (NOW_US, NOW_US)


def test_a_name_that_occurs_twice_counts_once_with_its_last_values() -> None:
    body = b"\x82\xa1m\xa1a\xa7columns\x82\xa1v\x91\x01\xa1v\x92\x02\x03"
    (batch,) = accepted(body, fast=False)
    assert column_values(batch.columns["v"]) == [2, 3]


def test_tags_are_kept_with_the_batch() -> None:
    body = ormsgpack.packb({"m": "a", "columns": {"h": ["x"], "é": ["y"]}, "tags": ["h", "é"]})
    (batch,) = accepted(body)
    assert batch.tags == {"h", "é"}


def test_a_batch_knows_the_range_of_its_times() -> None:
    times = [NOW_US + 5, NOW_US, NOW_US + 9, NOW_US + 1]
    (batch,) = accepted(columnar("cpu", {"time": times}))
    assert (batch.min_us, batch.max_us) == (NOW_US, NOW_US + 9)
    assert batch.columns == {}


# ------------------------------------------------------------------------------ types and values


@pytest.mark.parametrize("value", INT_BOUNDARIES)
def test_integers_keep_their_value_in_every_form(value: int) -> None:
    for form in int_forms(value):
        for cells in ([form], [form] * 3, [form, b"\x00", NIL, *int_forms(1)]):
            found = column(encoded_column(*cells))
            assert found.type is (ColumnType.INT64 if value < 2**63 else ColumnType.UINT64)
            assert column_values(found)[0] == value
            assert found.wide == (abs(value) > 2**53 and value < 2**63)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -1e300, NAN, math.inf, -math.inf, 5e-324])
def test_floats_keep_their_value_in_every_form(value: float) -> None:
    for form in float_forms(value):
        for cells in ([form], [form] * 3, [form, NIL, b"\x05"]):
            found = column(encoded_column(*cells))
            assert found.type is ColumnType.FLOAT64
            assert repr(column_values(found)[0]) == repr(value)


@pytest.mark.parametrize("size", [*LENGTH_BOUNDARIES, 65_535, 65_536])
@pytest.mark.parametrize("letter", ["a", "é"])
def test_strings_and_bytes_of_every_length_survive_in_every_form(size: int, letter: str) -> None:
    text = letter * (size // len(letter.encode()))
    for form in str_forms(text):
        for cells in ([form], [form, form], [b"\xa1x", form, NIL, b"\xa2yz"]):
            values = column_values(column(encoded_column(*cells)))
            assert values[cells.index(form)] == text
            assert values[-1] == (text if len(cells) < 3 else "yz")
    for form in bin_forms(text.encode()):
        assert column_values(column(encoded_column(form, NIL, form)))[2] == text.encode()


@pytest.mark.parametrize("size", range(34))
def test_columns_of_strings_of_one_length_survive(size: int) -> None:
    for rows in (1, 2, 3, 5, 20, 40):
        texts = [chr(97 + i % 26) * size for i in range(rows)]
        assert column_values(column(texts)) == texts


@pytest.mark.parametrize("last", ["b", "ccc", None, NAN, 1, 1.5, True, b"b"])
@pytest.mark.parametrize("first", ["a", 1.5, NAN, 2**40, -(2**40), True, b"a", None])
def test_a_column_whose_last_value_differs_from_a_run_is_typed_by_all(
    first: Any, last: Any
) -> None:
    check(columnar("cpu", {"v": [first] * 20 + [last]}))
    check(columnar("cpu", {"v": [last] + [first] * 20}))


@pytest.mark.parametrize(
    ("values", "type_", "stored"),
    [
        ([1, 2.5, None], ColumnType.FLOAT64, [1.0, 2.5, None]),
        ([2**53, 0.5, -(2**53)], ColumnType.FLOAT64, [2.0**53, 0.5, -(2.0**53)]),
        ([NAN, 1], ColumnType.FLOAT64, [NAN, 1.0]),
        ([NAN, None], ColumnType.FLOAT64, [NAN, None]),
        (["a", NAN, None], ColumnType.UTF8, ["a", None, None]),
        ([None, NAN, "a"], ColumnType.UTF8, [None, None, "a"]),
        ([None, True], ColumnType.BOOL, [None, True]),
        ([True, False], ColumnType.BOOL, [True, False]),
        ([None, b"\xff"], ColumnType.BINARY, [None, b"\xff"]),
        ([None, -1], ColumnType.INT64, [None, -1]),
        ([2**64 - 1, None, 0], ColumnType.UINT64, [2**64 - 1, None, 0]),
    ],
)
def test_columns_are_typed_by_all_their_values(
    values: list[Any], type_: ColumnType, stored: list[Any]
) -> None:
    found = column(values)
    assert found.type is type_
    assert repr(column_values(found)) == repr(stored)


@pytest.mark.parametrize(
    "values",
    [["ab", ""], ["ab", None], [True, None], [5000, 5], [5000, -5], [1.5, 5], [None, True]],
)
def test_a_body_may_end_in_a_value_of_one_byte(values: list[Any]) -> None:
    assert column_values(column(values)) == values


def test_a_column_of_nulls_only_is_left_out() -> None:
    assert decoded([None, None]) is None


def test_nulls_lie_over_zeros_and_empty_strings() -> None:
    for values in ([None, 7, None], [None, 7.5, None], [None, True, None]):
        assert column(values).values.tolist() == [0, values[1], 0]
    found = column([None, "ab", None])
    assert found.offsets is not None
    assert found.offsets.tolist() == [0, 0, 2, 2]


def test_counted_bytes_cover_the_buffers() -> None:
    (batch,) = accepted(columnar("cpu", {"v": [1.5] * 1000, "s": ["abc"] * 999 + [None]}))
    buffers = 8_000 + 8_000 + 999 * 3 + 1001 * 4 + 1000
    assert buffers <= batch.nbytes <= buffers + 2_000


# ------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("unit", "times", "stored"),
    [
        ("s", [1_768_473_000, -5], [1_768_473_000_000_000, -5_000_000]),
        ("ms", [1_768_473_000_123, 7], [1_768_473_000_123_000, 7_000]),
        ("us", [1_768_473_000_123_456, 0], [1_768_473_000_123_456, 0]),
        ("ns", [1_768_473_000_123_456_789, -1], [1_768_473_000_123_456, -1]),
        ("s", [1_768_473_000.25, 3], [1_768_473_000_250_000, 3_000_000]),
        ("ms", [1_768_473_000_123.5, -0.5], [1_768_473_000_123_500, -500]),
    ],
)
def test_times_of_each_unit_are_stored_in_microseconds(
    unit: str, times: list[Any], stored: list[int]
) -> None:
    (batch,) = accepted(columnar("cpu", {"time": times, "v": times}))
    assert batch.time_us.tolist() == stored
    assert (batch.min_us, batch.max_us) == (min(stored), max(stored))
    for decoder in (decode, decode_slow):
        named = decoder(columnar("cpu", {"time": times}), NOW_US, LIMITS, TimeUnit(unit))
        assert named[0].time_us.tolist() == stored


def test_the_named_unit_is_stronger_than_the_magnitude() -> None:
    body = columnar("cpu", {"time": [1_768_473_000]})
    for decoder in (decode, decode_slow):
        (batch,) = decoder(body, NOW_US, LIMITS, TimeUnit.US)
        assert batch.time_us.tolist() == [1_768_473_000]


@pytest.mark.parametrize(
    ("seconds", "nanoseconds", "stored"),
    [
        (1_768_473_000, 0, 1_768_473_000_000_000),
        (1_768_473_000, 1_999, 1_768_473_000_000_001),
        (1_768_473_000, 999_999_999, 1_768_473_000_999_999),
        (0, 0, 0),
        (-1, 999_999_999, -1),
        (-2, 1, -2_000_000),
        (-2_208_988_800, 0, -2_208_988_800_000_000),
        (9_246_182_399, 999_999_999, 9_246_182_399_999_999),
    ],
)
@pytest.mark.parametrize("unit", [None, TimeUnit.S, TimeUnit.NS])
def test_timestamps_of_the_extension_type_round_towards_the_past(
    seconds: int, nanoseconds: int, stored: int, unit: TimeUnit | None
) -> None:
    cells = timestamp_forms(seconds, nanoseconds)
    body = columnar("cpu", {"time": encoded_column(*cells)})
    for decoder in (decode, decode_slow):
        for envelope in (body, b"\x91" + body, b"\x81\xa5batch\x91" + body):
            (batch,) = decoder(envelope, NOW_US, LIMITS, unit)
            assert batch.time_us.tolist() == [stored] * len(cells)


def test_timestamps_as_msgspec_writes_them_are_taken() -> None:
    times = [
        datetime(2026, 1, 15, 10, 30, 0, 123_456, tzinfo=UTC),
        datetime(1969, 1, 1, tzinfo=UTC),
    ]
    body = msgspec.msgpack.encode({"m": "cpu", "columns": {"time": times}})
    (batch,) = accepted(body)
    assert batch.time_us.tolist() == [1_768_473_000_123_456, -31_536_000_000_000]


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ([None, None], "row 0: null is not a time"),
        ([1, 2, None], "row 2: null is not a time"),
        (["now"], "row 0: found utf8, wanted an integer or a float"),
        ([True], "row 0: found bool, wanted an integer or a float"),
        ([b"1"], "row 0: found binary, wanted an integer or a float"),
        ([2**63], "row 0: found uint64, wanted an integer or a float"),
        ([1.5, NAN], "row 1: nan is not a time"),
        ([math.inf, 1.0], "row 0: inf is not a time"),
        ([1_768_473_000, 5, 1_768_473_000_000], "1768473000000 in row 2 like ms"),
        ([1, 10**18 * 9 + 5 * 10**17], "row 1: 9500000000000000000 ns is outside the years"),
        ([-3 * 10**9], "row 0: -3000000000 s is outside the years 1900 to 2262"),
        ([1e300], "row 0: 1e+300 ns is outside the years 1900 to 2262"),
    ],
)
def test_what_is_no_time_is_refused_by_name_and_row(times: list[Any], text: str) -> None:
    if times[-1] == 9_500_000_000_000_000_000:
        times = [float(time) for time in times]
        text = "row 1: 9.5e+18 ns is outside the years"
    body = columnar("cpu", {"v": [1] * len(times), "time": times})
    refused(body, TimeError, f"measurement 'cpu': column 'time'{'' if ' like ' in text else ', '}")
    refused(body, TimeError, text)


# ----------------------------------------------------------------------------------- UTF-8


@pytest.mark.parametrize("text", NOT_UTF8)
@pytest.mark.parametrize("place", ["measurement", "column", "value", "last value", "tag", "extra"])
def test_strings_that_are_not_utf8_are_refused_wherever_they_are(text: bytes, place: str) -> None:
    bad = str_forms(text)[0]
    values = {"value": [bad, b"\xa1a"], "last value": [b"\xa1a", bad]}.get(place, [b"\xa1a"])
    inner = b"\x81" + (bad if place == "column" else b"\xa1v") + encoded_column(*values).data
    body = b"\x83\xa1m" + (bad if place == "measurement" else b"\xa1m") + b"\xa7columns" + inner
    body += b"\xa4tags\x91" + bad if place == "tag" else b"\xa1x" + bad if place == "extra" else b""
    if place not in ("tag", "extra"):
        body = b"\x82" + body[1:]
    refused(body, DecodeError, "object at byte 0: ")


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_split_over_two_strings_is_refused(cut: int) -> None:
    character = "🎉".encode()
    for filler in (b"", b"a" * 20, b"a" * 40, "é".encode() * 20):
        halves = str_forms(filler + character[:cut])[0], str_forms(character[cut:] + filler)[0]
        body = columnar("cpu", {"v": encoded_column(*halves)})
        refused(body, DecodeError, "utf-8")
        body = columnar("cpu", {"v": encoded_column(*halves, *halves)})
        refused(body, DecodeError, "utf-8")


def test_bytes_that_are_not_utf8_are_fine_as_binary() -> None:
    found = column([b"\xff", b"\xed\xa0\x80"])
    assert column_values(found) == [b"\xff", b"\xed\xa0\x80"]


# ------------------------------------------------------------------------------------ refusals


def with_map(inner: bytes) -> bytes:
    """A body of measurement `cpu` whose `columns` is whatever `inner` is."""
    return b"\x82\xa1m\xa3cpu\xa7columns" + inner


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (b"", DecodeError, "the body is empty"),
        (b"\xc1", DecodeError, "not MessagePack, or cut off: stopped at byte 0 of 1"),
        (ONE[:-1], DecodeError, "not MessagePack, or cut off: stopped at byte"),
        (ONE + b"\xc1", DecodeError, "not MessagePack, or cut off: stopped at byte"),
        (ONE + b"\x00", PayloadError, "the body must be a map or an array of maps, found an int"),
        (b"\x90", PayloadError, "the body is an array of nothing, wanted at least one map"),
        (b"\x92" + ONE + NIL, PayloadError, "item 1 of the body must be a map, found null"),
        (b"\x81\xa5batch\x90", PayloadError, "'batch' is an array of nothing"),
        (b"\x81\xa5batch\x80", PayloadError, "'batch' must be an array of maps, found a map"),
        (b"\x81\xa5batch\x91\xa1a", PayloadError, "item 0 of 'batch' must be a map, found a str"),
        (b"\x80", PayloadError, "'m' must be the measurement's name, found nothing"),
        (columnar("", {"v": [1]}), PayloadError, "'m' must be the measurement's name, found ''"),
        (columnar(1.5, {"v": [1]}), PayloadError, "measurement's name, found a float"),
        (columnar(True, {"v": [1]}), PayloadError, "measurement's name, found a boolean"),
        (columnar("m" * 129, {"v": [1]}), InvalidNameError, "129 characters, wanted 1 to 128"),
        (b"\x81\xa1m\xa3cpu", PayloadError, "measurement 'cpu': 'columns' is missing"),
        (with_map(b"\x80"), PayloadError, "a map of at least one array, found a map of none"),
        (with_map(b"\x90"), PayloadError, "a map of at least one array, found an array"),
        (with_map(NIL), PayloadError, "measurement 'cpu': 'columns' is missing"),
        (columnar("cpu", {"": [1]}), InvalidNameError, "must be a non-empty string, found ''"),
        (with_map(b"\x81\x05\x91\x01"), InvalidNameError, "non-empty string, found an integer"),
        (
            columnar("cpu", {"x" * 256: [1]}),
            InvalidNameError,
            f"measurement 'cpu': column '{'x' * 32}'… has a name of 256 bytes, over 255",
        ),
        (columnar("cpu", {"é" * 128: [1]}), InvalidNameError, "a name of 256 bytes, over 255"),
        (
            with_map(b"\x81\xa1v\x01"),
            PayloadError,
            "measurement 'cpu': column 'v' must be an array, found an integer",
        ),
        (
            columnar("cpu", {"v": []}),
            PayloadError,
            "measurement 'cpu': column 'v' has no values",
        ),
        (
            columnar("cpu", {"v": [1, 2], "w": [1]}),
            ColumnLengthError,
            "measurement 'cpu': column 'w' has 1 values, but 'v' has 2",
        ),
        (
            columnar("cpu", {"v": [1, Encoded(b"\x91\x01")]}),
            ValueTypeError,
            "measurement 'cpu': column 'v', row 1: found an array, "
            "wanted a number, a string, a boolean or binary",
        ),
        (
            columnar("cpu", {"v": [Encoded(b"\xd4\x05\x00")]}),
            ValueTypeError,
            "column 'v', row 0: found an extension value, wanted",
        ),
        (
            columnar("cpu", {"v": [Encoded(timestamp_forms(5, 0)[0])]}),
            ValueTypeError,
            "column 'v', row 0: found a timestamp, wanted",
        ),
        (
            columnar("cpu", {"time": [Encoded(timestamp_forms(5, 0)[0]), 5]}),
            ValueTypeError,
            "column 'time', row 1: found an integer, wanted a timestamp",
        ),
        (
            columnar("cpu", {"time": [Encoded(timestamp_forms(5, 0)[0]), None]}),
            ValueTypeError,
            "column 'time', row 1: found null, wanted a timestamp",
        ),
        (
            columnar("cpu", {"v": [None, 1, 1.5, "a"]}),
            ValueTypeError,
            "column 'v', row 3: found a string, wanted an integer as in row 1",
        ),
        (
            columnar("cpu", {"v": ["a", NAN, 1.5]}),
            ValueTypeError,
            "column 'v', row 2: found a float, wanted a string as in row 0",
        ),
        (
            columnar("cpu", {"v": [NAN, True]}),
            ValueTypeError,
            "column 'v', row 1: found a boolean, wanted a float as in row 0",
        ),
        (
            columnar("cpu", {"v": ["a", b"a"]}),
            ValueTypeError,
            "column 'v', row 1: found binary, wanted a string as in row 0",
        ),
        (
            columnar("cpu", {"v": [0.5, 2**53 + 1]}),
            ValueTypeError,
            "row 1: found 9007199254740993, wanted a float, or an integer up to 2**53",
        ),
        (
            columnar("cpu", {"v": [0.5, 2**64 - 1]}),
            ValueTypeError,
            "row 1: found 18446744073709551615, wanted a float",
        ),
        (
            columnar("cpu", {"v": [1, 2**63, -1]}),
            ValueTypeError,
            "row 1: found 9223372036854775808, wanted int64, since row 2 is negative",
        ),
    ],
)
def test_a_refusal_says_where_and_what(body: bytes, error: type[IngestError], text: str) -> None:
    refused(body, error, text)


@pytest.mark.parametrize(
    ("cells", "type_", "values"),
    [
        ([1, 2.5, "+Inf"], ColumnType.FLOAT64, [1.0, 2.5, math.inf]),
        (["-Inf", 1], ColumnType.FLOAT64, [-math.inf, 1.0]),
        (["+Inf", "+Inf"], ColumnType.UTF8, ["+Inf", "+Inf"]),
        (["+Inf", "a", NAN], ColumnType.UTF8, ["+Inf", "a", None]),
    ],
)
def test_infinity_as_text_is_a_number_among_numbers_and_a_text_otherwise(
    cells: list[Any], type_: ColumnType, values: list[Any]
) -> None:
    for decoder in (decode, decode_slow):
        [batch] = decoder(columnar("m", {"v": cells}), NOW_US, Limits())
        assert batch.columns["v"].type is type_
        assert column_values(batch.columns["v"]) == values


@pytest.mark.parametrize("value", [-1, -2, -32, -33, -200, -70_000, -(2**40)])
def test_negative_and_huge_integers_do_not_go_together(value: int) -> None:
    for form in int_forms(value):
        for cells in ([form, *int_forms(2**63)], [*int_forms(2**63), form], [form] * 5):
            body = columnar("cpu", {"v": encoded_column(*cells, *int_forms(2**64 - 1))})
            refused(body, ValueTypeError, "is negative")


@pytest.mark.parametrize("nanoseconds", [10**9, 2**30 - 1])
def test_timestamps_of_more_than_a_second_of_nanoseconds_are_refused(nanoseconds: int) -> None:
    for cell in timestamp_forms(5, nanoseconds):
        refused(columnar("cpu", {"time": encoded_column(cell)}), DecodeError, "nanoseconds")


@pytest.mark.parametrize("seconds", [2**63 - 1, -(2**63), 2**36, -(2**36), 2**35, 2**35 - 1])
def test_timestamps_of_other_ages_are_refused(seconds: int) -> None:
    found = check(columnar("cpu", {"time": encoded_column(*timestamp_forms(seconds, 1))}))
    assert isinstance(found, tuple)


@pytest.mark.parametrize("key", ["column", "columnsX", "mm", "tag", "tagss", "M", "batchX"])
def test_keys_that_only_resemble_the_known_ones_are_ignored(key: str) -> None:
    body = b"\x83" + str_forms(key)[0] + b"\x81\xa1w\x92\x01\x02" + ONE[1:]
    (batch,) = accepted(body, fast=False)
    assert list(batch.columns) == ["v"]
    alone = b"\x82\xa1m\xa1a" + str_forms(key)[0] + b"\x81\xa1w\x91\x01"
    refused(alone, PayloadError, "'columns' is missing")


@pytest.mark.parametrize("tags", [b"\x01", b"\x80", b"\x91\x01", b"\x92\xa1v\xc0"])
def test_tags_must_be_an_array_of_names(tags: bytes) -> None:
    body = b"\x83" + ONE[1:] + b"\xa4tags" + tags
    refused(body, PayloadError, "measurement 'a': 'tags' beside 'columns' must be an array of")


def test_messages_stay_short_however_large_the_wrong_part_is() -> None:
    large: list[Any] = ["x" * 100_000, b"x" * 100_000, Encoded(array([1] * 10_000))]
    for value in large:
        for body in (columnar(value, {"v": [1]}), columnar("cpu", {value: [1]})):
            found = check(body)
            assert isinstance(found, tuple)
            assert len(found[1]) < 300


def test_the_first_wrong_map_is_the_one_that_is_named() -> None:
    bad_time = columnar("first", {"time": ["x"]})
    bad_length = columnar("second", {"v": [1], "w": []})
    refused(b"\x92" + bad_time + bad_length, TimeError, "measurement 'first'")
    refused(b"\x92" + bad_length + bad_time, ColumnLengthError, "measurement 'second'")


# ------------------------------------------------------------------------------- limits, bombs


def test_the_limit_of_columns_is_exact() -> None:
    as_many = {f"v{i}": [1] for i in range(LIMITS.max_columns)}
    accepted(columnar("cpu", as_many))
    text = "columns of measurement 'cpu': 2001, over the limit of 2000 (ARC_MAX_COLUMNS)"
    refused(columnar("cpu", as_many | {"one more": [1]}), LimitError, text)


def test_names_of_255_bytes_are_taken() -> None:
    accepted(columnar("m" * 128, {"x" * 255: [1], "é" * 127: [2]}))


def test_columns_are_counted_over_all_maps_of_a_request() -> None:
    limits = Limits(max_request_columns=10)
    two = columnar("a", {"v": [1], "w": [2]})
    text = "columns of all maps of one request: 12, over the limit of 10"
    for envelope in (b"", array_forms(6)[0], b"\x81\xa5batch" + array_forms(6)[0]):
        refused(envelope + two * 6, LimitError, text, limits)
    assert isinstance(check(two * 5, limits), list)


@pytest.mark.parametrize("item", [ONE, b"\x80"])
def test_maps_are_counted_before_they_are_built(item: bytes) -> None:
    limits = Limits(max_request_columns=10)
    for envelope in (b"", array_forms(11)[0], b"\x81\xa5batch" + array_forms(11)[0]):
        refused(envelope + item * 11, LimitError, "maps of one request: 11, over", limits)
    refused(item * 100, LimitError, "maps of one request: 100, over the limit of 10", limits)


def test_as_many_maps_as_allowed_are_decoded_and_one_more_is_refused() -> None:
    text = "maps of one request: 100001, over the limit of 100000"
    with pytest.raises(LimitError, match=text):
        decode(ONE * 100_001, NOW_US, LIMITS)
    assert len(decode(ONE * 1_000, NOW_US, LIMITS)) == 1_000


@pytest.mark.parametrize(
    "body",
    [
        b"\x80" * 8_000_000,
        b"\xdd\x00\x7a\x12\x00" + b"\x80" * 8_000_000,
        with_map(b"\x81\xa1v\xdd\x00\x7a\x12\x00" + b"\x80" * 8_000_000),
        b"\x83" + ONE[1:] + b"\xa1x\xdd\x00\x7a\x12\x00" + b"\x90" * 8_000_000,
        b"\x83" + ONE[1:] + b"\xa4tags\xdd\x00\x7a\x12\x00" + b"\xa0" * 8_000_000,
    ],
    ids=["maps", "array of maps", "column of maps", "unknown key", "tags"],
)
def test_eight_megabytes_of_tiny_objects_are_counted_and_not_built(body: bytes) -> None:
    with pytest.raises(
        LimitError, match=r"values in a body .*: 80000\d\d, over the limit of 2000000"
    ):
        decode(body, NOW_US, LIMITS)


@pytest.mark.parametrize("head", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
@pytest.mark.parametrize("prefix", [b"", with_map(b"\x81\xa1v"), with_map(b""), b"\x81\xa5batch"])
def test_a_count_that_lies_is_found_out_without_room_for_it(prefix: bytes, head: bytes) -> None:
    refused(prefix + head + b"\x01" * 10, DecodeError, "not MessagePack, or cut off")


@pytest.mark.parametrize("head", [b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9" * 5])
def test_a_length_that_lies_is_found_out(head: bytes) -> None:
    refused(with_map(b"\x81\xa1v\x91" + head + b"x" * 10), DecodeError, "cut off")
    refused(with_map(b"\x81" + head + b"x" * 10), DecodeError, "cut off")


@pytest.mark.parametrize("byte", [b"\x91", b"\x81\x00"])
def test_nesting_without_end_is_refused(byte: bytes) -> None:
    refused(byte * 100_000 + NIL, DecodeError, "object at byte 0: ")
    refused(with_map(b"\x81\xa1v\x91" + byte * 100_000 + NIL), DecodeError, "object at byte 0: ")


@pytest.mark.parametrize("cell", [b"\x01", NIL + b"\x01", b"\xa0", b"\xc3"])
def test_columns_that_grow_in_memory_are_bounded(cell: bytes) -> None:
    values = Encoded(array_forms(len(cell) * 1000)[0] + cell * 1000)
    body = columnar("cpu", {"v": values})
    accepted(body)
    text = "memory of the columns in this body is over the limit of 4096 bytes"
    with pytest.raises(TooLargeError, match=text):
        decode(body, NOW_US, Limits(max_decoded_bytes=4096))


def test_rows_without_any_value_are_bounded_as_well() -> None:
    body = columnar("cpu", {"v": [None] * 1000})
    with pytest.raises(TooLargeError):
        decode(body, NOW_US, Limits(max_decoded_bytes=4096))


def test_an_integer_of_any_form_can_be_a_length_of_a_map_or_array() -> None:
    for head in map_forms(1):
        for arrays in array_forms(2):
            for keys in map_forms(2):
                body = keys + b"\xa1m\xa1a\xa7columns" + head + b"\xa1v" + arrays + b"\x01\x02"
                (batch,) = accepted(body)
                assert column_values(batch.columns["v"]) == [1, 2]


def test_large_floats_among_times_do_not_overflow() -> None:
    for bits in (0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF, 0x43E0000000000000):
        time = struct.unpack(">d", bits.to_bytes(8))[0]
        check(columnar("cpu", {"time": [time]}))
