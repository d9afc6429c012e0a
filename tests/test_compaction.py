"""Small files become few; whoever reads meanwhile, or ends the process, every row is there once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ingest.clock import ManualClock
from ingest.compaction import (
    DAY_US,
    Compactor,
    Limits,
    NoSuchTableError,
    Outcome,
    Progress,
    Task,
    compact_directory,
    covered,
    next_due_us,
    plan,
)
from ingest.errors import StorageError
from ingest.findings import Severity
from ingest.merged_files import decode_covers, is_merged_name, new_name
from ingest.paths import HOUR_US, QUARANTINE, LogRange, TableId, file_name, hour_dir, table_dir
from ingest.table_change import TableChanger, TableFile
from ingest.turn import CompactionBusyError, my_compaction
from ingest.verify import verify
from tests.support.data_dir import CPU, HOUR_0_US, MEM, DataDirectory, rows_at

ROOT = Path(__file__).resolve().parent.parent
LATER_US = HOUR_0_US + 10 * DAY_US


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDirectory]:
    with closing(DataDirectory(tmp_path / "data")) as made:
        made.start()
        yield made


# --- which files -----------------------------------------------------------------------------


def file(
    number: int, start_us: int, size: int = 1000, rows: int = 10, length_us: int = 1
) -> TableFile:
    path = f"{hour_dir(start_us)}/{file_name(0, 1, number, number)}"
    return TableFile(path, size, rows, start_us, start_us + length_us - 1, 0, 0)


def folders(tasks: Sequence[Task]) -> list[tuple[str, int]]:
    return [(task.folder, len(task.files)) for task in tasks]


def test_files_of_an_hour_that_is_over_become_one() -> None:
    files = [file(number, hour * HOUR_US) for hour in range(3) for number in (1, 2)]
    now_us = 2 * HOUR_US + round(299e6)
    assert folders(plan(files, now_us, Limits())) == [("1970/01/01/00", 2)]
    assert folders(plan(files, now_us + 1_000_000, Limits())) == [
        ("1970/01/01/00", 2),
        ("1970/01/01/01", 2),
    ]


def test_files_of_a_day_that_is_over_become_one_in_the_folder_of_the_day() -> None:
    files = [file(hour, hour * HOUR_US) for hour in range(24)]
    files += [file(hour, DAY_US + hour * HOUR_US) for hour in range(2)]
    assert folders(plan(files, DAY_US + 3 * HOUR_US, Limits())) == [("1970/01/01/day", 24)]


def test_a_file_alone_stays_as_it_is() -> None:
    assert plan([file(1, 0)], LATER_US, Limits()) == []


@pytest.mark.parametrize("path", ["1970/01/01/00/part-0.parquet", "x.parquet"])
def test_files_of_others_are_left_alone(path: str) -> None:
    files = [TableFile(path, 10, 1, number, number, 0, 0) for number in range(3)]
    assert plan(files, LATER_US, Limits()) == []


def test_files_of_which_the_table_does_not_say_the_times_are_left_alone() -> None:
    files = [TableFile(file(number, 0).path, 10, 1, None, None, 0, 0) for number in range(3)]
    assert plan(files, LATER_US, Limits()) == []


def test_a_file_over_two_days_is_left_alone() -> None:
    files = [file(number, 0, length_us=DAY_US + 1) for number in range(3)]
    assert plan(files, LATER_US, Limits()) == []


def test_a_large_file_is_not_rewritten_for_a_few_late_rows() -> None:
    limits = Limits(small_bytes=1000)
    large, late = file(1, 0, size=100_000), [file(number, 0, size=1000) for number in range(2, 12)]
    (task,) = plan([large, *late], LATER_US, limits)
    assert large not in task.files
    assert len(task.files) == 10
    (task,) = plan(
        [large, *[file(number, 0, size=3000) for number in range(2, 12)]], LATER_US, limits
    )
    assert large in task.files


def test_a_new_file_holds_no_more_than_the_limits() -> None:
    files = [file(number, number, size=1000, rows=10) for number in range(40)]
    by_rows = plan(files, LATER_US, Limits(max_rows=100))
    by_bytes = plan(files, LATER_US, Limits(max_bytes=5000))
    by_files = plan(files, LATER_US, Limits(max_files=7))
    assert [len(task.files) for task in by_rows] == [10] * 4
    assert [len(task.files) for task in by_bytes] == [5] * 8
    assert [len(task.files) for task in by_files] == [7] * 5 + [5]
    for tasks in (by_rows, by_bytes, by_files):
        spans = [(task.files[0].min_us or 0, task.files[-1].max_us or 0) for task in tasks]
        assert all(last < first for (_, last), (first, _) in pairwise(spans))


def test_a_file_that_is_half_as_large_as_allowed_stays() -> None:
    files = [file(number, number, size=600) for number in range(4)]
    assert plan(files, LATER_US, Limits(max_bytes=1000)) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * DAY_US), st.integers(1, 50_000), st.integers(1, 1000)),
        max_size=60,
    )
)
def test_planning_comes_to_an_end_with_every_row_once(found: list[tuple[int, int, int]]) -> None:
    limits = Limits(max_rows=2000, max_bytes=100_000, max_files=10, small_bytes=500)
    files = [file(number, *one[:2], rows=one[2]) for number, one in enumerate(found)]
    before = sum(file.num_rows or 0 for file in files)
    for _ in range(20):
        tasks = plan(files, 2 * DAY_US, limits)
        if not tasks:
            break
        gone = [path for task in tasks for path in [file.path for file in task.files]]
        assert len(gone) == len(set(gone))
        files = [file for file in files if file.path not in set(gone)]
        files += [as_one(task) for task in tasks]
        assert sum(file.num_rows or 0 for file in files) == before
    assert plan(files, 2 * DAY_US, limits) == []


def as_one(task: Task) -> TableFile:
    return TableFile(
        f"{task.folder}/{new_name()}",
        task.size_bytes,
        task.num_rows,
        min(file.min_us or 0 for file in task.files),
        max(file.max_us or 0 for file in task.files),
        0,
        0,
    )


# --- doing it --------------------------------------------------------------------------------


def run(data: DataDirectory, now_us: int = LATER_US, grace_s: float = 900.0) -> Outcome:
    clock, limits = ManualClock(now_us), Limits(grace_s=grace_s)
    return compact_directory(data.root, structlog.get_logger(), limits, clock=clock)


def count(data: DataDirectory, table: TableId = CPU) -> int:
    return int(deltalake.DeltaTable(data.root / table_dir(table)).to_pyarrow_table().num_rows)


def files(data: DataDirectory, table: TableId = CPU) -> list[TableFile]:
    return TableChanger(data.store, structlog.get_logger(), owner="look").files(table)


def errors(data: DataDirectory) -> list[str]:
    report = verify(data.root)
    return [found.what for found in report.findings if found.severity is Severity.ERROR]


def flush_hours(data: DataDirectory, flushes: int, hours: Sequence[int] = (0, 1)) -> None:
    for number in range(1, flushes + 1):
        data.flush(number, number, hours=hours)


def test_a_table_of_many_files_becomes_one_of_few(data: DataDirectory) -> None:
    flush_hours(data, 5, (0, 1, 30))
    outcome = run(data)
    assert (outcome.files_merged, outcome.files_written, outcome.rows) == (15, 2, 150)
    assert (outcome.failures, outcome.conflicts) == (0, 0)
    assert outcome.bytes_after < outcome.bytes_before
    assert count(data) == 150
    assert sorted(file.path.rpartition("/")[0][-3:] for file in files(data)) == ["day", "day"]
    assert run(data) == Outcome()


def test_hours_of_today_become_one_file_each(data: DataDirectory) -> None:
    flush_hours(data, 3, (2, 3, 4))
    outcome = run(data, HOUR_0_US + 4 * HOUR_US + round(400e6))
    assert (outcome.files_merged, outcome.files_written) == (6, 2)
    assert len(files(data)) == 5
    run(data)
    assert len(files(data)) == 1
    assert count(data) == 90


def test_late_rows_join_the_file_of_their_day(data: DataDirectory) -> None:
    flush_hours(data, 2)
    run(data)
    data.flush(3, 3, hours=(1,))
    assert run(data).files_merged == 2
    assert count(data) == 50


def test_verify_finds_no_errors_after_a_compaction_and_no_requests_missing(
    data: DataDirectory,
) -> None:
    flush_hours(data, 4)
    data.flush(5, 5, MEM)
    run(data)
    assert errors(data) == []
    (merged,) = files(data)
    assert covers(data, merged) == (LogRange(0, 1, 1, 4),)
    data.flush(6, 9)
    assert errors(data) == []


def covers(data: DataDirectory, file: TableFile) -> tuple[LogRange, ...] | None:
    metadata = pq.read_metadata(data.root / table_dir(CPU) / file.path).metadata
    return decode_covers(metadata)


def test_a_file_merged_from_one_that_does_not_say_what_it_holds_does_not_either(
    data: DataDirectory,
) -> None:
    assert covered("x/m-0123456789abcdef.parquet", {}) is None
    name = file_name(0, 1, 2, 3)
    assert covered(f"x/{name}", {}) == (LogRange(0, 1, 2, 3),)


def test_a_glob_shows_each_row_once_when_the_old_files_are_gone(data: DataDirectory) -> None:
    flush_hours(data, 3)
    run(data, grace_s=0.0)
    found = sorted((data.root / table_dir(CPU)).glob("*/*/*/*/*.parquet"))
    assert [is_merged_name(path.name) for path in found] == [True]
    pattern = f"{data.root / table_dir(CPU)}/*/*/*/*/*.parquet"
    with duckdb.connect() as connection:
        found_rows = connection.execute("SELECT count(*) FROM read_parquet(?)", [pattern])
        assert found_rows.fetchall() == [(60,)]


def test_old_files_stay_for_those_who_read_them(data: DataDirectory) -> None:
    flush_hours(data, 3)
    before = deltalake.DeltaTable(data.root / table_dir(CPU))
    run(data)
    assert before.to_pyarrow_table().num_rows == 60
    outcome = run(data, LATER_US + round(901e6))
    assert (outcome.files_vacuumed, outcome.files_merged) == (6, 0)
    assert count(data) == 60


def test_only_the_tables_that_were_named_are_compacted(data: DataDirectory) -> None:
    for table in (CPU, MEM):
        data.flush(1, 1, table)
        data.flush(2, 2, table)
    log, clock = structlog.get_logger(), ManualClock(LATER_US)
    compact_directory(data.root, log, None, CPU.database, CPU.measurement, clock=clock)
    assert (len(files(data, CPU)), len(files(data, MEM))) == (1, 2)
    with pytest.raises(NoSuchTableError, match=r"no table db\.none"):
        compact_directory(data.root, log, None, "db", "none", clock=clock)


def test_what_was_refused_is_merged_as_well(data: DataDirectory) -> None:
    table = TableId(CPU.database, QUARANTINE)
    data.flush(1, 1, table)
    data.flush(2, 2, table)
    assert run(data).files_merged == 2
    assert len(files(data, table)) == 1


def test_what_was_done_to_a_table_is_logged_and_told(data: DataDirectory) -> None:
    for table in (CPU, MEM):
        data.flush(1, 1, table, hours=(0, 1, 30))
    settled: list[tuple[TableId, int]] = []
    with structlog.testing.capture_logs() as logs:
        compactor = Compactor(data.store, structlog.get_logger(), clock=ManualClock(LATER_US))
        outcome = compactor.run(
            [CPU, MEM], settled=lambda table, files: settled.append((table, len(files)))
        )
    assert settled == [(CPU, 2), (MEM, 2)]
    assert [entry["event"] for entry in logs] == ["compacted", "compacted"]
    told = {"measurement": "cpu", "files_merged": 2, "files_written": 1, "rows": 20}
    assert told.items() <= logs[0].items()
    assert sum(entry["bytes_before"] for entry in logs) == outcome.bytes_before


def test_a_table_with_a_task_that_failed_is_not_settled(data: DataDirectory) -> None:
    flush_hours(data, 2, (0,))
    (bad, *_) = sorted((data.root / table_dir(CPU)).glob("*/*/*/*/*.parquet"))
    bad.write_bytes(b"PAR1")
    settled: list[TableId] = []
    compactor = Compactor(data.store, structlog.get_logger(), clock=ManualClock(LATER_US))
    outcome = compactor.run([CPU], settled=lambda table, _: settled.append(table))
    assert (outcome.failures, settled) == (1, [])


def test_whoever_admits_no_task_ends_the_run_between_two(data: DataDirectory) -> None:
    flush_hours(data, 2, (0, 30, 60))
    asked: list[int] = []

    def admit() -> None:
        asked.append(len(asked))
        if len(asked) == 2:
            raise KeyboardInterrupt

    outcome = Outcome()
    clock = ManualClock(LATER_US)
    compactor = Compactor(data.store, structlog.get_logger(), clock=clock, admit=admit)
    with pytest.raises(KeyboardInterrupt):
        compactor.run([CPU], outcome=outcome)
    assert outcome.files_written == 1
    assert count(data) == 60
    assert list((data.root / ".arc/staging").iterdir()) == []


def test_the_next_end_of_an_hour_or_a_day_is_known(data: DataDirectory) -> None:
    limits = Limits(older_than_s=300)
    open_hour = [file(1, 0), file(2, HOUR_US)]
    assert next_due_us(open_hour, 0, limits) == HOUR_US + 300_000_000
    assert next_due_us(open_hour, HOUR_US + 300_000_000, limits) == 2 * HOUR_US + 300_000_000
    assert next_due_us(open_hour, 3 * HOUR_US, limits) == DAY_US + 300_000_000
    assert next_due_us(open_hour, LATER_US, limits) is None
    assert next_due_us([TableFile("x.parquet", 1, 1, 0, 1, 0, 0)], 0, limits) is None


def test_a_second_compactor_is_told_so(data: DataDirectory) -> None:
    with (
        my_compaction(data.root / ".arc"),
        pytest.raises(CompactionBusyError, match="another compactor"),
    ):
        run(data)


def test_a_folder_that_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no data directory"):
        compact_directory(tmp_path, structlog.get_logger())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_fails_its_task_and_no_other(data: DataDirectory) -> None:
    flush_hours(data, 2, (0, 1, 30))
    (bad, *_) = sorted((data.root / table_dir(CPU)).glob("*/*/*/*/*.parquet"))
    content = bad.read_bytes()
    bad.write_bytes(content[:-20] + b"\0" * 20)
    with structlog.testing.capture_logs() as logs:
        outcome = run(data)
    assert (outcome.failures, outcome.files_written) == (1, 1)
    assert [entry["event"] for entry in logs] == ["compaction_failed", "compacted"]
    assert bad.name in logs[0]["error"]
    bad.write_bytes(content)
    assert count(data) == 60
    assert list((data.root / ".arc/staging").iterdir()) == []


def test_a_file_with_other_rows_than_the_table_says_is_not_merged(data: DataDirectory) -> None:
    data.flush(1, 1)
    files_ = data.store.stage(
        f"{table_dir(CPU)}/{hour_dir(HOUR_0_US)}/{file_name(0, 1, 2, 2)}",
        lambda path: pq.write_table(rows_at([HOUR_0_US]), path, store_schema=False),
        num_rows=1,
        min_time_us=HOUR_0_US,
        max_time_us=HOUR_0_US,
    )
    data.store.publish([files_])
    data.store.unstage([files_])
    data.add_by_hand(files_.path, num_rows=3)
    with structlog.testing.capture_logs() as logs:
        assert run(data).failures == 1
    assert "hold 11 rows, and the table says 13" in logs[0]["error"]


def test_a_disk_without_room_is_left_alone(
    data: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush_hours(data, 2)
    monkeypatch.setattr(type(data.store), "free_bytes", lambda _: 1000)
    with structlog.testing.capture_logs() as logs:
        assert run(data).failures == 1
    assert "1000 bytes of disk are free" in logs[0]["error"]
    assert len(files(data)) == 4


def test_progress_is_told_for_each_table(data: DataDirectory) -> None:
    flush_hours(data, 2)
    told: list[Progress] = []
    compact_directory(
        data.root, structlog.get_logger(), clock=ManualClock(LATER_US), progress=told.append
    )
    assert [(one.table, one.done_bytes) for one in told] == [(CPU, 0), (CPU, told[0].total_bytes)]


# --- while others are at work ----------------------------------------------------------------


def test_a_reader_beside_a_writer_and_a_compactor_never_sees_a_wrong_number(
    data: DataDirectory,
) -> None:
    data.flush(1, 1)
    committed = [10]  # before a commit, and after it
    started = [10]
    done = threading.Event()

    def write() -> None:
        for number in range(2, 62):
            started[0] = number * 10
            data.flush(number, number, hours=(number % 2,))
            committed[0] = number * 10
        done.set()

    def compact() -> None:
        log, clock = structlog.get_logger(), ManualClock(LATER_US)
        while not done.is_set():
            outcome = compact_directory(data.root, log, clock=clock)
            assert outcome.failures == 0

    threads = [threading.Thread(target=work) for work in (write, compact)]
    for thread in threads:
        thread.start()
    looks = 0
    while not done.is_set():
        low = committed[0]
        found = count(data)
        assert low <= found <= started[0]
        looks += 1
    for thread in threads:
        thread.join()
    run(data)
    assert looks > 5
    assert count(data) == 610
    assert len(files(data)) == 1
    assert errors(data) == []


# --- wherever the process ends ---------------------------------------------------------------

_CHILD = """
import sys, structlog
from pathlib import Path
from ingest.clock import ManualClock
from ingest.compaction import Limits, compact_directory
print("ready", flush=True)
sys.stdin.readline()
compact_directory(
    Path(sys.argv[1]), structlog.get_logger(), Limits(max_files=4, grace_s=0.0),
    clock=ManualClock(int(sys.argv[2])),
)
print("done", flush=True)
"""


@contextlib.contextmanager
def compacting(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that compacts once it is sent a line, and has ended afterwards in any case."""
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(root), str(LATER_US)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def test_kill_9_at_any_moment_leaves_every_row_once_and_the_next_run_cleans_up(
    data: DataDirectory,
) -> None:
    flush_hours(data, 40, (0, 1))
    ended, at = 0, 0.002
    while not ended:
        with compacting(data.root) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            killer = threading.Timer(at, os.kill, (child.pid, signal.SIGKILL))
            child.stdin.write(b"\n")
            child.stdin.flush()
            killer.start()
            ended = len(child.stdout.readline())
            killer.cancel()
            killer.join()
        assert count(data) == 800
        assert errors(data) == []
        at *= 1.6
    assert sum(file.num_rows or 0 for file in files(data)) == 800
    run(data, LATER_US + 1, grace_s=0.0)
    assert list((data.root / ".arc/staging").iterdir()) == []
    on_disk = (data.root / table_dir(CPU)).glob("*/*/*/*/*.parquet")
    assert {path.name for path in on_disk} == {file.path.rpartition("/")[2] for file in files(data)}
    assert len(files(data)) == 1


def test_a_compactor_can_be_ended_between_two_commits(data: DataDirectory) -> None:
    flush_hours(data, 8)
    calls = iter(range(30))

    def check() -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    log, clock = structlog.get_logger(), ManualClock(LATER_US)
    with pytest.raises(KeyboardInterrupt):
        Compactor(data.store, log, Limits(max_files=4), clock, check).run([CPU])
    assert list((data.root / ".arc/staging").iterdir()) == []
    assert count(data) == 160
    assert 1 < len(files(data)) < 16


def test_somebody_elses_change_meanwhile_makes_it_begin_anew(data: DataDirectory) -> None:
    flush_hours(data, 3, (0,))
    changer = TableChanger(data.store, structlog.get_logger(), owner="other")
    seen: list[int] = []

    def check() -> None:
        # When the first of the files was read, somebody takes another.
        seen.append(1)
        if len(seen) == 3:
            changer.replace(CPU, [files(data)[2].path], [], "DELETE", data_change=True)

    outcome = Compactor(
        data.store, structlog.get_logger(), clock=ManualClock(LATER_US), check=check
    ).run([CPU])
    assert (outcome.conflicts, outcome.failures, outcome.rows) == (1, 0, 20)
    assert count(data) == 20
    assert list((data.root / ".arc/staging").iterdir()) == []


def test_arrow_memory_is_given_back(data: DataDirectory) -> None:
    flush_hours(data, 3)
    before = pa.total_allocated_bytes()
    run(data)
    assert pa.total_allocated_bytes() == before
