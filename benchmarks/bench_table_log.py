"""What a commit costs in a table of many files, beside what `deltalake` takes for the same.

A commit publishes one small staged file and writes its version of the log. "no sync" leaves the
syncs out, so its wall time is what the processor does; the others wait for the disk as the daemon
does. `deltalake` never syncs. Staging the file is not timed.

    python -m benchmarks.bench_table_log
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import deltalake
import pyarrow as pa
import structlog
from deltalake.transaction import AddAction

from benchmarks.harness import Bench, main
from ingest import delta
from ingest.columns import ColumnType
from ingest.instruments import null
from ingest.paths import LogRange, TableId, file_name, hour_dir, table_dir
from ingest.schema import ColumnSpec, TableSchema
from ingest.store import LocalStore, StagedFile, SystemCalls
from ingest.table_log import DeltaTableLog

FILES = (10, 5_000, 50_000)
COMMITS = 20
TABLE = TableId("bench", "cpu")
SCHEMA = TableSchema({f"c{i}": ColumnSpec(ColumnType.FLOAT64) for i in range(5)}, 1)


class NoSync(SystemCalls):
    """A disk that need not be waited for."""

    def sync(self, descriptor: int) -> None:
        """Believe it."""

    def sync_directory(self, path: Path) -> None:
        """Believe it."""


class Table:
    """A table of many files that do not exist, and what is to be committed next."""

    def __init__(self, root: str, num_files: int, calls: SystemCalls) -> None:
        self.store = LocalStore(root, calls)
        self.log = DeltaTableLog(self.store, "arc-000-bench", 0, null(), structlog.get_logger())
        self.path = self.store.root / table_dir(TABLE)
        self.seq = 0
        self._begin(num_files)
        self.other = deltalake.DeltaTable(str(self.path))

    def _begin(self, num_files: int) -> None:
        """One commit that has them all, and a checkpoint."""
        meta = delta.new_table(SCHEMA, "00000000-0000-0000-0000-000000000000", 0)
        actions = [delta.protocol(), {"metaData": meta.action}]
        for number in range(num_files):
            path = f"{hour_dir(number * 1_000_000)}/{number}.parquet"
            stats = delta.statistics(1, number, number)
            actions.append(delta.add(delta.AddedFile(path, 1_000, 0, stats)))
        log = self.path / delta.LOG_DIR
        log.mkdir(parents=True)
        (log / delta.commit_name(0)).write_bytes(delta.encode_commit(actions))
        deltalake.DeltaTable(str(self.path)).create_checkpoint()

    def staged(self) -> list[tuple[LogRange, StagedFile]]:
        """Files for some commits."""
        out = []
        for _ in range(COMMITS):
            self.seq += 1
            name = file_name(0, 1, self.seq, self.seq)
            file = self.store.stage(
                f"{table_dir(TABLE)}/{hour_dir(0)}/{name}",
                lambda path: Path(path).write_bytes(b"rows"),
                num_rows=1,
                min_time_us=0,
                max_time_us=0,
            )
            out.append((LogRange(0, 1, self.seq, self.seq), file))
        return out

    def commit(self, files: list[tuple[LogRange, StagedFile]]) -> int:
        """Commit them one by one; how far the table is."""
        for marks, file in files:
            self.log.commit(TABLE, [file], marks, SCHEMA)
        return self.log.committed(TABLE) & (2**40 - 1)

    def commit_by_deltalake(self, _: object) -> int:
        """As many commits of one file each, by deltalake."""
        columns = [pa.field(f"c{i}", pa.float64()) for i in range(5)]
        time = pa.field("time", pa.timestamp("us", "UTC"), nullable=False)
        schema = deltalake.Schema.from_arrow(pa.schema([time, *columns]))
        for number in range(COMMITS):
            self.seq += 1
            stats = delta.statistics(1, number, number)
            add = AddAction(f"{self.seq}.parquet", 4, {}, 0, True, stats)
            marks = deltalake.CommitProperties(
                app_transactions=[deltalake.Transaction("other", self.seq)]
            )
            self.other.create_write_transaction(
                [add], mode="append", schema=schema, commit_properties=marks
            )
            self.other.update_incremental()
        return self.seq


def benches(folder: str) -> list[Bench]:
    """Ours with and without syncs, and deltalake's, by the number of files."""
    out = []
    for num_files in FILES:
        for name, calls in (("", SystemCalls()), (", no sync", NoSync())):
            table = Table(f"{folder}/{num_files}{name}", num_files, calls)
            label = f"{COMMITS} commits, {num_files} files{name}"
            out.append(Bench(label, table.commit, COMMITS, 1, _check(table), table.staged))
        theirs = Table(f"{folder}/{num_files}deltalake", num_files, NoSync())
        label = f"{COMMITS} commits, {num_files} files, deltalake"
        commit = theirs.commit_by_deltalake
        out.append(Bench(label, commit, COMMITS, 1, _check(theirs), lambda: None))
    return out


def _check(table: Table) -> Callable[[int], None]:
    def check(reached: int) -> None:
        assert reached == table.seq > 0

    return check


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        raise SystemExit(main(benches(folder)))
