"""Files to pieces: every format, value by value, the same pieces each time, and what is refused."""

from __future__ import annotations

import gzip
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import arrow_ipc, line_protocol_slow
from ingest.columns import ColumnBatch
from ingest.file_import import (
    MAX_LINE_BYTES,
    MAX_PIECE_BYTES,
    MAX_PIECE_HOURS,
    Door,
    FileError,
    FileFormat,
    Piece,
    ReadOptions,
    detect_format,
    file_identity,
    is_open,
    read_pieces,
)
from ingest.limits import Limits
from ingest.testing import column_values
from ingest.testing.line_protocol import random_line_body
from ingest.timestamps import TimeUnit

NOW_US = 1_768_473_000_000_000
CSV = ReadOptions(FileFormat.CSV)
LINES = ReadOptions(FileFormat.LINE_PROTOCOL)
PARQUET = ReadOptions(FileFormat.PARQUET)
ARROW = ReadOptions(FileFormat.ARROW)


def options(base: ReadOptions, **changes: Any) -> ReadOptions:
    """Options with changes."""
    return ReadOptions(**{**{f: getattr(base, f) for f in base.__struct_fields__}, **changes})


def write(path: Path, content: str | bytes) -> Path:
    """A file with this content, compressed as its name says."""
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstd.compress(data)
    path.write_bytes(data)
    return path


def decoded(pieces: list[Piece]) -> list[ColumnBatch]:
    """What the daemon makes of table pieces."""
    assert {piece.door for piece in pieces} <= {Door.ARROW}
    return [b for p in pieces for b in arrow_ipc.decode(p.body, NOW_US, Limits(), "m")]


def rows_of(pieces: list[Piece], *names: str) -> list[tuple[Any, ...]]:
    """Times and columns of table pieces, row by row."""
    rows: list[tuple[Any, ...]] = []
    for batch in decoded(pieces):
        empty = [None] * batch.num_rows
        columns = [
            column_values(batch.columns[name]) if name in batch.columns else empty for name in names
        ]
        rows += zip(batch.time_us.tolist(), *columns, strict=True)
    return rows


def table(rows: int = 100, step_us: int = 1) -> pa.Table:
    """A table of each stored type."""
    return pa.table(
        {
            "time": pa.array(
                [NOW_US + i * step_us for i in range(rows)], pa.timestamp("us", tz="UTC")
            ),
            "host": [f"h{i % 7}" for i in range(rows)],
            "i": [None if i % 5 == 0 else i for i in range(rows)],
            "f": [i / 2 for i in range(rows)],
            "b": [i % 2 == 0 for i in range(rows)],
            "bin": [bytes([i % 256]) for i in range(rows)],
        }
    )


def wanted_rows(source: pa.Table) -> list[tuple[Any, ...]]:
    """The rows of `table`."""
    times = source["time"].cast(pa.int64()).to_pylist()
    columns = [source[name].to_pylist() for name in ("host", "i", "f", "b", "bin")]
    return list(zip(times, *columns, strict=True))


# ------------------------------------------------------------------------------------ the formats


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_csv_is_read_with_types_told_from_its_values(tmp_path: Path, suffix: str) -> None:
    text = (
        "time,host,v,n,ok,when\n"
        '2026-01-15T10:30:00Z,"a, ""b""",1.5,1,true,2026-01-01T00:00:00Z\n'
        "2026-01-15T10:30:01Z,,,,,\n"
    )
    path = write(tmp_path / f"x.csv{suffix}", text)
    assert detect_format(path) is FileFormat.CSV
    (piece,) = read_pieces(path, CSV)
    assert rows_of([piece], "host", "v", "n", "ok", "when") == [
        (NOW_US, 'a, "b"', 1.5, 1, True, 1_767_225_600_000_000),
        (NOW_US + 10**6, "", None, None, None, None),
    ]
    assert (piece.index, piece.first, piece.last, piece.rows, piece.share) == (0, 1, 2, 2, 1.0)


def test_tsv_has_tabs_between_its_values(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", "time\tv\n1768473000\t1,5\n")
    assert rows_of(list(read_pieces(path, CSV)), "v") == [(NOW_US, "1,5")]


def test_parquet_is_read_value_by_value(tmp_path: Path) -> None:
    source = table()
    pq.write_table(source, tmp_path / "x.bin", row_group_size=30)
    assert detect_format(tmp_path / "x.bin") is FileFormat.PARQUET
    pieces = list(read_pieces(tmp_path / "x.bin", options(PARQUET, batch_rows=40)))
    assert [piece.rows for piece in pieces] == [40, 40, 20]
    assert [(piece.first, piece.last) for piece in pieces] == [(1, 40), (41, 80), (81, 100)]
    assert [piece.share for piece in pieces] == [0.4, 0.8, 1.0]
    assert rows_of(pieces, "host", "i", "f", "b", "bin") == wanted_rows(source)


@pytest.mark.parametrize("is_file", [True, False])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_arrow_files_and_streams_are_read_value_by_value(
    tmp_path: Path, is_file: bool, compression: str | None
) -> None:
    source, path = table(), tmp_path / "x.arrow"
    opened = pa.ipc.new_file if is_file else pa.ipc.new_stream
    write_options = pa.ipc.IpcWriteOptions(compression=compression)
    with opened(str(path), source.schema, options=write_options) as writer:
        writer.write_table(source, max_chunksize=30)
    assert detect_format(path) is FileFormat.ARROW
    pieces = list(read_pieces(path, ARROW))
    assert [piece.rows for piece in pieces] == [30, 30, 30, 10]
    assert rows_of(pieces, "host", "i", "f", "b", "bin") == wanted_rows(source)


def test_dictionaries_and_views_are_read_from_arrow_files(tmp_path: Path) -> None:
    texts = pa.array([f"a long text that is not inlined {i}" for i in range(3)])
    times = pa.array([0, 10**15, 2 * 10**15], pa.timestamp("us"))
    source = pa.table(
        {"time": times, "d": texts.dictionary_encode(), "v": texts.cast(pa.string_view())}
    )
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), source.schema) as writer:
        writer.write_table(source)
    pieces = list(read_pieces(tmp_path / "x.arrow", ARROW))
    found = rows_of(pieces, "d", "v")
    assert [row[1:] for row in found] == [(text, text) for text in texts.to_pylist()]
    assert decoded(pieces)[0].tags == {"d"}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_line_protocol_is_cut_at_the_ends_of_lines(tmp_path: Path, suffix: str) -> None:
    lines = [f"cpu,host=h{i} v={i} {10**18 + i}" for i in range(10)]
    text = "# a comment\n\n" + "\n".join(lines)
    path = write(tmp_path / f"x.lp{suffix}", text)
    assert detect_format(path) is FileFormat.LINE_PROTOCOL
    pieces = list(read_pieces(path, options(LINES, batch_rows=4)))
    assert [piece.rows for piece in pieces] == [4, 4, 2]
    assert [(piece.first, piece.last) for piece in pieces] == [(3, 6), (7, 10), (11, 12)]
    assert b"".join(piece.body for piece in pieces).decode().splitlines() == lines
    assert {piece.door for piece in pieces} == {Door.LINE_PROTOCOL}


def test_line_feeds_in_quotes_do_not_end_a_line(tmp_path: Path) -> None:
    lines = [b'a t="x\n\ny",v=1 1\n', b'b t="\\"\n" 2\n', b'c,k="q v=1 3\n', b"d v=2 4\n"]
    path = write(tmp_path / "x.lp", b"".join(lines))
    pieces = list(read_pieces(path, options(LINES, batch_rows=1)))
    assert [piece.body for piece in pieces] == lines
    assert [(piece.first, piece.last) for piece in pieces] == [(1, 3), (4, 5), (6, 6), (7, 7)]


@settings(max_examples=150)
@given(st.integers(0, 2**32).map(random.Random), st.integers(0, 2))
def test_pieces_of_line_protocol_have_the_lines_that_the_daemon_sees(
    tmp_path_factory: pytest.TempPathFactory, rng: random.Random, faults: int
) -> None:
    body = random_line_body(rng, 20, faults)
    path = write(tmp_path_factory.getbasetemp() / "lines.lp", body)
    try:
        pieces = list(read_pieces(path, options(LINES, batch_rows=3)))
    except FileError as error:
        assert "not closed" in str(error)  # noqa: PT017 - no daemon reads past it either
        return
    wanted = [line for _, line in line_protocol_slow.pieces(body)]
    found = [line for p in pieces for _, line in line_protocol_slow.pieces(p.body)]
    assert [line.strip() for line in found] == [line.strip() for line in wanted if line.strip()]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b'a t="x', True),
        (b'a t="x"', False),
        (b'a t="x\\"', True),
        (b'a t="x\\\\"', False),
        (b'a t="x",u="y', True),
        (b'a,k="x t=1', False),
        (b'a\\ b,k="x', False),
        (b'a t\\="x', False),
        (b'# a t="x', False),
        (b'a "x=1', False),
        (b'  a t="x', True),
    ],
)
def test_a_text_in_quotes_is_open_only_where_the_decoder_says_so(line: bytes, wanted: bool) -> None:
    assert is_open(line) == wanted


# -------------------------------------------------------------------------- times, tags and names


def test_the_time_column_is_named_and_its_old_namesake_moves(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "time,when,v\nnoon,1768473000000,1\n")
    pieces = list(read_pieces(path, options(CSV, time_column="when", time_unit=TimeUnit.MS)))
    assert rows_of(pieces, "time_value", "v") == [(NOW_US, "noon", 1)]


def test_tags_come_from_the_options_or_from_the_file(tmp_path: Path) -> None:
    with pq.ParquetWriter(tmp_path / "x.parquet", table(3).schema, store_schema=False) as writer:
        writer.write_table(table(3))
        writer.add_key_value_metadata({"arc:tags": json.dumps(["host"])})
    pieces = list(read_pieces(tmp_path / "x.parquet", PARQUET))
    assert decoded(pieces)[0].tags == {"host"}
    path = write(tmp_path / "x.csv", 'time,"größe, a",b\n1768473000,x,y\n')
    pieces = list(read_pieces(path, options(CSV, tags=("größe, a",))))
    assert decoded(pieces)[0].tags == {"größe, a"}
    with pytest.raises(FileError, match="no column is named 'c', which shall be a tag"):
        list(read_pieces(path, options(CSV, tags=("c",))))


def test_a_file_without_its_time_column_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a,b\n1,2\n")
    with pytest.raises(FileError, match=r"0 columns are named 'time'.*There are: 'a', 'b'"):
        list(read_pieces(path, CSV))


def test_columns_of_csv_can_be_given_a_type(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "time,zip,f,t\n1768473000,01234,1,2026-01-15T10:30:00.5Z\n")
    types = (("zip", "utf8"), ("f", "float64"), ("t", "timestamp"))
    pieces = list(read_pieces(path, options(CSV, column_types=types)))
    assert rows_of(pieces, "zip", "f", "t") == [(NOW_US, "01234", 1.0, NOW_US + 500_000)]
    assert str(decoded(pieces)[0].columns["f"].type) == "float64"
    with pytest.raises(FileError, match="no column is named 'x', which has a type"):
        list(read_pieces(path, options(CSV, column_types=(("x", "utf8"),))))


# ------------------------------------------------------------------------------------ the pieces


def test_rows_over_more_hours_than_a_request_may_have_are_put_in_order_and_cut(
    tmp_path: Path,
) -> None:
    rows = 3 * MAX_PIECE_HOURS
    assert Limits().max_hours >= MAX_PIECE_HOURS
    source = table(rows, step_us=3_600_000_000)
    order = list(range(rows))
    random.Random(1).shuffle(order)
    pq.write_table(source.take(pa.array(order)), tmp_path / "x.parquet")
    pieces = list(read_pieces(tmp_path / "x.parquet", PARQUET))
    assert [piece.rows for piece in pieces] == [MAX_PIECE_HOURS] * 3
    assert {(piece.first, piece.last) for piece in pieces} == {(1, rows)}
    assert sorted(rows_of(pieces, "host", "i", "f", "b", "bin")) == wanted_rows(source)


def test_few_hours_far_apart_stay_in_one_piece(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "time,v\n100000000,1\n1768473000,2\n100000001,3\n")
    (piece,) = read_pieces(path, CSV)
    assert rows_of([piece], "v") == [(10**14, 1), (NOW_US, 2), (10**14 + 10**6, 3)]


def test_lines_over_more_hours_than_a_request_may_have_are_cut(tmp_path: Path) -> None:
    hour_ns = 3_600 * 10**9
    text = "".join(f"a v=1 {i * hour_ns}\n" for i in range(MAX_PIECE_HOURS + 3))
    pieces = list(read_pieces(write(tmp_path / "x.lp", text), LINES))
    assert [piece.rows for piece in pieces] == [MAX_PIECE_HOURS, 3]
    text = "".join(f"a v=1 {i}\n" for i in range(MAX_PIECE_HOURS + 3))
    in_hours = options(LINES, time_unit=TimeUnit.H)
    pieces = list(read_pieces(write(tmp_path / "x.lp", text), in_hours))
    assert [piece.rows for piece in pieces] == [MAX_PIECE_HOURS, 3]


def test_wide_rows_make_smaller_pieces(tmp_path: Path) -> None:
    text = "x" * 100_000
    source = pa.table({"time": pa.array([NOW_US] * 120), "t": [text] * 120})
    pq.write_table(source, tmp_path / "x.parquet")
    pieces = list(read_pieces(tmp_path / "x.parquet", PARQUET))
    assert sum(piece.rows for piece in pieces) == 120
    assert all(len(piece.body) <= MAX_PIECE_BYTES + 10_000 for piece in pieces)
    path = write(tmp_path / "x.lp", "".join(f'a t="{text}" {i}\n' for i in range(120)))
    pieces = list(read_pieces(path, LINES))
    assert sum(piece.rows for piece in pieces) == 120
    assert all(len(piece.body) <= MAX_PIECE_BYTES for piece in pieces)


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "lp"])
def test_pieces_are_the_same_each_time_and_can_be_skipped(tmp_path: Path, kind: str) -> None:
    path, source = tmp_path / f"x.{kind}", table(100)
    if kind == "csv":
        write(path, "time,v\n" + "".join(f"{NOW_US + i},{i}\n" for i in range(100)))
    elif kind == "parquet":
        pq.write_table(source, path)
    elif kind == "arrow":
        with pa.ipc.new_stream(str(path), source.schema) as writer:
            writer.write_table(source)
    else:
        write(path, "".join(f"a v={i} {NOW_US + i}\n" for i in range(100)))
    read = ReadOptions(detect_format(path), batch_rows=15)
    pieces = list(read_pieces(path, read))
    assert [piece.index for piece in pieces] == list(range(7))
    for skip in range(8):
        assert list(read_pieces(path, read, skip)) == pieces[skip:]


def test_an_empty_file_has_no_pieces(tmp_path: Path) -> None:
    assert list(read_pieces(write(tmp_path / "x.csv", "time,v\n"), CSV)) == []
    assert list(read_pieces(write(tmp_path / "x.lp", "# nothing\n"), LINES)) == []
    pq.write_table(table(0), tmp_path / "x.parquet")
    assert list(read_pieces(tmp_path / "x.parquet", PARQUET)) == []


def test_the_identity_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3 * 2**20)
    first = file_identity(write(tmp_path / "a", content))
    assert file_identity(write(tmp_path / "b", content)) == first
    for changed in (content[:-1] + b"x", b"x" + content[1:], content + b"x"):
        assert file_identity(write(tmp_path / "c", changed)) != first


# ------------------------------------------------------------------------------------ what is wrong


def test_a_value_that_contradicts_the_type_of_its_column_is_told_by_row_and_name(
    tmp_path: Path,
) -> None:
    rows = "".join(f"{NOW_US + i},{i}\n" for i in range(400_000))
    path = write(tmp_path / "x.csv", f"time,v\n{rows}{NOW_US},1.5\n")
    pieces = read_pieces(path, CSV)
    assert next(pieces).rows == 50_000
    with pytest.raises(FileError) as raised:
        list(pieces)
    assert "column 'v', row 400002 (the header is row 1)" in str(raised.value)
    assert "invalid value '1.5'" in str(raised.value)
    assert "--column-type NAME=TYPE" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.csv", b"", "Empty CSV file"),
        ("x.csv", b"time,v\n1,2\n3\n", "Expected 2 columns, got 1"),
        ("x.csv.gz", b"", "Empty CSV file"),
        ("x.parquet", b"PAR1 no parquet", "arquet"),
        ("x.arrow", b"ARROW1 no arrow", "x.arrow"),
        ("x.arrow", b"no arrow at all", "x.arrow"),
        ("x.lp", b'a t="' + b"x\n" * 5, "line 1: a text in quotes that is not closed"),
        ("x.lp", b'a v=1\na t="' + b"x\n" * MAX_LINE_BYTES, "line 2: a text in quotes that is not"),
        ("x.lp", b"x" * (MAX_PIECE_BYTES + 2**23), "a line of more than"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(FileError, match=text):
        list(read_pieces(path, ReadOptions(detect_format(path))))


@pytest.mark.parametrize("name", ["x.csv.gz", "x.lp.gz", "x.lp.zst", "x.csv.zst"])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, name: str) -> None:
    body = b"time,v\n1,2\n" if "csv" in name else b"a v=1\n"
    path = write(tmp_path / name, body * 1000)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FileError, match=str(path)):
        list(read_pieces(path, ReadOptions(detect_format(path))))
    path.write_bytes(b"not compressed at all")
    with pytest.raises(FileError, match=str(path)):
        list(read_pieces(path, ReadOptions(detect_format(path))))


def test_a_file_of_an_unknown_kind_asks_for_its_format(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="name it with --format"):
        detect_format(write(tmp_path / "x.txt", "a v=1\n"))


def test_columns_that_the_daemon_refuses_are_sent_as_they_are(tmp_path: Path) -> None:
    source = pa.table({"time": [NOW_US], "d": pa.array([Decimal("1.5")])})
    pq.write_table(source, tmp_path / "x.parquet")
    (piece,) = read_pieces(tmp_path / "x.parquet", PARQUET)
    with pytest.raises(Exception, match="column 'd': found Arrow's decimal"):
        decoded([piece])


def test_bad_times_are_left_to_the_daemon(tmp_path: Path) -> None:
    for times in ("noon", "true", "1e300"):
        path = write(tmp_path / "x.csv", f"time,v\n{times},1\n")
        (piece,) = read_pieces(path, CSV)
        with pytest.raises(Exception, match="column 'time'"):
            decoded([piece])
