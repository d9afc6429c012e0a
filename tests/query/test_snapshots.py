"""A table at one version: the files that its log names, in the types that the catalog gives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import deltalake
import ormsgpack
import pytest

from ingest.catalog import Catalog
from ingest.errors import StorageError
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.paths import TableId
from ingest.query.binding import view_of
from ingest.query.snapshots import Snapshot, Snapshots
from tests.query.conftest import engine_on, request, rows_of, write

CPU = TableId("default", "cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data directory of this test's own."""
    return tmp_path / "data"


@contextlib.contextmanager
def snapshots_of(root: Path) -> Iterator[Snapshots]:
    with contextlib.closing(Catalog(root / ".arc" / "catalog.db", 100, 100)) as catalog:
        yield Snapshots(root, catalog)


def taken(snapshots: Snapshots, table: TableId = CPU) -> Snapshot:
    found = snapshots.take(table)
    assert found is not None
    return found


def test_a_snapshot_has_the_files_and_columns_of_the_table(root: Path) -> None:
    write(root, request("cpu", host=["a", "b", "c"], ok=[True, False, None], x=[0.5, 1, 2]))
    with snapshots_of(root) as snapshots:
        found = taken(snapshots)
    uris = deltalake.DeltaTable(root / "default" / "cpu").file_uris()
    assert [file.path for file in found.files] == uris
    assert found.num_rows == 3
    assert found.files[0].size_bytes == Path(uris[0]).stat().st_size
    assert found.columns == {
        "time": "TIMESTAMP WITH TIME ZONE",
        "n": "BIGINT",
        "host": "VARCHAR",
        "ok": "BOOLEAN",
        "x": "DOUBLE",
    }


def test_a_table_that_was_open_before_is_seen_at_its_new_version(root: Path) -> None:
    write(root, request("cpu"))
    with snapshots_of(root) as snapshots:
        first = taken(snapshots)
        assert taken(snapshots) == first
        write(root, request("cpu", 3), request("cpu", 6, y=[1, 2, 3]))
        second = taken(snapshots)
    assert (len(first.files), len(second.files)) == (1, 3)
    assert second.version > first.version
    assert "y" in second.columns
    assert "y" not in first.columns


def test_a_table_that_was_made_anew_is_read_anew(root: Path) -> None:
    write(root, request("cpu"), request("cpu", 3))
    folder = root / "default" / "cpu"
    with snapshots_of(root) as snapshots:
        first = taken(snapshots)
        log = folder / "_delta_log"
        for commit in sorted(log.iterdir())[1:]:
            commit.unlink()
        assert taken(snapshots).version == 0 < first.version
        for commit in log.iterdir():
            commit.unlink()
        log.rmdir()
        assert taken(snapshots).files == ()


def test_an_old_log_that_was_cleaned_up_does_not_hide_new_versions(root: Path) -> None:
    write(root, request("cpu"), request("cpu", 3))
    folder = root / "default" / "cpu"
    with snapshots_of(root) as snapshots:
        version = taken(snapshots).version
        write(root, request("cpu", 6), request("cpu", 9))
        table = deltalake.DeltaTable(folder)
        table.create_checkpoint()
        for old in range(table.version()):
            (folder / "_delta_log" / f"{old:020d}.json").unlink(missing_ok=True)
        found = taken(snapshots)
    assert found.version > version
    assert found.num_rows == 12


def test_a_table_without_a_file_is_empty_and_has_its_columns(root: Path) -> None:
    write(root, request("cpu"))
    with contextlib.closing(Catalog(root / ".arc" / "catalog.db", 100, 100)) as catalog:
        body = ormsgpack.packb(request("new"))
        catalog.evolve(TableId("default", "new"), decode(body, 0, Limits(), None))
    with engine_on(root) as engine:
        assert rows_of(engine.query("SELECT * FROM new", "default")) == []
        described = rows_of(engine.query("DESCRIBE new", "default"))
    assert [row[:2] for row in described] == [
        ("time", "TIMESTAMP WITH TIME ZONE"),
        ("n", "BIGINT"),
    ]


def test_files_from_before_a_column_read_null_and_a_promoted_one_reads_float(root: Path) -> None:
    write(root, request("cpu", v=[1, 2, 3]), request("cpu", 3, 1, v=[0.5], host=["a"]))
    with engine_on(root) as engine:
        found = rows_of(engine.query("SELECT n, v, host FROM cpu ORDER BY n", "default"))
    assert found == [(0, 1.0, None), (1, 2.0, None), (2, 3.0, None), (3, 0.5, "a")]
    assert [type(row[1]) for row in found] == [float] * 4


def test_files_that_are_in_the_folder_and_not_in_the_log_are_not_read(root: Path) -> None:
    write(root, request("cpu"))
    with snapshots_of(root) as snapshots:
        file = Path(taken(snapshots).files[0].path)
    file.with_name("s000-e000009-000000000001-000000000001.parquet").write_bytes(file.read_bytes())
    with engine_on(root) as engine:
        assert rows_of(engine.query("SELECT count(*) FROM cpu", "default")) == [(3,)]


@pytest.mark.parametrize("name", ["a[x]b", "k=v", "it's *?", "é {} $"])
def test_the_name_of_the_data_directory_is_no_pattern(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, request("cpu"), request("disk/io"))
    write(tmp_path / "axb", request("cpu", rows=7))
    with engine_on(tmp_path / name) as engine:
        assert rows_of(engine.query("SELECT count(*) FROM cpu", "default")) == [(3,)]
        assert rows_of(engine.query('DESCRIBE "disk/io"', "default"))[0][0] == "time"


def test_a_query_under_way_keeps_its_snapshot(root: Path) -> None:
    write(root, request("cpu"))
    with engine_on(root) as engine:
        query = engine.query("SELECT count(*) FROM cpu", "default").start()
        write(root, request("cpu", 3))
        with contextlib.closing(query):
            batch = query.next_batch()
        assert batch is not None
        assert batch.to_pylist() == [{"count_star()": 3}]
        assert rows_of(engine.query("SELECT count(*) FROM cpu", "default")) == [(6,)]


def test_columns_that_others_added_to_the_table_are_there(root: Path) -> None:
    write(root, request("cpu"))
    folder = root / "default" / "cpu"
    deltalake.DeltaTable(folder).alter.add_columns(
        [deltalake.Field("more", deltalake.schema.PrimitiveType("date"))]
    )
    with engine_on(root) as engine:
        assert rows_of(engine.query("SELECT n, more FROM cpu WHERE n = 1", "default")) == [
            (1, None)
        ]


def test_a_table_that_needs_a_newer_reader_is_refused(root: Path) -> None:
    write(root, request("cpu"))
    log = root / "default" / "cpu" / "_delta_log"
    commit = {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}
    version = len(list(log.glob("*.json")))
    (log / f"{version:020d}.json").write_text(json.dumps(commit))
    with snapshots_of(root) as snapshots, pytest.raises(StorageError, match="reader version 2"):
        snapshots.take(CPU)


def test_a_log_that_cannot_be_read_is_the_fault_of_the_disk(root: Path) -> None:
    write(root, request("cpu"))
    for commit in (root / "default" / "cpu" / "_delta_log").glob("*.json"):
        commit.write_bytes(b"{broken")
    with snapshots_of(root) as snapshots, pytest.raises(StorageError, match="cpu"):
        snapshots.take(CPU)


def test_a_view_quotes_whatever_a_name_holds() -> None:
    columns = {"time": "BIGINT", 'it\'s "x"': "VARCHAR"}
    text = view_of(Snapshot(CPU, -1, (), columns))
    assert text == 'SELECT NULL::BIGINT AS "time", NULL::VARCHAR AS "it\'s ""x""" WHERE false'
