"""Tables as lists show them: what their logs say they hold, and only that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import deltalake
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.catalog import Catalog
from ingest.paths import HOUR_US
from ingest.table_list import TableContent, TableList, _count_hours, list_tables
from tests.query.conftest import START_US, request, write


@contextlib.contextmanager
def catalog_of(root: Path) -> Iterator[Catalog]:
    with contextlib.closing(Catalog(root / ".arc" / "catalog.db", 100, 100)) as catalog:
        yield catalog


def content_of(root: Path) -> TableContent:
    with catalog_of(root) as catalog:
        [entry] = list_tables(catalog, root)
        return entry.content


def test_a_table_is_listed_with_what_its_log_says(tmp_path: Path) -> None:
    write(tmp_path, request("cpu", 0, 3), request("cpu", 7_200, 2), request("cpu", 1, 1))
    files = list(tmp_path.glob("default/cpu/*/*/*/*/*.parquet"))
    content = content_of(tmp_path)
    assert content == TableContent(
        num_files=3,
        size_bytes=sum(file.stat().st_size for file in files),
        num_rows=6,
        min_us=START_US,
        max_us=START_US + 7_201_000_000,
        num_hours=2,
    )
    with catalog_of(tmp_path) as catalog:
        assert list_tables(catalog, tmp_path)[0].files_per_hour == 1.5


def test_files_that_left_the_table_are_not_counted(tmp_path: Path) -> None:
    write(tmp_path, request("cpu"), request("cpu", 3), request("cpu", 6))
    deltalake.DeltaTable(tmp_path / "default" / "cpu").optimize.compact()
    assert len(list(tmp_path.glob("default/cpu/**/*.parquet"))) == 4
    content = content_of(tmp_path)
    assert (content.num_files, content.num_rows, content.num_hours) == (1, 9, 1)


def test_only_the_tables_of_a_database_are_listed(tmp_path: Path) -> None:
    write(tmp_path, request("cpu"), request("mem"))
    write(tmp_path, request("cpu"), database="prod")
    with catalog_of(tmp_path) as catalog:
        found = [entry.table.measurement for entry in list_tables(catalog, tmp_path, "default")]
        assert found == ["cpu", "mem"]
        assert list_tables(catalog, tmp_path, "nope") == []
        assert len(list_tables(catalog, tmp_path)) == 3


def test_a_list_sees_what_was_stored_since_and_reads_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, request("cpu"), request("mem"))
    opened: list[str] = []
    real = deltalake.DeltaTable

    def counted(path: str) -> deltalake.DeltaTable:
        opened.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(deltalake, "DeltaTable", counted)
    with catalog_of(tmp_path) as catalog:
        tables = TableList(catalog, tmp_path)
        assert [entry.content.num_rows for entry in tables.entries()] == [3, 3]
        assert [entry.content.num_rows for entry in tables.entries()] == [3, 3]
        assert opened == ["cpu", "mem"]
        write(tmp_path, request("mem", 3))
        assert [entry.content.num_rows for entry in tables.entries()] == [3, 6]
        assert opened == ["cpu", "mem", "mem"]


def test_a_table_whose_first_rows_are_in_memory_holds_nothing(tmp_path: Path) -> None:
    write(tmp_path, request("cpu"))
    folder = tmp_path / "default" / "cpu"
    folder.rename(tmp_path / "aside")
    with catalog_of(tmp_path) as catalog:
        tables = TableList(catalog, tmp_path)
        assert tables.entries()[0].content == TableContent()
        (tmp_path / "aside").rename(folder)
        assert tables.entries()[0].content.num_rows == 3


def test_a_table_that_cannot_be_read_is_listed_by_what_lies_there(tmp_path: Path) -> None:
    write(tmp_path, request("cpu"), request("mem"))
    for commit in tmp_path.glob("default/cpu/_delta_log/*.json"):
        commit.write_text("no commit")
    with catalog_of(tmp_path) as catalog:
        cpu, mem = list_tables(catalog, tmp_path)
    assert (cpu.num_files, cpu.content.num_rows, cpu.content.min_us) == (1, None, None)
    assert cpu.size_bytes > 0
    assert mem.content.num_rows == 3


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 30)), min_size=1, max_size=8),
    st.integers(0, HOUR_US - 1),
)
def test_an_hour_that_several_files_cover_is_one_hour(
    ranges: list[tuple[int, int]], offset_us: int
) -> None:
    lows = np.array([first * HOUR_US + offset_us for first, _ in ranges])
    highs = lows + np.array([length * HOUR_US for _, length in ranges])
    hours = {hour for first, length in ranges for hour in range(first, first + length + 1)}
    assert _count_hours(lows, highs) == len(hours)
