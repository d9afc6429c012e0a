"""Reading a data directory: the rows that are wanted, and no file that cannot have one."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from arc.reader import Reader, ReadError, TableNotFoundError, UsageError, snapshot
from arc.reader.snapshot import Snapshot, TableFile
from ingest import delta
from tests.query.conftest import request, write
from tests.reader.stored import HOUR_S, TYPES, at
from tests.support.data_dir import CPU, DataDirectory


def numbers(reader: Reader, measurement: str = "cpu", **asked: Any) -> list[int]:
    """The column n of what is read, in order."""
    return sorted(reader.read(measurement, **asked).table["n"].to_pylist())


def test_every_stored_type_comes_back_as_it_is(reader: Reader) -> None:
    table = reader.read("types").table
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "time": "timestamp[us, tz=UTC]",
        "n": "int64",
        "host": "string",
        "flag": "bool",
        "x": "double",
        "raw": "binary",
        "big": "int64",
        'odd "name"': "int64",
    }
    for name, values in TYPES.items():
        found = table[name].to_pylist()
        assert [repr(value) for value in found] == [repr(value) for value in values]


def test_a_read_without_bounds_has_every_row(reader: Reader) -> None:
    assert len(reader.read("cpu")) == 30


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (at(2), at(4), [2, 3]),
        (at(8), at(HOUR_S + 1), [8, 9, HOUR_S]),
        (np.datetime64(at(2) * 1000 + 1, "ns"), np.datetime64(at(4) * 1000 + 1, "ns"), [3, 4]),
        (None, at(1), [0]),
        (at(2 * HOUR_S + 9), None, [2 * HOUR_S + 9]),
        (at(3), at(3), []),
        (at(9 * HOUR_S), None, []),
    ],
)
def test_start_is_inside_and_end_is_not(
    reader: Reader, start: Any, end: Any, expected: list[int]
) -> None:
    assert numbers(reader, start=start, end=end) == expected
    batches = list(reader.stream("cpu", start, end, batch_rows=2))
    assert sorted(n for batch in batches for n in batch["n"].to_pylist()) == expected


def test_no_file_is_opened_whose_times_are_elsewhere(stored: Path, tmp_path: Path) -> None:
    root = shutil.copytree(stored, tmp_path / "data")
    second = sorted((root / "default" / "cpu").rglob("*.parquet"))[1]
    second.write_bytes(b"no Parquet")
    reader = Reader(root)
    assert numbers(reader, end=at(2)) == [0, 1]
    assert numbers(reader, start=at(2 * HOUR_S + 8)) == [2 * HOUR_S + 8, 2 * HOUR_S + 9]
    with pytest.raises(ReadError, match="cpu"):
        reader.read("cpu")
    with pytest.raises(ReadError), reader.stream("cpu") as stream:
        list(stream)


def test_statistics_that_were_cut_to_milliseconds_leave_no_row_out() -> None:
    cut = TableFile("f", 1_000, 2_000 + 999)
    assert cut.may_have(2_999, None)
    assert not cut.may_have(3_000, None)
    assert not cut.may_have(None, 1_000)
    assert cut.may_have(None, 1_001)
    assert TableFile("f", None, None).may_have(5, 6)


def test_columns_are_those_named_in_their_order(reader: Reader) -> None:
    frame = reader.read("types", columns=["x", "time"], where={"n": 0})
    assert frame.table.column_names == ["x", "time"]
    assert frame.table["x"].to_pylist() == [0.1]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"host": "a"}, [0]),
        ({"host": ["a", "b"]}, [0, 1]),
        ({"host": None}, [2]),
        ({"host": ["b", None]}, [1, 2]),
        ({"host": []}, []),
        ({"host": 'it\'s "x"\\ -- ;'}, [3]),
        ({"host": "a", "flag": False}, []),
        ({"host": "a", "flag": True}, [0]),
        ({"x": 0.1}, [0]),
        ({"x": math.inf}, [3]),
        ({"x": math.nan}, [1]),
        ({"x": [math.nan, None]}, [1, 2]),
        ({"raw": b"\x00'\xff"}, [0]),
        ({"big": 2**63 - 1}, [0]),
        ({"big": [-(2**63), np.int64(0)]}, [1, 3]),
        ({'odd "name"': np.array([2, 3])}, [1, 2]),
        ({"time": np.datetime64(at(2), "us")}, [2]),
    ],
)
def test_a_mapping_chooses_by_value(reader: Reader, where: Any, expected: list[int]) -> None:
    assert numbers(reader, "types", where=where) == expected


def test_an_expression_of_pyarrow_chooses_as_well(reader: Reader) -> None:
    where = (pc.field("n") > 7) & (pc.field("n") < HOUR_S + 1)
    assert numbers(reader, where=where) == [8, 9, HOUR_S]
    assert numbers(reader, where=where, end=at(100)) == [8, 9]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"columns": ["n", "nope"]}, "no column 'nope'; it has time, "),
        ({"columns": "n"}, "a list of names"),
        ({"columns": ["n", "n"]}, "'n' twice"),
        ({"columns": []}, "at least one name"),
        ({"columns": [None]}, "wanted names"),
        ({"where": {"nope": 1}}, "no column 'nope'"),
        ({"where": {"n": "1"}}, "'n' is int64, and '1' is not"),
        ({"where": {"n": 0.5}}, "'n' is int64, and 0.5 is not"),
        ({"where": {"n": True}}, "'n' is int64, and True is not"),
        ({"where": {"host": 1}}, "'host' is string"),
        ({"where": {"n": 2**63}}, "does not fit into 64 bits"),
        ({"where": {"n": object()}}, "found object"),
        ({"where": {"host": "\ud800"}}, "lone surrogate"),
        ({"where": {1: 1}}, "the name of a column"),
        ({"where": "n > 1"}, "pyarrow.compute.Expression"),
        ({"where": pc.field("nope") == 1}, "nope"),
        ({"start": at(2), "end": at(1)}, "is after end"),
        ({"start": "noon"}, "start: 'noon'"),
    ],
)
def test_what_cannot_be_read_by_is_refused(reader: Reader, asked: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        reader.read("types", **asked)
    with pytest.raises(UsageError, match=said):
        reader.stream("types", **asked)


def test_a_column_that_came_later_is_missing_before_and_one_that_widened_is_wide(
    reader: Reader,
) -> None:
    table = reader.read("grown").table.sort_by("time")
    assert table["n"].to_pylist() == [0.0, 1.0, 2.0, 0.5, 1.5, 2.5]
    assert table["host"].to_pylist() == [None, None, None, "a", "b", None]
    assert len(reader.read("grown", where={"n": [1, 0.5]})) == 2


def test_every_name_has_its_table(reader: Reader, stored: Path) -> None:
    assert numbers(reader, "disk/io") == [0, 1, 2]
    assert numbers(reader, "Select") == [0, 1, 2]
    assert numbers(Reader(stored, database="prod")) == [100]
    with pytest.raises(TableNotFoundError, match="no table 'select' in the database 'default'"):
        reader.read("select")
    with pytest.raises(TableNotFoundError):
        reader.stream("nope")


@pytest.mark.parametrize("rows", [1, 7, 30, 31])
def test_a_stream_has_the_rows_of_a_read_in_batches_of_one_size(reader: Reader, rows: int) -> None:
    whole = reader.read("cpu").table
    with reader.stream("cpu", batch_rows=rows) as stream:
        assert stream.schema == whole.schema
        batches = list(stream)
    assert [batch.num_rows for batch in batches[:-1]] == [rows] * (len(batches) - 1)
    assert pa.Table.from_batches(batches).equals(whole)


@pytest.mark.parametrize("rows", [0, -1, True, 2.5, None])
def test_a_batch_has_at_least_a_row(reader: Reader, rows: Any) -> None:
    with pytest.raises(UsageError, match="batch_rows"):
        reader.stream("cpu", batch_rows=rows)


def test_a_file_of_a_version_that_is_no_more_is_looked_for_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, request("cpu"))
    [path] = (tmp_path / "default" / "cpu").rglob("*.parquet")
    path.rename(path.with_name("old.parquet"))
    taken: list[Snapshot] = []
    take = snapshot.take

    def taking(folder: Path) -> Snapshot:
        taken.append(take(folder))
        if len(taken) == 2:  # what replaced the file was committed meanwhile
            path.with_name("old.parquet").rename(path)
        return taken[-1]

    monkeypatch.setattr(snapshot, "take", taking)
    assert len(Reader(tmp_path).read("cpu")) == 3
    path.unlink()
    with pytest.raises(ReadError, match="a file is gone"):
        Reader(tmp_path).read("cpu")


def test_a_log_that_cannot_be_read_says_whose(tmp_path: Path) -> None:
    made = DataDirectory(tmp_path)
    made.start()
    made.flush(1, 1)
    made.close()
    reader = Reader(tmp_path, database="db")
    assert len(reader.read("cpu")) == 10
    features = {"minReaderVersion": 2, "minWriterVersion": 5}
    made.commit_by_hand(CPU, {"protocol": features})
    with pytest.raises(ReadError, match=r"db/cpu: .* reader version 2"):
        reader.read("cpu")
    log = tmp_path / "db" / "cpu" / delta.LOG_DIR
    for commit in log.iterdir():
        commit.write_bytes(b"{")
    with pytest.raises(ReadError, match="log of the table cannot be read"):
        reader.read("cpu")


def test_a_data_directory_must_be_there_and_takes_no_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        Reader(tmp_path / "nope")
    with pytest.raises(UsageError, match="token"):
        Reader(tmp_path, token="secret")
    with pytest.raises(UsageError, match="database"):
        Reader(tmp_path, database="a/b")
