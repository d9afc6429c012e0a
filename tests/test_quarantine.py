"""Requests with bad rows: the good ones are stored as they would be alone, the others kept."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import decoders, line_protocol_slow, msgpack_pieces
from ingest import quarantine as quarantine_module
from ingest.columns import ColumnBatch, ColumnType
from ingest.decoders import Parameters
from ingest.errors import (
    ClientError,
    CompressionError,
    DecodeError,
    InvalidNameError,
    LimitError,
    PayloadError,
    TooLargeError,
    TypeConflictError,
)
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.paths import QUARANTINE
from ingest.quarantine import (
    MAX_ERROR_BYTES,
    Refused,
    SiftedBody,
    as_sent_again,
    is_of_rows,
    quarantine_batch,
    rewrite,
    sift_body,
)
from ingest.schema import NO_TABLE, ColumnSpec, TableSchema, fit
from ingest.sift import Sieve
from ingest.testing.batches import assert_same_batches, check_batches, column_values
from ingest.testing.msgpack import columnar
from ingest.testing.strategies import (
    damaged_bodies,
    faulty_bodies,
    faulty_line_protocol_bodies,
    faulty_row_bodies,
    line_protocol_bodies,
    row_bodies,
)
from ingest.timestamps import TimeUnit

NOW_US = 1_700_000_000_123_456
LIMITS = Limits()
encode = msgspec.msgpack.encode

INT64, FLOAT64, UTF8, BOOL = (
    ColumnType.INT64,
    ColumnType.FLOAT64,
    ColumnType.UTF8,
    ColumnType.BOOL,
)


def head(form: Format, unit: TimeUnit | None = None, params: bytes = b"") -> RecordHead:
    return RecordHead(form, "db", unit, NOW_US, b"", params)


LINES = head(Format.LINE_PROTOCOL, TimeUnit.NS)
MAPS = head(Format.MSGPACK)


def table(**kinds: ColumnType) -> TableSchema:
    return TableSchema({name: ColumnSpec(kind) for name, kind in kinds.items()}, 1)


def judge(
    of: RecordHead,
    body: bytes,
    tables: Mapping[str, TableSchema] | None = None,
    limits: Limits = LIMITS,
) -> SiftedBody:
    sieve = Sieve(lambda name: (tables or {}).get(name, NO_TABLE), limits)
    return sift_body(of, body, limits, sieve)


def rows(batches: Sequence[ColumnBatch]) -> list[dict[str, Any]]:
    """The rows of batches, each with its measurement; without nulls and times."""
    found = []
    for batch in batches:
        values = {name: column_values(column) for name, column in batch.columns.items()}
        for at in range(batch.num_rows):
            row = {name: of[at] for name, of in values.items() if of[at] is not None}
            found.append({"m": batch.measurement, **row})
    return found


# -------------------------------------------------------------------------------- line protocol


def test_bad_lines_are_kept_as_they_came_and_the_others_go_on() -> None:
    body = b"cpu,host=a v=1\n# a comment\ncpu,host=b v=oops 5\n\n  cpu v=2,w=t 7 \nmem free=1i\r\n"
    found = judge(LINES, body)
    assert rows(found.batches) == [
        {"m": "cpu", "host": "a", "v": 1.0},
        {"m": "cpu", "v": 2.0, "w": True},
        {"m": "mem", "free": 1},
    ]
    (refused,) = found.refused
    assert (refused.body, refused.line, refused.measurement) == (b"cpu,host=b v=oops 5", 3, "cpu")
    assert (refused.format, refused.time_unit) == (Format.LINE_PROTOCOL, TimeUnit.NS)
    assert refused.message.startswith("line 3, 'cpu,host=b v=oops 5': field 'v': found 'oops'")
    assert "nothing was written" not in refused.message
    assert (found.num_rows, found.num_refused) == (3, 1)


def test_a_line_that_its_table_cannot_take_is_refused_with_the_types() -> None:
    body = b'cpu v=1i\ncpu v="text"\ncpu v=3i'
    found = judge(LINES, body, {"cpu": table(v=INT64)})
    assert [refused.line for refused in found.refused] == [2]
    assert isinstance(found.refused[0].error, TypeConflictError)
    assert [row["v"] for row in rows(found.batches)] == [1, 3]


def test_of_lines_with_contrary_types_the_first_is_served() -> None:
    found = judge(LINES, b'cpu v="a"\ncpu v=1\ncpu v="b"\ncpu v=t')
    assert [refused.line for refused in found.refused] == [2, 4]
    assert [row["v"] for row in rows(found.batches)] == ["a", "b"]


def test_columns_are_typed_as_in_a_whole_request() -> None:
    # host is a tag of one line and a field of another: in one request it is host_value there.
    found = judge(LINES, b'cpu,host=a v=1i\ncpu host="b",v=2.5\ncpu v=bad')
    assert rows(found.batches) == [
        {"m": "cpu", "host": "a", "v": 1.0},
        {"m": "cpu", "host_value": "b", "v": 2.5},
    ]
    assert found.batches[0].tags == {"host"}


def test_rows_that_are_good_alone_and_not_together_are_all_stored() -> None:
    # Two units of time, told from magnitudes: refused as one request, fine as two.
    maps = [
        {"m": "cpu", "t": 1_700_000_000, "fields": {"v": 1}},
        {"m": "cpu", "t": 1_700_000_000_000, "fields": {"v": 2.5}},
        {"m": "cpu", "t": None, "fields": {"v": 3}},
    ]
    found = judge(MAPS, encode(maps))
    assert rows(found.batches) == [{"m": "cpu", "v": 1.0}, {"m": "cpu", "v": 2.5}]
    assert found.batches[0].time_us.tolist() == [1_700_000_000_000_000] * 2
    assert [refused.body for refused in found.refused] == [encode(maps[2])]


def test_a_line_that_is_not_utf8_is_kept_with_its_measurement_if_that_is_one() -> None:
    found = judge(LINES, b'a\\ b,t=x v="\xff" 1\n\xfe v=1\nok v=1\n v\n=')
    assert [refused.measurement for refused in found.refused] == ["a b", "\ufffd", None, None]
    assert [refused.line for refused in found.refused] == [1, 2, 4, 5]


def test_a_body_of_bad_lines_only_leaves_no_batch() -> None:
    found = judge(LINES, b"x\ny")
    assert (found.batches, found.num_refused) == ([], 2)


def test_a_line_for_the_quarantine_is_refused() -> None:
    found = judge(LINES, b"_quarantine v=1\ncpu v=1")
    assert [refused.measurement for refused in found.refused] == [QUARANTINE]
    assert rows(found.batches) == [{"m": "cpu", "v": 1.0}]


# ---------------------------------------------------------------------------------- MessagePack


def test_bad_maps_are_kept_as_they_came_and_the_others_go_on() -> None:
    bad = {"m": "cpu", "columns": {"time": [1, 2], "v": [1, "x"]}}
    maps = [columnar("cpu", {"v": [1]}), encode(bad), columnar("mem", {"v": [2]})]
    for body in (b"".join(maps), b"\x93" + b"".join(maps)):
        found = judge(MAPS, body)
        assert [(refused.body, refused.measurement) for refused in found.refused] == [
            (encode(bad), "cpu")
        ]
        assert rows(found.batches) == [{"m": "cpu", "v": 1}, {"m": "mem", "v": 2}]


def test_rows_of_a_map_that_their_table_cannot_take_become_maps_of_their_own() -> None:
    body = columnar("cpu", {"time": [NOW_US] * 4, "v": [1, 2**60, 3, -(2**60)], "s": list("abcd")})
    found = judge(MAPS, body, {"cpu": table(v=FLOAT64)})
    assert rows(found.batches) == [
        {"m": "cpu", "v": 1.0, "s": "a"},
        {"m": "cpu", "v": 3.0, "s": "c"},
    ]
    assert [msgspec.msgpack.decode(refused.body) for refused in found.refused] == [
        {"m": "cpu", "columns": {"time": [NOW_US], "v": [value], "s": [text]}, "tags": []}
        for value, text in ((2**60, "b"), (-(2**60), "d"))
    ]
    refused = found.refused[0]
    assert (refused.format, refused.time_unit, refused.line) == (Format.MSGPACK, TimeUnit.US, None)
    assert refused.message.endswith("; 1 more of its rows are refused for this")
    assert (found.num_rows, found.num_refused) == (2, 2)


def test_a_map_none_of_whose_rows_can_be_taken_is_kept_as_it_came() -> None:
    body = columnar("cpu", {"v": [1, 2, 3]})
    found = judge(MAPS, body, {"cpu": table(v=BOOL)})
    assert [(one.body, one.num_rows, one.time_unit) for one in found.refused] == [(body, 3, None)]
    assert found.num_refused == 3


def test_a_map_with_an_integer_as_its_measurement_is_known_by_that() -> None:
    found = judge(MAPS, columnar(7, {"v": [1]}) + columnar(7, {"v": ["x", 1]}) + encode({"a": 1}))
    assert [refused.measurement for refused in found.refused] == ["measurement_7", None]


def test_maps_that_were_split_go_on_after_those_that_were_not() -> None:
    half = columnar("cpu", {"time": [NOW_US] * 2, "v": [1, 2], "w": [None, True]})
    found = judge(MAPS, half + columnar("cpu", {"v": [5]}), {"cpu": table(w=INT64)})
    assert sorted(row["v"] for row in rows(found.batches)) == [1, 5]
    assert len(found.batches) == 1


def test_bytes_that_cannot_be_taken_apart_are_refused_as_a_whole() -> None:
    for body in (b"", b"\xc1", columnar("cpu", {"v": [1]})[:-1]):
        with pytest.raises(ClientError):
            judge(MAPS, body)


# --------------------------------------------------------------------------------- other formats


def arrow_stream(columns: Mapping[str, pa.Array]) -> bytes:
    sink = pa.BufferOutputStream()
    arrow_table = pa.table(dict(columns))
    with pa.ipc.new_stream(sink, arrow_table.schema) as writer:
        writer.write_table(arrow_table)
    return bytes(sink.getvalue())


def test_rows_of_an_arrow_stream_become_maps_of_their_own() -> None:
    times = pa.array([NOW_US, NOW_US + 1], pa.timestamp("us"))
    body = arrow_stream({"time": times, "v": pa.array([1, 2**60])})
    of = head(Format.ARROW, None, Parameters("cpu").to_bytes())
    found = judge(of, body, {"cpu": table(v=FLOAT64)})
    assert rows(found.batches) == [{"m": "cpu", "v": 1.0}]
    (refused,) = found.refused
    assert refused.format is Format.MSGPACK
    wanted = {"m": "cpu", "columns": {"time": [NOW_US + 1], "v": [2**60]}, "tags": []}
    assert msgspec.msgpack.decode(refused.body) == wanted


def test_an_arrow_stream_that_is_none_is_refused_as_a_whole() -> None:
    with pytest.raises(ClientError):
        judge(head(Format.ARROW, None, Parameters("cpu").to_bytes()), b"no stream")


def test_where_nobody_wants_the_bytes_there_is_no_limit_on_the_bad_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quarantine_module, "MAX_REFUSED", 1)
    sieve = Sieve(lambda _: table(v=FLOAT64), LIMITS)
    body = columnar("cpu", {"v": [1, 2**60, 2**60]}) + columnar("cpu", {"v": ["a", "b"]})
    found = sift_body(MAPS, body, LIMITS, sieve, keep_bodies=False)
    assert [(one.body, one.num_rows) for one in found.refused] == [(b"", 2), (b"", 2)]
    assert found.num_rows == 1


def log_request(*records: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})


def test_records_of_otlp_are_kept_in_the_form_in_which_they_can_be_sent_again() -> None:
    good = {"timeUnixNano": str(NOW_US * 1000), "body": {"stringValue": "a"}}
    of = head(Format.OTLP_LOGS_JSON)
    late = {**good, "timeUnixNano": str(2**64 - 1)}
    found = judge(of, log_request(good, late))
    assert found.num_rows == 1
    (refused,) = found.refused
    assert refused.format is Format.OTLP_LOGS_JSON
    assert refused.measurement == "otel_logs"
    assert msgspec.json.decode(refused.body)["resourceLogs"]


def test_attributes_of_otlp_that_their_table_cannot_take_go_where_mixed_ones_are() -> None:
    record = {
        "timeUnixNano": str(NOW_US * 1000),
        "attributes": [{"key": "k", "value": {"intValue": "5"}}],
    }
    found = judge(
        head(Format.OTLP_LOGS_JSON),
        log_request(record),
        {"otel_logs": table(**{"attributes.k": BOOL})},
    )
    assert found.refused == []
    (row,) = rows(found.batches)
    assert msgspec.json.decode(row["attributes_json"]) == {"attributes.k": 5}


def test_a_record_of_otlp_whose_own_column_is_in_the_way_becomes_a_map_of_its_own() -> None:
    record = {"timeUnixNano": str(NOW_US * 1000), "severityText": "INFO"}
    of = head(Format.OTLP_LOGS_JSON)
    found = judge(of, log_request(record, {}), {"otel_logs": table(severity_text=BOOL)})
    assert found.num_rows == 1
    (refused,) = found.refused
    assert (refused.format, refused.measurement) == (Format.MSGPACK, "otel_logs")


# ----------------------------------------------------------------------------- what it may cost


def test_more_bad_rows_than_are_kept_refuse_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine_module, "MAX_REFUSED", 3)
    assert judge(LINES, b"x\n" * 3).num_refused == 3
    with pytest.raises(LimitError, match="bad rows of one request"):
        judge(LINES, b"x\n" * 4)
    columns = {"v": [1] * 5, "w": [None] + [1] * 4}
    with pytest.raises(LimitError, match="bad rows of one request"):
        judge(MAPS, columnar("cpu", columns), {"cpu": table(w=BOOL)})


def test_bad_rows_that_take_too_much_memory_refuse_the_request() -> None:
    columns: dict[Any, Any] = {f"{i:0>250}": [1] * 40 for i in range(20)}
    body = columnar("cpu", {**columns, "bad": [None] + [1] * 39})
    limits = Limits(max_decoded_bytes=100_000)
    with pytest.raises(TooLargeError, match="memory of the bad rows"):
        judge(MAPS, body, {"cpu": table(bad=BOOL)}, limits)


def test_the_groups_of_good_pieces_have_a_limit_together_too() -> None:
    times = (1_700_000_000, 1_700_000_000_000)
    maps = [
        {"m": "cpu", "t": times[i % 2], "fields": {"v": "x" * 200 if i % 3 else 1}}
        for i in range(60)
    ]
    with pytest.raises(TooLargeError, match="memory of the columns"):
        judge(MAPS, encode(maps), limits=Limits(max_decoded_bytes=20_000))


def decodes_of(monkeypatch: pytest.MonkeyPatch, of: RecordHead, body: bytes) -> Counter[str]:
    """How many pieces were decoded, in how many calls."""
    counted: Counter[str] = Counter()
    plain = decoders.decode

    def counting(given_head: RecordHead, part: bytes, limits: Limits) -> decoders.Decoded:
        counted["calls"] += 1
        counted["lines"] += part.count(b"\n") + 1
        return plain(given_head, part, limits)

    monkeypatch.setattr(decoders, "decode", counting)
    judge(of, body)
    return counted


def test_ten_thousand_bad_lines_are_read_little_more_than_once_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = decodes_of(monkeypatch, LINES, b"\n".join([b"cpu v=oops"] * 10_000))
    assert counted["calls"] < 10_700
    assert counted["lines"] < 12_500


def test_few_bad_lines_among_many_good_ones_cost_few_decodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [b"cpu v=%d" % i for i in range(20_000)]
    lines[5], lines[13_333] = b"bad", b"worse"
    counted = decodes_of(monkeypatch, LINES, b"\n".join(lines))
    assert counted["calls"] < 220
    assert counted["lines"] < 43_000  # all of them twice, and little more


def test_no_mixture_makes_the_work_grow_faster_than_the_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(1)
    for share in (0.5, 0.1, 0.02):
        lines = [b"bad" if rng.random() < share else b"cpu v=1" for _ in range(5_000)]
        counted = decodes_of(monkeypatch, LINES, b"\n".join(lines))
        assert counted["lines"] < 6 * len(lines)


def test_lines_of_thousands_of_measurements_are_judged_one_by_one() -> None:
    lines = [b'm%d v=1i\nm%d v="a"' % (i, i) for i in range(5_000)]
    found = judge(LINES, b"\n".join(lines))
    assert (len(found.batches), found.num_refused) == (5_000, 5_000)


# ------------------------------------------------------------------------------------ properties


def canonical(batches: Sequence[ColumnBatch]) -> Counter[str]:
    """Rows as they are whatever stands beside them.

    Without names, since a field is renamed when another row has a tag of that name; numbers as
    floats, since integers become that beside floats; without NaN, which is null beside strings.
    """
    found: Counter[str] = Counter()
    for batch in batches:
        values = [column_values(column) for column in batch.columns.values()]
        for at, time_us in enumerate(batch.time_us.tolist()):
            cells = [of[at] for of in values if of[at] is not None and of[at] == of[at]]
            numbers = [
                float(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell
                for cell in cells
            ]
            found[repr((batch.measurement, time_us, sorted(map(repr, numbers))))] += 1
    return found


def check_judgement(
    of: RecordHead, pieces: Sequence[bytes], found: SiftedBody, tables: dict[str, TableSchema]
) -> None:
    """Fail unless every row of the pieces is stored or kept, and what is stored can be."""
    for batch in found.batches:
        schema = tables.get(batch.measurement, NO_TABLE)
        fitted = fit(schema, batch, LIMITS.max_columns)
        assert fitted.batch is batch
    check_batches(found.batches)
    assert len({batch.measurement for batch in found.batches}) == len(found.batches)
    there, kept = Counter[str](), canonical(found.batches)
    undecodable, undecodable_kept = Counter(list[bytes]()), Counter(list[bytes]())
    for piece in pieces:
        batches = decoded_alone(of, piece)
        if batches is None:
            undecodable[piece] += 1
        else:
            there += canonical(batches)
    for refused in found.refused:
        unit = msgspec.structs.replace(of, format=refused.format, time_unit=refused.time_unit)
        batches = decoded_alone(unit, refused.body)
        if batches is None:
            undecodable_kept[refused.body] += 1
        else:
            kept += canonical(batches)
    assert kept == there
    for blank in (b"\r", b"\r\r"):  # of a line of nothing but these: empty by itself
        del undecodable[blank], undecodable_kept[blank]
    assert undecodable_kept == undecodable


def decoded_alone(of: RecordHead, piece: bytes) -> list[ColumnBatch] | None:
    try:
        return decoders.decode(of, piece, LIMITS).batches
    except ClientError:
        return None


def random_tables(rng: random.Random, names: Sequence[str]) -> dict[str, TableSchema]:
    """Tables of some of the measurements, with some of the columns, of any type."""
    kinds = [INT64, FLOAT64, UTF8, BOOL, ColumnType.BINARY]
    columns = ["v", "w", "a", "b.c", "host", "größe", "field_0", "load"]
    return {
        name: table(**{column: rng.choice(kinds) for column in rng.sample(columns, 3)})
        for name in names
        if rng.random() < 0.5
    }


SEEDS = st.integers(0, 2**32 - 1).map(random.Random)


@given(st.one_of(line_protocol_bodies(), faulty_line_protocol_bodies()), SEEDS)
def test_every_line_is_stored_or_kept(body: bytes, rng: random.Random) -> None:
    pieces = [piece for _, piece in line_protocol_slow.pieces(body)]
    tables = random_tables(rng, ["cpu", "mem", "disk"])
    check_judgement(LINES, pieces, judge(LINES, body, tables), tables)


@given(st.one_of(faulty_bodies(), row_bodies(), faulty_row_bodies(), damaged_bodies()), SEEDS)
def test_every_row_of_every_map_is_stored_or_kept(body: bytes, rng: random.Random) -> None:
    of = head(Format.MSGPACK, TimeUnit.NS)
    try:
        pieces = msgpack_pieces.pieces(body, LIMITS)
    except ClientError as error:
        with pytest.raises(type(error)):
            judge(of, body)
        return
    tables = random_tables(rng, ["cpu", "disk/io", "größe"])
    check_judgement(of, pieces, judge(of, body, tables), tables)


@given(st.one_of(line_protocol_bodies(), row_bodies()))
def test_a_request_that_its_tables_take_is_stored_as_if_nobody_had_looked(body: bytes) -> None:
    for of in (LINES, MAPS):
        try:
            wanted = decoders.decode(of, body, LIMITS).batches
            fitted = [fit(NO_TABLE, batch, LIMITS.max_columns).batch for batch in wanted]
        except ClientError:
            continue
        names = [batch.measurement for batch in wanted]
        if len(set(names)) == len(names):
            found = judge(of, body)
            assert found.refused == []
            assert_same_batches(found.batches, fitted)


@given(faulty_line_protocol_bodies())
def test_what_is_logged_decodes_to_what_is_stored(body: bytes) -> None:
    found = judge(LINES, body)
    rewritten = rewrite(found, "line_protocol", NOW_US)
    again = decoders.decode(head(Format.MSGPACK, TimeUnit.US), rewritten.body, LIMITS).batches
    assert_same_batches(again, rewritten.batches)
    assert [batch.measurement for batch in rewritten.batches[len(found.batches) :]] == (
        [QUARANTINE] if found.refused else []
    )


# ------------------------------------------------------------------------- into the quarantine


def refused(error: ClientError | None = None, **others: Any) -> Refused:
    given_values: dict[str, Any] = {"body": b"x", "format": Format.LINE_PROTOCOL, "time_unit": None}
    return Refused(error or PayloadError("why"), **{**given_values, **others})


def test_a_row_of_the_quarantine_says_what_came_where_and_why() -> None:
    pieces = [
        refused(body=b"a\0", measurement="cpu", line=3, time_unit=TimeUnit.S),
        refused(DecodeError("no"), format=Format.MSGPACK, measurement="mem"),
    ]
    made = quarantine_batch(pieces, "line_protocol", NOW_US)
    assert made.measurement == QUARANTINE
    assert made.tags == {"door", "measurement", "reason"}
    assert made.time_us.tolist() == [NOW_US, NOW_US]
    assert {name: (c.type, column_values(c)) for name, c in made.columns.items()} == {
        "door": (UTF8, ["line_protocol"] * 2),
        "measurement": (UTF8, ["cpu", "mem"]),
        "reason": (UTF8, ["payload", "undecodable"]),
        "error": (UTF8, ["why", "no"]),
        "body": (ColumnType.BINARY, [b"a\0", b"x"]),
        "format": (UTF8, ["line_protocol", "msgpack"]),
        "time_unit": (UTF8, ["s", None]),
        "line": (INT64, [3, None]),
    }
    check_batches([made])


def test_columns_without_a_value_are_left_out() -> None:
    made = quarantine_batch([refused()], "msgpack", NOW_US)
    assert not {"measurement", "time_unit", "line"} & made.columns.keys()


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129, "\ud800"])
def test_a_measurement_that_is_no_name_is_not_kept_as_one(name: str) -> None:
    made = quarantine_batch([refused(measurement=name)], "msgpack", NOW_US)
    assert "measurement" not in made.columns


@pytest.mark.parametrize("text", ["e" * 5000, "é" * 5000, "x" + "é" * 5000, "\ud800", "short"])
def test_messages_are_bounded(text: str) -> None:
    made = quarantine_batch([refused(PayloadError(text))], "msgpack", NOW_US)
    (message,) = column_values(made.columns["error"])
    assert len(message.encode()) <= MAX_ERROR_BYTES
    assert len(text) < 10 or message.endswith("…")


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (PayloadError("x"), True),
        (LimitError("x", 2, 1, "y"), True),
        (InvalidNameError("x"), True),
        (DecodeError("x"), True),
        (TooLargeError("x", 1, "y"), False),
        (CompressionError("x"), False),
    ],
)
def test_errors_of_the_request_are_told_from_errors_of_rows(
    error: ClientError, wanted: bool
) -> None:
    assert is_of_rows(error) is wanted


# ----------------------------------------------------------------------- out of the quarantine

ARRIVAL_US = 1_600_000_000_000_001


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"cpu v=1", b"cpu v=1 1600000000000001"),
        (b'cpu,t=a\\ b s="x y" \r', b'cpu,t=a\\ b s="x y" 1600000000000001'),
    ],
)
def test_a_line_without_a_time_is_sent_again_with_that_of_its_arrival(
    body: bytes, wanted: bytes
) -> None:
    for unit in (TimeUnit.NS, TimeUnit.H):
        sent = as_sent_again(body, Format.LINE_PROTOCOL, unit, ARRIVAL_US)
        assert sent == (wanted, TimeUnit.US)


@pytest.mark.parametrize("body", [b"cpu v=1 5", b"cpu v=oops", b"cpu v=1 5 6", b"", b"cpu v"])
def test_a_line_that_has_a_time_or_is_bad_is_sent_again_as_it_came(body: bytes) -> None:
    sent = as_sent_again(body, Format.LINE_PROTOCOL, TimeUnit.MS, ARRIVAL_US)
    assert sent == (body, TimeUnit.MS)


@pytest.mark.parametrize(
    "piece",
    [
        {"m": "cpu", "fields": {"v": 1.5}, "tags": {"host": "a"}},
        {"m": "cpu", "fields": [1, 2], "h": "x"},
        {"m": "cpu", "columns": {"v": [1, 2, 3]}, "tags": ["v"], "extra": [{}]},
    ],
)
def test_a_map_without_a_time_is_sent_again_with_that_of_its_arrival(piece: dict[str, Any]) -> None:
    for unit in (None, TimeUnit.S):
        body, sent_unit = as_sent_again(encode(piece), Format.MSGPACK, unit, ARRIVAL_US)
        assert sent_unit is TimeUnit.US
        (first,) = decoders.decode(head(Format.MSGPACK, sent_unit), body, LIMITS).batches
        assert set(first.time_us.tolist()) == {ARRIVAL_US}
        (plain,) = decoders.decode(MAPS, encode(piece), LIMITS).batches
        assert rows([first]) == rows([plain])


@pytest.mark.parametrize(
    "body",
    [
        encode({"m": "cpu", "t": 5, "fields": {"v": 1}}),
        columnar("cpu", {"time": [5], "v": [1]}),
        encode({"m": "cpu", "fields": {}}),
        encode({"m": "cpu", "columns": {}}),
        b"\xc1",
        b"",
        encode([1]),
    ],
)
def test_a_map_that_has_a_time_or_is_bad_is_sent_again_as_it_came(body: bytes) -> None:
    assert as_sent_again(body, Format.MSGPACK, None, ARRIVAL_US) == (body, None)


def test_records_of_otlp_are_sent_again_as_they_were_kept() -> None:
    sent = as_sent_again(b"{}", Format.OTLP_LOGS_JSON, None, ARRIVAL_US)
    assert sent == (b"{}", None)
