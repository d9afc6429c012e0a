"""Merged files hold the same rows, in groups that follow one another in time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import parquet
from ingest.compact_files import ORDER_KEY, GoneError, Merge, _cut, _order
from ingest.errors import StorageError
from ingest.parquet import TAGS_KEY

STAMP = pa.timestamp("us", "UTC")
Columns = Mapping[str, Any]


def rows(times: Any, **columns: Any) -> pa.Table:
    """As `table_build` makes them: sorted by time, which is never null."""
    fields = [pa.field("time", STAMP, nullable=False)]
    arrays = [pa.array(np.asarray(times, dtype=np.int64)).cast(STAMP)]
    for name, values in columns.items():
        array = values if isinstance(values, pa.Array) else pa.array(values)
        fields.append(pa.field(name, array.type))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(table: pa.Table, tags: Sequence[str] = ("host",)) -> Path:
        path = tmp_path / f"old-{len(list(tmp_path.iterdir()))}.parquet"
        parquet.write(table, path, parquet.plan(table), {TAGS_KEY: json.dumps(list(tags))})
        return path

    return written


def merged(tmp_path: Path, paths: Sequence[Path], **options: Any) -> pq.ParquetFile:
    target = tmp_path / "new.parquet"
    Merge(paths, **options).write(str(target), {"arc:x": "y"})
    return pq.ParquetFile(target)


def plain(table: pa.Table) -> list[dict[str, Any]]:
    found = [
        {name: value for name, value in row.items() if value is not None}
        for row in table.set_column(0, "time", table.column("time").cast(pa.int64())).to_pylist()
    ]
    return sorted(found, key=repr)


def group_ranges(file: pq.ParquetFile) -> list[tuple[int, int]]:
    found = []
    for number in range(file.num_row_groups):
        times = file.read_row_group(number, columns=["time"]).column(0).cast(pa.int64())
        values = times.to_numpy()
        stats = file.metadata.row_group(number).column(0).statistics
        assert (stats.min_raw, stats.max_raw) == (values.min(), values.max())
        found.append((int(values.min()), int(values.max())))
    return found


def test_rows_of_all_files_are_in_the_new_one_and_nothing_else(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    tables = [
        rows([1, 4, 9], host=["a", None, "b"], v=[1.5, None, -0.0]),
        rows([2, 4], host=["c", "a"], v=[float("inf"), 2.0]),
    ]
    with merged(tmp_path, [write(table) for table in tables]) as file:
        assert plain(file.read()) == plain(pa.concat_tables(tables))
        assert file.metadata.metadata[b"arc:x"] == b"y"


def test_a_column_that_some_files_lack_is_null_in_their_rows(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    tables = [
        rows([1], host=["a"], v=[1]),
        rows([2], host=["b"], text=["x"], up=[True], raw=[b"\0"]),
        rows([3], v=[2], other=pa.array(["t"]).dictionary_encode()),
    ]
    with merged(tmp_path, [write(table) for table in tables]) as file:
        whole = pa.concat_tables(
            [table.cast(table.schema) for table in [*tables[:2], _decoded(tables[2])]],
            promote_options="default",
        )
        assert plain(file.read()) == plain(whole)
        assert file.schema_arrow.field("time").nullable is False


def _decoded(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("other")
    return table.set_column(place, "other", table.column(place).cast(pa.string()))


@pytest.mark.parametrize("group_rows", [1, 7, 64, 1000])
def test_groups_follow_one_another_in_time_and_never_overlap(
    tmp_path: Path, write: Callable[..., Path], group_rows: int
) -> None:
    rng = np.random.default_rng(3)
    tables = [
        rows(
            np.sort(rng.integers(0, 150, 100)), host=[f"h{i % 7}" for i in range(100)], v=range(100)
        )
        for _ in range(4)
    ]
    paths = [write(table) for table in tables]
    with merged(tmp_path, paths, group_rows=group_rows) as file:
        ranges = group_ranges(file)
        assert all(last < first for (_, last), (first, _) in pairwise(ranges))
        assert plain(file.read()) == plain(pa.concat_tables(tables))


def test_a_moment_with_more_rows_than_a_group_stays_whole(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    path = write(rows([1] * 3 + [2] * 10 + [3], host=["a"] * 14))
    with merged(tmp_path, [path], group_rows=4) as file:
        assert group_ranges(file) == [(1, 1), (2, 2), (3, 3)]


def test_the_order_is_that_of_time_where_tags_do_not_help(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    rng = np.random.default_rng(1)
    hosts = [f"h{number}" for number in rng.integers(0, 50, 5000)]
    table = rows(np.arange(5000), host=hosts, v=rng.uniform(0, 1, 5000))
    with merged(tmp_path, [write(table)]) as file:
        assert json.loads(file.metadata.metadata[ORDER_KEY.encode()]) == ["time"]
        times = file.read().column("time").cast(pa.int64()).to_numpy()
        assert (np.diff(times) >= 0).all()


def test_the_order_is_that_of_tags_where_it_makes_the_file_smaller(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    # Counters: each host counts by a step of its own, from a start of its own.
    rng = np.random.default_rng(2)
    at = np.repeat(np.arange(200), 100)
    host = np.concatenate([rng.permutation(100) for _ in range(200)])
    starts = rng.integers(0, 1 << 40, 100)
    table = rows(
        at * 10_000_000 + np.tile(np.arange(100), 200),
        host=[f"h{number:03d}" for number in host],
        v=starts[host] + at * host,
    )
    path = write(table)
    with merged(tmp_path, [path]) as file:
        assert json.loads(file.metadata.metadata[ORDER_KEY.encode()]) == ["host", "time"]
        assert plain(file.read()) == plain(table)
        pairs = list(
            zip(
                file.read().column("host").to_pylist(),
                file.read().column("time").cast(pa.int64()).to_pylist(),
                strict=True,
            )
        )
        assert pairs == sorted(pairs)
    assert (tmp_path / "new.parquet").stat().st_size < path.stat().st_size / 2


def test_what_was_merged_can_be_merged_again(tmp_path: Path, write: Callable[..., Path]) -> None:
    tables = [rows([at, at + 2], host=["b", "a"], v=[at, 1]) for at in range(5)]
    first = tmp_path / "first.parquet"
    Merge([write(table) for table in tables[:3]], group_rows=2).write(
        str(first), {TAGS_KEY: '["host"]'}
    )
    with merged(tmp_path, [first, *[write(table) for table in tables[3:]]], group_rows=3) as file:
        assert plain(file.read()) == plain(pa.concat_tables(tables))


def test_every_column_has_statistics_but_binary_ones(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    path = write(rows([1, 2], host=["a", "b"], v=[1.0, 2.0], raw=[b"x", b"y"]))
    with merged(tmp_path, [path]) as file:
        group = file.metadata.row_group(0)
        found = {
            group.column(i).path_in_schema: group.column(i).is_stats_set
            for i in range(group.num_columns)
        }
        assert found == {"time": True, "host": True, "v": True, "raw": False}


def test_a_column_of_two_types_is_refused(write: Callable[..., Path]) -> None:
    paths = [write(rows([1], v=[1])), write(rows([2], v=[1.5]))]
    with pytest.raises(StorageError, match=r"column 'v' is double in .*, and int64"):
        Merge(paths)


def test_a_file_that_is_gone_is_told_apart_from_one_that_cannot_be_read(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    path = write(rows([1], v=[1]))
    merge = Merge([path])
    path.unlink()
    with pytest.raises(GoneError):
        Merge([path])
    with pytest.raises(GoneError):
        merge.write(str(tmp_path / "new.parquet"), {})
    path.write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="cannot read"):
        Merge([path])


def test_a_file_without_times_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": [1]}), tmp_path / "x.parquet")
    with pytest.raises(StorageError, match="no column 'time'"):
        Merge([tmp_path / "x.parquet"])


def test_the_caller_can_end_the_work(tmp_path: Path, write: Callable[..., Path]) -> None:
    paths = [write(rows([at], v=[at])) for at in range(3)]
    left = iter(range(5))

    def check() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Merge(paths, check).write(str(tmp_path / "new.parquet"), {})


def test_wide_rows_make_smaller_groups(tmp_path: Path, write: Callable[..., Path]) -> None:
    times = list(range(3000))
    wide = pa.table({"time": pa.array(times, STAMP), "body": [f"{n:04d}" * 25 for n in times]})
    with merged(tmp_path, [write(wide)], group_bytes=1) as file:
        rows = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert rows == [1000, 1000, 1000]  # at least 1 024 rows are let into one, in even parts


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80).map(sorted), st.integers(1, 20))
def test_groups_are_cut_so_that_no_moment_is_in_two(times: list[int], group_rows: int) -> None:
    array = np.array(times, dtype=np.int64)
    bounds = list(_cut(array, group_rows))
    counts = [int(((array >= low) & (array <= high)).sum()) for low, high in bounds]
    assert sum(counts) == len(times)
    assert all(high < low for (_, high), (low, _) in pairwise(bounds))
    for (low, high), count in zip(bounds, counts, strict=True):
        assert count <= group_rows or low == high


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", None]), st.sampled_from(["x", "", None]), st.integers(0, 3)
        ),
        min_size=1,
        max_size=40,
    )
)
def test_rows_are_ordered_by_tags_nulls_first_and_then_by_time(
    found: list[tuple[str | None, str | None, int]],
) -> None:
    table = rows(
        [time for _, _, time in found],
        host=pa.array([host for host, _, _ in found], pa.string()).dictionary_encode(),
        path=pa.array([path for _, path, _ in found], pa.string()),
    )
    order = _order(table, ["host", "path"])
    wanted = sorted(
        range(len(found)),
        key=lambda i: (
            (found[i][0] is not None, found[i][0] or ""),
            (found[i][1] is not None, found[i][1] or ""),
            found[i][2],
        ),
    )
    assert order.tolist() == wanted


def test_memory_is_bounded_by_a_group_and_not_by_the_file(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    paths = [
        write(rows(np.arange(at, at + 20_000), v=np.random.default_rng(at).uniform(0, 1, 20_000)))
        for at in range(0, 400_000, 20_000)
    ]
    before = pa.total_allocated_bytes()
    peaks: list[int] = []
    merge = Merge(
        paths, lambda: peaks.append(pa.total_allocated_bytes() - before), group_rows=20_000
    )
    merge.write(str(tmp_path / "new.parquet"), {})
    assert max(peaks) < 400_000 * 16 / 2
