"""The compactor process of a daemon: one look, what it merges and counts, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import deltalake
import psutil
import pytest
import structlog

from arc.compaction_options import CompactionStart, command, parse_arguments
from arc.compaction_priority import idle_disk
from arc.compaction_process import Stop, look
from arc.metrics import MetricsFile, summary
from arc.runtime import DataDir
from ingest.delta_folder import table_lock
from ingest.errors import StorageError
from ingest.paths import TableId, table_dir
from ingest.store import LocalStore
from ingest.turn import BusyError, CompactionBusyError, my_compaction, my_turn
from tests.support.daemon import eventually
from tests.support.data_dir import CPU, MEM, DataDirectory
from tests.support.running import ROOT, clean_environment

WAIT_S = 100.0


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDirectory]:
    with closing(DataDirectory(tmp_path / "data")) as made:
        DataDir(made.root).prepare()
        made.start()
        for table in (CPU, MEM):
            made.flush(1, 1, table, hours=(0, 1))
            made.flush(2, 2, table, hours=(0, 1))
        yield made


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A look within this process says where all of its events go."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@contextmanager
def started(
    data: DataDirectory, stdin: int | IO[bytes] = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """The process as the supervisor starts it; it is gone afterwards."""
    process = subprocess.Popen(
        command(CompactionStart(data.root, log_format="json")),
        cwd=ROOT,
        env=clean_environment(),
        stdin=stdin,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def num_files(data: DataDirectory, table: TableId) -> int:
    """How many files a table has, all of whose rows must be there."""
    found = deltalake.DeltaTable(data.root / table_dir(table))
    assert found.to_pyarrow_table().num_rows == 40
    return len(found.file_uris())


def test_options_pass_the_command_line() -> None:
    start = CompactionStart(Path("/a b"), 0.5, 7.0, "warning", "json")
    assert parse_arguments(command(start)[3:]) == start


def test_a_look_merges_tells_counts_and_the_next_one_finds_nothing(data: DataDirectory) -> None:
    for count in (1, 2):
        with started(data) as process:
            assert process.wait(WAIT_S) == 0
            assert process.stderr is not None
            said = process.stderr.read()
            assert said.count('"event":"compacted"') == (2 if count == 1 else 0), said
        counted = summary(DataDir(data.root).run)
        assert counted["arc_compaction_runs_total"] == count
        assert counted["arc_compaction_files_merged_total"] == 8
        assert counted["arc_compaction_files_written_total"] == 2
        assert counted["arc_compaction_rows_total"] == 80
        assert counted["arc_compaction_merged_bytes_total"] > 0
        assert counted["arc_compaction_failures_total"] == 0
    assert num_files(data, CPU) == num_files(data, MEM) == 1


def test_sigterm_ends_it_between_two_commits(data: DataDirectory) -> None:
    with started(data) as process:
        with table_lock(LocalStore(data.root), table_dir(MEM)):  # it comes after the other
            eventually(lambda: num_files(data, CPU) == 1, "one table is merged", WAIT_S)
            assert psutil.Process(process.pid).nice() == 19
            process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    assert (num_files(data, CPU), num_files(data, MEM)) == (1, 4)
    assert list((data.root / ".arc/staging").iterdir()) == []


def test_it_ends_with_the_supervisor(data: DataDirectory) -> None:
    with started(data, subprocess.DEVNULL) as process:  # whose end is there at once
        assert process.wait(WAIT_S) == 0
    assert (num_files(data, CPU), num_files(data, MEM)) == (4, 4)


def test_it_says_why_it_cannot_look(data: DataDirectory) -> None:
    (data.root / ".arc/locks/compactor.lock").mkdir(parents=True)
    with started(data) as process:
        assert process.wait(WAIT_S) == 1
        assert process.stderr is not None
        assert "cannot lock" in process.stderr.read()


def test_it_gives_way_to_deletes_and_to_other_compactors(data: DataDirectory) -> None:
    start, state = CompactionStart(data.root, log_level="error"), data.root / ".arc"
    with my_compaction(state), pytest.raises(CompactionBusyError):
        look(start, Stop())
    with my_turn(state), pytest.raises(BusyError):
        look(start, Stop())
    assert num_files(data, CPU) == 4
    look(start, Stop())
    assert num_files(data, CPU) == 1
    assert summary(DataDir(data.root).run)["arc_compaction_runs_total"] == 1


def test_a_failure_is_counted_and_tried_again(data: DataDirectory) -> None:
    (bad, *_) = sorted((data.root / table_dir(CPU)).glob("*/*/*/*/*.parquet"))
    content = bad.read_bytes()
    bad.write_bytes(b"PAR1")
    start = CompactionStart(data.root, log_level="critical")
    for count in (1, 2):
        look(start, Stop())
        assert summary(DataDir(data.root).run)["arc_compaction_failures_total"] == count
    bad.write_bytes(content)
    look(start, Stop())
    assert num_files(data, CPU) == num_files(data, MEM) == 1


def test_a_directory_without_a_catalog_is_an_error_only_where_there_are_tables(
    tmp_path: Path, data: DataDirectory
) -> None:
    DataDir(tmp_path / "empty").prepare()
    look(CompactionStart(tmp_path / "empty"), Stop())
    (data.root / ".arc/catalog.db").unlink()
    with pytest.raises(StorageError, match="no data directory"):
        look(CompactionStart(data.root, log_level="critical"), Stop())


def test_what_an_earlier_look_has_left_in_the_gauges_stays(tmp_path: Path) -> None:
    for keep, value in ((True, 7.0), (False, 0.0)):
        file = MetricsFile(tmp_path / "metrics-x.bin", keep_gauges=keep)
        gauge = file.float_gauge("arc_compaction_last_end_seconds")
        assert gauge.value in (0.0, value)
        gauge.set(7.0)
        file.close()
        file = MetricsFile(tmp_path / "metrics-x.bin", keep_gauges=keep)
        assert file.float_gauge("arc_compaction_last_end_seconds").value == value
        file.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no priorities of the disk")
def test_the_disk_is_left_to_others_for_a_while() -> None:
    process = psutil.Process(os.getpid())
    before = process.ionice()
    with idle_disk():
        assert process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    assert process.ionice() == before
