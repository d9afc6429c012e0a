"""Worker processes agree on schemas: one wins, the others are told, and nothing is half done."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from ingest.catalog import Catalog, CatalogEntry
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import InvalidNameError, LimitError, StorageError, TypeConflictError
from ingest.paths import TableId, table_dir, table_from_dir
from ingest.schema import ColumnSpec, TableSchema, fit

ROOT = Path(__file__).resolve().parent.parent
CPU = TableId("db", "cpu")
MEM = TableId("db", "mem")
INT64, FLOAT64, BOOL = ColumnType.INT64, ColumnType.FLOAT64, ColumnType.BOOL
MAX_COLUMNS = 100


def opened(path: Path, max_measurements: int = 1000, busy_timeout_s: float = 10.0) -> Catalog:
    return Catalog(path, max_measurements, MAX_COLUMNS, busy_timeout_s)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data/.arc/catalog.db"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    with closing(opened(path)) as catalog:
        yield catalog


def batch(table: TableId = CPU, /, **kinds: ColumnType) -> ColumnBatch:
    """One row of ones, with columns of these types."""
    dtypes = {INT64: np.int64, FLOAT64: np.float64, BOOL: np.bool_}
    columns = {name: Column(kind, np.ones(1, dtypes[kind])) for name, kind in kinds.items()}
    return ColumnBatch(table.measurement, np.zeros(1, np.int64), columns)


def wide_batch(name: str) -> ColumnBatch:
    """One row of an integer that float64 cannot hold exactly."""
    column = Column(INT64, np.full(1, 2**60 + 1), wide=True)
    return ColumnBatch(CPU.measurement, np.zeros(1, np.int64), {name: column})


def test_a_table_that_nobody_wrote_to_is_not_there(catalog: Catalog) -> None:
    assert catalog.load(CPU) is None
    assert catalog.current_version(CPU) == 0
    assert catalog.tables() == []


def test_a_new_table_gets_the_columns_of_its_batches(catalog: Catalog) -> None:
    schema = catalog.evolve(CPU, [batch(b=INT64), batch(a=BOOL, b=FLOAT64)])
    assert schema == TableSchema({"b": ColumnSpec(FLOAT64), "a": ColumnSpec(BOOL)}, 1)
    assert list(schema.columns) == ["b", "a"]
    loaded = catalog.load(CPU)
    assert loaded == schema
    assert list(loaded.columns) == ["b", "a"]


def test_every_change_has_its_version_and_none_is_given_without_a_change(
    catalog: Catalog,
) -> None:
    assert catalog.evolve(CPU, [batch(a=INT64)]).version == 1
    assert catalog.evolve(CPU, [batch(a=INT64)]).version == 1
    assert catalog.evolve(CPU, [batch(b=INT64), batch(c=INT64)]).version == 2
    assert catalog.current_version(CPU) == 2


def test_a_table_of_times_alone_is_known(catalog: Catalog) -> None:
    assert catalog.evolve(CPU, [batch()]) == TableSchema({}, 1)
    assert catalog.load(CPU) == TableSchema({}, 1)


def test_all_attributes_of_a_column_are_kept(path: Path) -> None:
    host = Column(ColumnType.UTF8, np.zeros(1, np.uint8), np.array([0, 1], np.int32))
    tagged = ColumnBatch("cpu", np.zeros(1, np.int64), {"host": host}, frozenset({"host"}))
    with closing(opened(path)) as first:
        first.evolve(CPU, [tagged, wide_batch("n")])
    with closing(opened(path)) as second:
        schema = second.load(CPU)
    assert schema is not None
    assert schema.columns == {
        "host": ColumnSpec(ColumnType.UTF8, is_tag=True),
        "n": ColumnSpec(INT64, wide=True),
    }


def test_a_worker_sees_what_another_changed(catalog: Catalog, path: Path) -> None:
    with closing(opened(path)) as other:
        known = catalog.evolve(CPU, [batch(a=INT64)])
        other.evolve(CPU, [batch(a=FLOAT64)])
        assert catalog.current_version(CPU) == 2
        # What this worker still believes would take the batch; the catalog knows better.
        arrival = wide_batch("a")
        assert fit(known, arrival, MAX_COLUMNS).schema is not None
        with pytest.raises(TypeConflictError, match=r"row 0: found int64 1152921504606846977, but"):
            catalog.evolve(CPU, [arrival])
        assert catalog.load(CPU) == TableSchema({"a": ColumnSpec(FLOAT64)}, 2)


def test_a_batch_that_was_refused_by_nobody_fits_the_schema_that_comes_back(
    catalog: Catalog, path: Path
) -> None:
    with closing(opened(path)) as other:
        other.evolve(CPU, [batch(a=FLOAT64)])
        arrival = batch(a=INT64, b=INT64)
        schema = catalog.evolve(CPU, [arrival])
        fitted = fit(schema, arrival, MAX_COLUMNS)
        assert fitted.schema is None
        assert fitted.batch.columns["a"].type is FLOAT64


def test_many_tables_change_together_or_not_at_all(catalog: Catalog) -> None:
    catalog.evolve(MEM, [batch(MEM, a=BOOL)])
    with pytest.raises(TypeConflictError):
        catalog.evolve_many({CPU: [batch(a=INT64)], MEM: [batch(MEM, a=INT64)]})
    assert catalog.load(CPU) is None
    both = catalog.evolve_many({CPU: [batch(a=INT64)], MEM: [batch(MEM, b=INT64)]})
    assert both == {
        CPU: TableSchema({"a": ColumnSpec(INT64)}, 1),
        MEM: TableSchema({"a": ColumnSpec(BOOL), "b": ColumnSpec(INT64)}, 2),
    }


def test_a_database_takes_as_many_measurements_as_the_limit_says(path: Path) -> None:
    tables = [TableId("db", f"m{i}") for i in range(4)]
    with closing(opened(path, max_measurements=3)) as catalog:
        with pytest.raises(LimitError, match=r"of database 'db': 4, over the limit of 3 \(ARC_MAX"):
            catalog.evolve_many({table: [batch(table)] for table in tables})
        assert catalog.tables() == []
        catalog.evolve_many({table: [batch(table)] for table in tables[:3]})
        with pytest.raises(LimitError):
            catalog.evolve(tables[3], [batch(tables[3])])
        catalog.evolve(tables[0], [batch(tables[0], a=INT64)])
        catalog.evolve(TableId("other", "m3"), [batch(tables[3])])
        assert len(catalog.tables()) == 4


def test_the_columns_of_a_table_are_limited(catalog: Catalog) -> None:
    with pytest.raises(LimitError):
        catalog.evolve(CPU, [batch(**{f"c{i}": INT64 for i in range(MAX_COLUMNS)})])
    assert catalog.load(CPU) is None


NAMES = ["cpu", "CPU", "Cpu", "disk/io", "é", "e\u0301", "中" * 128, "A" * 128, "a'b", "_delta_log"]


def test_every_folder_leads_back_to_the_name_that_the_client_sent(catalog: Catalog) -> None:
    tables = [TableId(database, name) for database in ("db", "DB") for name in NAMES]
    catalog.evolve_many({table: [batch(table, a=INT64)] for table in tables})
    found = catalog.tables()
    assert found == [CatalogEntry(table, table_dir(table), 1) for table in sorted(tables)]
    assert len({entry.directory for entry in found}) == len(tables)
    assert [e.table.measurement for e in found if table_from_dir(e.directory) is None] == (
        ["A" * 128, "中" * 128] * 2
    )
    for table in tables:
        assert catalog.load(table) == TableSchema({"a": ColumnSpec(INT64)}, 1)


@pytest.mark.parametrize(
    "table", [TableId("1db", "cpu"), TableId("db", ""), TableId("db", "a\ud800")]
)
def test_a_name_that_cannot_be_stored_is_refused(catalog: Catalog, table: TableId) -> None:
    with pytest.raises(InvalidNameError):
        catalog.evolve(table, [batch(table, a=INT64)])
    assert catalog.tables() == []


def test_only_the_owner_can_read_the_catalog(catalog: Catalog, path: Path) -> None:
    catalog.evolve(CPU, [batch(a=INT64)])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_opening_it_again_in_one_process_does_not_drop_the_lock_of_another_connection(
    catalog: Catalog, path: Path
) -> None:
    with writing(path):
        opened(path, busy_timeout_s=0).close()
        locked = subprocess.run(
            [sys.executable, "-c", TRIES_TO_WRITE, str(path)], timeout=60, check=False
        )
    assert locked.returncode == 3


def test_a_catalog_that_stays_locked_is_a_storage_error(catalog: Catalog, path: Path) -> None:
    with closing(opened(path, busy_timeout_s=0)) as hurried, writing(path):
        with pytest.raises(StorageError, match="locked"):
            hurried.evolve(CPU, [batch(a=INT64)])
        assert hurried.load(CPU) is None
    catalog.evolve(CPU, [batch(a=INT64)])


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else holds the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("ROLLBACK")


def test_a_full_disk_is_a_storage_error_and_changes_nothing(catalog: Catalog, path: Path) -> None:
    catalog.evolve(CPU, [batch(a=INT64)])
    connection: sqlite3.Connection = vars(catalog)["_connection"]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    many = {TableId("db", f"m{i}"): [batch(a=INT64)] for i in range(100)}
    with pytest.raises(StorageError, match=r"catalog\.db: database or disk is full"):
        catalog.evolve_many(many)
    assert [entry.table for entry in catalog.tables()] == [CPU]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert len(catalog.evolve_many(many)) == 100


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" * 100])
def test_a_file_that_is_no_catalog_is_reported_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(StorageError, match=rf"catalog {path}: "):
        opened(path)
    assert path.read_bytes() == content


def test_a_catalog_of_a_later_version_is_reported_and_left_alone(path: Path) -> None:
    opened(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="format 2, but this version of Arc reads format 1"):
        opened(path)
    assert path.read_bytes() == before


def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(StorageError, match="Not a directory"):
        opened(tmp_path / "data/.arc/catalog.db")


def test_every_commit_is_synced_before_it_returns(catalog: Catalog) -> None:
    connection: sqlite3.Connection = vars(catalog)["_connection"]
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "truncate"


def test_threads_share_one_catalog(catalog: Catalog) -> None:
    failures: list[BaseException] = []

    def add(thread: int) -> None:
        try:
            for i in range(10):
                catalog.evolve(CPU, [batch(**{f"c{thread}_{i}": INT64})])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    schema = catalog.load(CPU)
    assert failures == []
    assert schema is not None
    assert (len(schema.columns), schema.version) == (40, 40)


# --------------------------------------------------------------------------- several processes

# What each worker does: wait for the start, then bring every (column, type) of its list, one
# change at a time, and print what became of each.
WORKER = """
import json, sys
import numpy as np
from ingest.catalog import Catalog
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.errors import TypeConflictError
from ingest.paths import TableId

path, changes = sys.argv[1], json.loads(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
catalog = Catalog(path, 1000, 1000)
for name, kind in changes:
    column = Column(ColumnType(kind), np.ones(1, {"bool": np.bool_, "int64": np.int64}[kind]))
    try:
        catalog.evolve(TableId("db", "cpu"), [ColumnBatch("cpu", np.zeros(1), {name: column})])
        print(json.dumps([name, kind, "won"]))
    except TypeConflictError as error:
        print(json.dumps([name, kind, str(error)]))
"""

TRIES_TO_WRITE = """
import sqlite3, sys
try:
    sqlite3.connect(sys.argv[1], timeout=0).execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    sys.exit(3 if "locked" in str(error) else 1)
"""

DIES = """
import os, signal, sys
import numpy as np
from ingest.catalog import Catalog
from ingest.columns import Column, ColumnBatch, ColumnType
from ingest.paths import TableId

def batches():
    yield ColumnBatch("cpu", np.zeros(1), {"late": Column(ColumnType.INT64, np.ones(1, np.int64))})
    os.kill(os.getpid(), signal.SIGKILL)

catalog = Catalog(sys.argv[1], 1000, 1000)
tables = {TableId("db", f"m{i}"): [] for i in range(500)}
for table in tables:
    tables[table] = [ColumnBatch(table.measurement, np.zeros(1), {})]
catalog.evolve_many(tables | {TableId("db", "cpu"): batches()})
"""


def run_workers(path: Path, work: Sequence[Sequence[tuple[str, str]]]) -> list[list[list[str]]]:
    """Start one process for each list of changes, let them go at once, and collect."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), json.dumps(changes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for changes in work
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    results: list[list[list[str]]] = []
    for worker in workers:
        out, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        results.append([json.loads(line) for line in out.splitlines()])
    return results


def test_of_processes_that_disagree_exactly_one_wins_each_column(path: Path) -> None:
    names = [f"c{i}" for i in range(20)]
    kinds = ["int64", "bool", "int64", "bool"]
    results = run_workers(path, [[(name, kind) for name in names] for kind in kinds])
    with closing(opened(path)) as catalog:
        schema = catalog.load(CPU)
    assert schema is not None
    # One version for each column: whoever brings the same type later changes nothing.
    assert schema.version == len(schema.columns) == len(names)
    outcomes: list[tuple[str, str, str]] = [
        (name, kind, said) for result in results for name, kind, said in result
    ]
    assert len(outcomes) == len(names) * len(kinds)
    for name, kind, said in outcomes:
        stored = schema.columns[name].type
        assert (said == "won") == (kind == stored)
        assert said == "won" or f"but the column is stored as {stored}" in said


def test_no_process_loses_the_columns_of_another(path: Path) -> None:
    work = [[(f"w{worker}_{i}", "int64") for i in range(15)] for worker in range(4)]
    results = run_workers(path, work)
    with closing(opened(path)) as catalog:
        schema = catalog.load(CPU)
    assert schema is not None
    assert set(schema.columns) == {name for changes in work for name, _ in changes}
    assert schema.version == 60
    assert {said for result in results for _, _, said in result} == {"won"}


def test_a_process_killed_in_the_middle_of_a_change_leaves_none_of_it(path: Path) -> None:
    with closing(opened(path)) as catalog:
        before = catalog.evolve(CPU, [batch(a=INT64)])
        died = subprocess.run(
            [sys.executable, "-c", DIES, str(path)], cwd=ROOT, timeout=60, check=False
        )
        assert died.returncode == -signal.SIGKILL
        assert catalog.load(CPU) == before
        assert len(catalog.tables()) == 1
        assert catalog.evolve(CPU, [batch(b=INT64)]).version == 2
