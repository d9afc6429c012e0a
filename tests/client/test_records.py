"""Records and line protocol to batches: the daemon's decoders read them as what was given.

The reference for records is the row form that `arc-tsdb-client` sends, decoded by the daemon; for
lines it is the daemon's own way to take a body apart.
"""

from __future__ import annotations

import datetime as dt
import enum
import io
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from arc_client.ingestion.msgpack import encode_records as encode_row_form
from hypothesis import given
from hypothesis import strategies as st

from arc.client.batch import Batch, Kind
from arc.client.errors import UsageError
from arc.client.records import Collector, Reader, Row, encode_lines, encode_records
from arc.client.rows import Dialect
from ingest.columns import ColumnBatch
from ingest.errors import IngestError
from ingest.limits import Limits
from ingest.line_protocol import decode as decode_lines
from ingest.line_protocol_slow import pieces
from ingest.msgpack_decoder import decode
from ingest.testing.batches import column_values
from ingest.testing.strategies import faulty_line_protocol_bodies, line_protocol_bodies
from ingest.timestamps import TimeUnit

NOW_US = 1_790_000_000_123_456
LIMITS = Limits()
BYTES: dict[str, Any] = {"batch_bytes": 4 << 20}
MANY: dict[str, Any] = {"batch_rows": 10_000, **BYTES}

#: A table: column -> (type, whether it is a tag), and its rows.
Table = tuple[dict[str, tuple[str, bool]], list[dict[str, Any]]]


def tables(batches: list[ColumnBatch]) -> dict[str, Table]:
    """Types and rows by measurement, whatever their order was; nulls left out."""
    found: dict[str, Table] = {}
    for batch in batches:
        types, rows = found.setdefault(batch.measurement, ({}, []))
        values = {name: column_values(column) for name, column in batch.columns.items()}
        for name, column in batch.columns.items():
            types[name] = (str(column.type), name in batch.tags)
        for at, time_us in enumerate(batch.time_us.tolist()):
            row = {name: of[at] for name, of in values.items() if of[at] is not None}
            rows.append({"time": time_us} | row)
    return {name: _ordered(*table) for name, table in found.items()}


def _ordered(types: dict[str, tuple[str, bool]], rows: list[dict[str, Any]]) -> Table:
    """The same, columns by name, rows by time and then by what they hold."""
    rows = [dict(sorted(row.items())) for row in rows]
    return dict(sorted(types.items())), sorted(rows, key=lambda row: (row["time"], repr(row)))


def decoded(batches: Iterator[Batch]) -> list[ColumnBatch]:
    """What the daemon makes of batches."""
    found = []
    for batch in batches:
        assert (batch.kind, batch.headers) == (Kind.MSGPACK, (("x-arc-time-unit", "ns"),))
        ours = decode(bytes(batch.body), NOW_US, LIMITS, TimeUnit.NS)
        assert sum(one.num_rows for one in ours) == batch.rows
        found += ours
    return found


def stored(records: Any, measurement: str | None = None, **how: Any) -> dict[str, Table]:
    return tables(decoded(encode_records(records, measurement, **(MANY | how))))


def one_row(record: Mapping[str, Any], measurement: str | None = None, **how: Any) -> Any:
    """The row that one record becomes."""
    ((_, (row,)),) = stored([record], measurement, **how).values()
    return row


def tags_of(table: Table) -> set[str]:
    return {name for name, (_, is_tag) in table[0].items() if is_tag}


# ------------------------------------------------------------ as the daemon reads the row form

_names = st.sampled_from(("a", "b", "c", "host", "time", "größe", "a_value"))
_tag_values = st.one_of(
    st.text(max_size=4), st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.none(),
    st.just(float("nan")),
)  # fmt: skip
_field_values = {
    "int": st.one_of(st.integers(-(2**63), 2**63 - 1), st.none()),
    "float": st.one_of(st.floats(), st.none()),
    "number": st.one_of(st.integers(-(2**53), 2**53), st.floats(), st.none()),
    "text": st.one_of(st.text(max_size=6), st.none(), st.just(float("nan"))),
    "bool": st.one_of(st.booleans(), st.none()),
    "bytes": st.one_of(st.binary(max_size=6), st.none()),
}


@st.composite
def _records(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Records of a few measurements, in each of which a field keeps its type."""
    kinds = {
        measurement: draw(
            st.dictionaries(_names, st.sampled_from(sorted(_field_values)), min_size=1)
        )
        for measurement in draw(st.sets(st.sampled_from(("cpu", "mem", "x y/z")), min_size=1))
    }
    unit = draw(st.sampled_from((1_000, 1_000_000, 1_000_000_000, 1)))
    found = []
    for _ in range(draw(st.integers(1, 30))):
        measurement = draw(st.sampled_from(sorted(kinds)))
        names = draw(st.sets(st.sampled_from(sorted(kinds[measurement])), min_size=1))
        fields = {name: draw(_field_values[kinds[measurement][name]]) for name in sorted(names)}
        record = {
            "measurement": measurement,
            "timestamp": draw(st.integers(1_700_000_000 * unit, 1_790_000_000 * unit)),
            "fields": fields,
        }
        if draw(st.booleans()):
            record["tags"] = draw(st.dictionaries(_names, _tag_values, max_size=3))
        found.append(record)
    return found


def outcome(decode_them: Any) -> Any:
    """Tables, or that there are none."""
    try:
        return tables(decode_them())
    except (IngestError, UsageError):
        return "refused"


@given(_records(), st.integers(1, 12))
def test_rows_types_and_tags_are_those_of_the_row_form(
    records: list[dict[str, Any]], batch_rows: int
) -> None:
    wanted = outcome(lambda: decode(encode_row_form(records), NOW_US, LIMITS))
    assert repr(outcome(lambda: decoded(encode_records(records, **MANY)))) == repr(wanted)


@given(_records(), st.integers(1, 12), st.integers(1, 2_000))
def test_bounds_hold_and_every_record_is_in_one_batch(
    records: list[dict[str, Any]], batch_rows: int, batch_bytes: int
) -> None:
    try:
        batches = list(encode_records(records, batch_rows=batch_rows, batch_bytes=batch_bytes))
    except UsageError:
        return
    assert sum(batch.rows for batch in batches) == len(records)
    for batch in batches:
        assert 1 <= batch.rows <= batch_rows
        assert len(batch.body) <= batch_bytes or batch.rows == 1
        assert batch.target == "/api/v1/write/msgpack"


@given(_records())
def test_records_like_earlier_ones_are_read_as_if_they_were_the_first(
    records: list[dict[str, Any]],
) -> None:
    collector, reader = Collector(Reader()), Reader()
    for record in records:
        collector.add(record)
    found = {}
    for group in collector.take():
        split = len(group.tags)
        for number, time_ns, values in zip(
            group.numbers, group.times_ns, group.values, strict=True
        ):
            tags = dict(zip(group.tags, values[:split], strict=True))
            fields = dict(zip(group.fields, values[split:], strict=True))
            found[number] = Row(group.measurement, time_ns, tags, fields)
    wanted = {number: reader.row(record, number) for number, record in enumerate(records)}
    assert repr(dict(sorted(found.items()))) == repr(wanted)
    assert collector.counts == {}


# --------------------------------------------------------------------------- shapes of a record


def test_missing_values_are_null_and_measurements_are_apart() -> None:
    records = [
        {
            "measurement": "cpu",
            "timestamp": NOW_US,
            "fields": {"usage": 1.5},
            "tags": {"host": "a"},
        },
        {"measurement": "mem", "timestamp": NOW_US, "fields": {"free": 5}},
        {"measurement": "cpu", "timestamp": NOW_US + 1, "fields": {"n": 3, "usage": None}},
    ]
    (batch,) = encode_records(records, **MANY)
    assert (batch.rows, batch.what) == (3, "2 measurements")
    found = stored(records)
    assert found["cpu"] == (
        {"host": ("utf8", True), "usage": ("float64", False), "n": ("int64", False)},
        [{"time": NOW_US, "host": "a", "usage": 1.5}, {"time": NOW_US + 1, "n": 3}],
    )
    assert found["mem"][1] == [{"time": NOW_US, "free": 5}]


def test_columns_of_one_shape_lie_together_whatever_the_order_of_their_records() -> None:
    records = [
        {"measurement": "m", "timestamp": NOW_US + i, "fields": {"x" if i % 2 else "y": i}}
        for i in range(4)
    ]
    assert stored(records)["m"] == (
        {"y": ("int64", False), "x": ("int64", False)},
        [{"time": NOW_US + i, "x" if i % 2 else "y": i} for i in range(4)],
    )


@pytest.mark.parametrize(
    "value", [np.float64(1.5), np.float32(1.5), np.int64(3), np.uint8(3), np.bool_(True), 2**63]
)
def test_a_field_may_be_a_number_of_numpy(value: Any) -> None:
    plain = value.item() if isinstance(value, np.generic) else value
    found = one_row({"measurement": "m", "timestamp": NOW_US, "fields": {"x": value}})["x"]
    assert (type(found), found) == (type(plain), plain)


class _Level(enum.Enum):
    HIGH = "high"
    ONE = 1


class _Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (_Level.HIGH, "high"),
        (_Level.ONE, 1),
        (_Text("x"), "x"),
        (np.str_("x"), "x"),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
    ],
)
def test_a_field_may_stand_for_a_plain_value(value: Any, want: Any) -> None:
    assert one_row({"measurement": "m", "fields": {"x": value}})["x"] == want


@pytest.mark.parametrize("missing", [None, pd.NA, pd.NaT])
def test_what_is_missing_is_null(missing: Any) -> None:
    record = {"measurement": "m", "fields": {"x": missing, "y": 1}, "tags": {"t": missing}}
    assert one_row(record).keys() == {"time", "y"}
    assert one_row({"x": missing, "y": 1}, "m").keys() == {"time", "y"}


def test_a_record_without_a_time_gets_the_present_one() -> None:
    for record in (
        {"measurement": "m", "fields": {"x": 1}},
        {"measurement": "m", "timestamp": None, "fields": {"x": 1}},
        {"measurement": "m", "x": 1},
    ):
        before_us = time.time_ns() // 1000
        assert before_us <= one_row(record)["time"] <= time.time_ns() // 1000


@pytest.mark.parametrize(
    ("given_time", "unit"),
    [
        (1_790_000_000, None),
        (1_790_000_000.0, None),
        (1_790_000_000_000, None),
        (1_790_000_000_000_000, None),
        (1_790_000_000_000_000_000, None),
        (1_790_000_000, "s"),
        (1_790_000_000_000_000, "us"),
        (dt.datetime(2026, 9, 21, 14, 13, 20), None),
        (dt.datetime(2026, 9, 21, 16, 13, 20, tzinfo=dt.timezone(dt.timedelta(hours=2))), "s"),
        (np.datetime64("2026-09-21T14:13:20"), None),
        (pd.Timestamp("2026-09-21T14:13:20Z"), None),
    ],
)
def test_times_come_in_every_form_under_either_name(given_time: Any, unit: str | None) -> None:
    for name in ("time", "timestamp"):
        nested = {"measurement": "m", name: given_time, "fields": {"x": 1}}
        assert one_row(nested, time_unit=unit)["time"] == 1_790_000_000_000_000
        assert one_row({name: given_time, "x": 1}, "m", time_unit=unit)["time"] == (
            1_790_000_000_000_000
        )


def test_each_time_tells_its_own_unit() -> None:
    records = [
        {"time": at, "x": 1} for at in (1_790_000_000, 1_790_000_000_000, 1_790_000_000_000_000)
    ]
    assert {row["time"] for row in stored(records, "m")["m"][1]} == {1_790_000_000_000_000}


# -------------------------------------------------------------------------------- flat records


def test_strings_of_a_flat_record_are_tags_and_all_else_fields() -> None:
    record = {"time": NOW_US, "host": "a", "usage": 1.5, "n": 3, "up": True, "raw": b"x"}
    found = stored([record], "cpu")["cpu"]
    assert tags_of(found) == {"host"}
    assert found[1] == [record]


def test_what_was_declared_goes_before_the_type() -> None:
    dialects = {"m": Dialect(tags=frozenset({"port"}), fields=frozenset({"text"}))}
    record: dict[str, Any] = {"time": NOW_US, "port": 80, "text": "hello", "host": "a"}
    found = stored([record, record], "m", dialects=dialects)["m"]
    assert tags_of(found) == {"port", "host"}
    assert found[1] == [record | {"port": "80"}] * 2


def test_a_flat_record_may_name_its_measurement() -> None:
    records: list[dict[str, Any]] = [{"measurement": "a", "x": 1}, {"x": 2}]
    records.append({"measurement": "c", "x": 3})
    found = stored([record | {"time": NOW_US} for record in records], "b")
    assert {name: rows[0]["x"] for name, (_, rows) in found.items()} == {"a": 1, "b": 2, "c": 3}


def test_a_timestamp_beside_the_time_is_a_column() -> None:
    assert one_row({"time": NOW_US, "timestamp": 7}, "m") == {"time": NOW_US, "timestamp": 7}


def test_nan_among_tags_of_flat_records_is_missing() -> None:
    records = [{"time": NOW_US + i, "host": h, "x": 1.0} for i, h in enumerate(("a", float("nan")))]
    assert [row.get("host") for row in stored(records, "m")["m"][1]] == ["a", None]


def test_one_dict_may_be_filled_again_for_each_record() -> None:
    def records() -> Iterator[dict[str, Any]]:
        record: dict[str, Any] = {"measurement": "m", "fields": {}, "tags": {}, "timestamp": 0}
        for i in range(3):
            record["timestamp"] = NOW_US + i
            record["fields"]["x"] = i
            record["tags"]["t"] = str(i)
            yield record

    assert [(row["x"], row["t"]) for row in stored(records())["m"][1]] == [
        (0, "0"), (1, "1"), (2, "2"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- refusals


class _Thing:
    pass


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (7, "found int, wanted a dict"),
        ({"fields": {"x": 1}}, "found no measurement, wanted the name of one"),
        ({"measurement": "", "fields": {"x": 1}}, "found measurement '', wanted"),
        ({"measurement": 7, "fields": {"x": 1}}, "found measurement 7, wanted"),
        ({"measurement": "m"}, "measurement 'm': 'fields' is missing"),
        ({"measurement": "m", "timestamp": 1, "tags": {}}, "'fields' is missing"),
        (
            {"measurement": "m", "fields": {}},
            "'fields': found dict, wanted a dict that is not empty",
        ),
        ({"measurement": "m", "fields": [1]}, "'fields': found list, wanted a dict"),
        (
            {"measurement": "m", "fields": {"x": 1}, "tags": [1]},
            "'tags': found list, wanted a dict",
        ),
        (
            {"measurement": "m", "fields": {"x": 1}, "tag": {}},
            "unknown key 'tag' beside fields, me",
        ),
        (
            {"measurement": "m", "fields": {"x": 1}, "time": 1, "timestamp": 1},
            "'time' and 'timestamp': found both, wanted one",
        ),
        (
            {"measurement": "m", "fields": {"x": [1]}},
            "measurement 'm': column 'x': found list, wanted a number, a string, a boolean, bytes",
        ),
        ({"measurement": "m", "fields": {"x": _Thing()}}, "column 'x': found _Thing, wanted a num"),
        ({"measurement": "m", "fields": {"x": dt.datetime(2026, 1, 1)}}, "found datetime, wanted"),
        ({"measurement": "m", "fields": {"": 1}}, "a column's name: found '', wanted text"),
        ({"measurement": "m", "fields": {7: 1}}, "a column's name: found int, wanted text"),
        (
            {"measurement": "m", "fields": {"x": 1}, "tags": {"t": b"x"}},
            "column 't': found bytes, wanted a string, a number or a boolean, since it is a tag",
        ),
        (
            {"measurement": "m", "fields": {"x": 1}, "time": "now"},
            "measurement 'm': time: found str",
        ),
        (
            {"measurement": "m", "fields": {"x": 1}, "time": True},
            "measurement 'm': time: found bool",
        ),
        ({"measurement": "m", "fields": {"x": 2**64}}, "column 'x': can't serialize ints"),
        ({"measurement": "m", "fields": {"x": "\ud800"}}, "column 'x': 'utf-8' codec can't encode"),
    ],
)
def test_a_record_that_cannot_be_sent_is_named(record: Any, words: str) -> None:
    good = {"measurement": "m", "timestamp": NOW_US, "fields": {"x": None}, "tags": {}}
    with pytest.raises(UsageError) as found:
        list(encode_records([good, good, record], **MANY))
    assert str(found.value).startswith("record 2: ")
    assert words in str(found.value)


def test_two_columns_of_one_name_are_refused() -> None:
    record = {"measurement": "m", "fields": {"a": 1, "a_value": 2}, "tags": {"a": "x"}}
    with pytest.raises(UsageError, match="measurement 'm': two columns would be stored as 'a_va"):
        list(encode_records([record], **MANY))


def test_a_name_that_is_text_once_and_a_number_once_has_to_be_declared() -> None:
    with pytest.raises(UsageError, match=r"record 1: .* column 'x': found int, wanted text as in"):
        list(encode_records([{"x": "a"}, {"x": 1}], "m", **MANY))
    with pytest.raises(UsageError, match=r"record 1: .* column 'x': found str, wanted no text as"):
        list(encode_records([{"x": float("nan")}, {"x": "a"}], "m", **MANY))


def test_batches_before_a_bad_record_are_whole() -> None:
    batches = encode_records([{"x": 1}, {"x": 2}, {"x": _Thing()}], "m", batch_rows=2, **BYTES)
    assert next(batches).rows == 2
    with pytest.raises(UsageError):
        next(batches)


def test_no_records_are_no_batches() -> None:
    assert list(encode_records([], **MANY)) == []


def test_rows_with_a_column_each_do_not_blow_up() -> None:
    records = [{f"x{i}": i, "time": NOW_US + i} for i in range(2_000)]
    batches = list(encode_records(records, "m", batch_rows=2_000, batch_bytes=100_000))
    assert sum(batch.rows for batch in batches) == 2_000
    assert all(len(batch.body) <= 100_000 for batch in batches)


# ------------------------------------------------------------------------------- line protocol

_UNCLOSED = "found no quote that closes"


def lines_of(batches: Iterator[Batch], batch_rows: int, batch_bytes: int) -> list[bytes]:
    """The lines of batches, each of which keeps its bounds and counts its own."""
    found = []
    for batch in batches:
        assert (batch.kind, batch.headers) == (Kind.LINE_PROTOCOL, ())
        lines = [line for _, line in pieces(bytes(batch.body))]
        assert len(lines) == batch.rows
        assert 1 <= batch.rows <= batch_rows
        assert len(batch.body) <= batch_bytes or batch.rows == 1
        found += lines
    return found


def found_lines(way: Any, bounds: dict[str, Any]) -> list[bytes] | None:
    """The lines of batches; None: the last of them has a string that no quote closes."""
    try:
        return lines_of(encode_lines(way, **bounds), **bounds)
    except UsageError as error:
        if _UNCLOSED not in str(error):
            raise
        return None


@given(
    st.one_of(line_protocol_bodies(), faulty_line_protocol_bodies()),
    st.integers(1, 12),
    st.integers(1, 500),
)
def test_no_line_is_cut_and_none_is_lost(body: bytes, batch_rows: int, batch_bytes: int) -> None:
    bounds: dict[str, Any] = {"batch_rows": batch_rows, "batch_bytes": batch_bytes}
    wanted = [line for _, line in pieces(body)]
    ways: list[Any] = [body, [body], body.splitlines(keepends=True), io.BytesIO(body)]
    try:
        text = body.decode()
        ways += [text, text.split("\n"), io.StringIO(text, newline="\n")]
    except UnicodeDecodeError:
        pass
    for way in ways if b"\r" not in body.replace(b"\r\n", b"") else ways[:1]:
        found = found_lines(way, bounds)
        if found is None:
            with pytest.raises(IngestError):
                decode_lines(body, NOW_US, LIMITS)
        else:
            assert found == wanted


def test_a_line_feed_in_a_string_ends_no_line() -> None:
    lines = [
        'log,host=a text="one\ntwo, \\"three\nfour\\\\" 1\n',
        'log,host="b text="x" 2\n',  # a quote in a tag opens no string
        'log,host=c text="= \n",n=1 3',
    ]
    for way in ("".join(lines), lines, "".join(lines).splitlines()):
        batches = list(encode_lines(way, batch_rows=1, batch_bytes=1 << 20))
        assert [bytes(batch.body) for batch in batches] == [*map(str.encode, lines[:2]),
            (lines[2] + "\n").encode()]  # fmt: skip


def test_comments_and_empty_lines_are_no_rows() -> None:
    text = '# "a comment\n\n   \n\t# another\n\r\n  cpu x=1 1\r\n'
    (batch,) = encode_lines(text, **MANY)
    assert (batch.rows, bytes(batch.body)) == (1, b"cpu x=1 1\r\n")
    for nothing in ("", b"", [], "\n", "# only this", [" ", ""]):
        assert list(encode_lines(nothing, **MANY)) == []


@pytest.mark.parametrize(
    ("precision", "want"),
    [("ns", "ns"), ("n", "ns"), ("us", "us"), ("u", "us"), ("µ", "us"), ("ms", "ms"), ("s", "s"),
     ("m", "m"), ("h", "h")],
)  # fmt: skip
def test_the_precision_is_in_the_target(precision: str, want: str) -> None:
    (batch,) = encode_lines("cpu x=1 1", precision, **MANY)
    assert batch.target == f"/api/v1/write/line-protocol?precision={want}"


def test_another_precision_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="precision: found 'min', wanted one of h, m, ms, ns, s"):
        encode_lines("cpu x=1 1", "min", **MANY)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match="item 1: found int, wanted str or bytes"):
        list(encode_lines(["cpu x=1", 7], **MANY))  # type: ignore[list-item]
    with pytest.raises(UsageError, match="item 0: no UTF-8"):
        list(encode_lines("cpu,t=\ud800 x=1", **MANY))


def test_a_string_that_is_never_closed_is_refused() -> None:
    lines = ["cpu x=1 1", 'cpu x="a 2', "cpu x=3 3"]
    with pytest.raises(UsageError, match=r"line that begins with 'cpu x=\"a 2': found no quote"):
        list(encode_lines(lines, **MANY))
