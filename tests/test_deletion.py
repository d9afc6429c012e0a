"""Rows go out of a table: the right ones, also beside others at work, and whatever breaks."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from ingest import deletion, parquet, verify
from ingest.clock import ManualClock
from ingest.columns import ColumnType
from ingest.compaction import Compactor
from ingest.condition import Condition
from ingest.deletion import OWNER, Deleted, Deleter
from ingest.errors import IngestError, StorageError
from ingest.findings import Severity
from ingest.instruments import null
from ingest.parquet_groups import GroupWriter
from ingest.paths import LogRange, TableId, file_name, hour_dir, table_dir
from ingest.removed import note_removed, read_removed
from ingest.schema import ColumnSpec, TableSchema
from ingest.store import LocalStore, StagedFile, SystemCalls
from ingest.table_change import TableChanger
from ingest.table_log import DeltaTableLog
from ingest.turn import BusyError, my_turn
from ingest.upkeep import ConfirmationError, DeleteOrder, NoSuchTableError, Upkeep, upkeep
from tests.query.conftest import START_US, write
from tests.support.data_dir import CPU as CPU_OF_LOG
from tests.support.data_dir import HOUR_0_US, DataDirectory

CPU = TableId("default", "cpu")
HOUR_US = 3_600_000_000
#: First moment of the hour after that of START_US.
NEXT_US = (START_US // HOUR_US + 1) * HOUR_US
LOG = structlog.get_logger()
HOSTS = TableSchema(
    {"host": ColumnSpec(ColumnType.UTF8, True), "n": ColumnSpec(ColumnType.INT64)}, 1
)


def at(*times_us: int, **columns: Any) -> dict[str, Any]:
    """A request for rows at these times, numbered."""
    return {"m": "cpu", "columns": {"time": list(times_us), **columns}}


def deleter(root: Path, calls: SystemCalls | None = None) -> Deleter:
    store = LocalStore(root, calls)
    return Deleter(store, TableChanger(store, LOG, None, OWNER))


def rows_of(root: Path, table: TableId = CPU) -> pa.Table:
    return deltalake.DeltaTable(str(root / table_dir(table))).to_pyarrow_table().sort_by("time")


def numbers(root: Path) -> list[Any]:
    found: list[Any] = rows_of(root)["n"].to_pylist()
    return sorted(found)


def files_of(root: Path) -> list[str]:
    found = pa.table(deltalake.DeltaTable(str(root / "default/cpu")).get_add_actions())
    return sorted(found["path"].to_pylist())


def errors_of(root: Path) -> list[str]:
    """What `arc verify` finds wrong once the old files are gone."""
    TableChanger(LocalStore(root), LOG).vacuum(CPU, 0.0)
    report = verify.verify(root)
    return [str(found) for found in report.findings if found.severity is Severity.ERROR]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three files: two flushes of one hour, of which one also has rows of the next."""
    root = tmp_path / "data"
    hosts = ["a", "b", None, "a"]
    write(root, at(*range(START_US, START_US + 4), n=[0, 1, 2, 3], host=hosts))
    times = [START_US + 10, START_US + 11, NEXT_US, NEXT_US + 1]
    write(root, at(*times, n=[4, 5, 6, 7], host=["a", "b", "a", "c"]))
    assert len(files_of(root)) == 3
    return root


CASES: list[tuple[Condition, list[int], int, int]] = [
    (Condition(), [], 3, 0),
    (Condition(end_us=START_US), list(range(8)), 0, 0),
    (Condition(end_us=NEXT_US), [6, 7], 2, 0),
    (Condition(start_us=NEXT_US), [0, 1, 2, 3, 4, 5], 1, 0),
    (Condition(end_us=START_US + 2), [2, 3, 4, 5, 6, 7], 0, 1),
    (Condition(START_US + 1, START_US + 11), [0, 5, 6, 7], 0, 2),
    (Condition(equals=(("host", ("a",)),)), [1, 2, 5, 7], 0, 3),
    (Condition(equals=(("host", ("a", "c")),)), [1, 2, 5], 1, 2),
    (Condition(NEXT_US, None, (("host", ("a", "b")),)), [0, 1, 2, 3, 4, 5, 7], 0, 1),
    (Condition(equals=(("nope", ("a",)),)), list(range(8)), 0, 0),
]


@pytest.mark.parametrize(("condition", "left", "removed", "rewritten"), CASES)
def test_what_is_meant_goes_and_everything_else_stays(
    data: Path, condition: Condition, left: list[int], removed: int, rewritten: int
) -> None:
    before = rows_of(data)
    found = deleter(data)
    plan = found.survey(CPU, condition)
    assert numbers(data) == list(range(8)), "a survey changes nothing"
    assert (plan.rows, len(plan.whole), len(plan.partial)) == (8 - len(left), removed, rewritten)
    done = found.carry_out(plan)
    assert (done.rows, done.files_removed, done.files_rewritten) == (
        plan.rows,
        removed,
        rewritten,
    )
    assert numbers(data) == left
    kept = before.filter(pa.compute.is_in(before["n"], pa.array(left, pa.int64())))
    assert rows_of(data).equals(kept)
    assert errors_of(data) == []
    assert found.survey(CPU, condition).rows == 0
    assert not list((data / ".arc/staging").iterdir())


def test_a_delete_on_a_table_that_is_not_there_finds_nothing(data: Path) -> None:
    plan = deleter(data).survey(TableId("default", "mem"), Condition())
    assert (plan.version, plan.rows, plan.files) == (-1, 0, ())


def test_a_file_written_anew_tells_what_the_old_one_told(data: Path) -> None:
    found = deleter(data)
    (old,) = [path for path in files_of(data) if "000001-000000000001.parquet" in path][:1]
    before = pq.read_metadata(data / "default/cpu" / old)
    found.carry_out(found.survey(CPU, Condition(end_us=START_US + 2)))
    (new,) = [path for path in files_of(data) if "/m-" in path]
    after = pq.read_metadata(data / "default/cpu" / new)
    assert before.metadata.items() <= after.metadata.items()
    assert new.rpartition("/")[0] == old.rpartition("/")[0]
    (entry,) = [file for file in TableChanger(LocalStore(data), LOG).files(CPU) if file.path == new]
    assert (entry.num_rows, entry.min_us, entry.max_us) == (2, START_US + 2, START_US + 3)


def test_old_files_stay_for_readers_until_they_are_vacuumed(data: Path) -> None:
    old = files_of(data)
    snapshot = deltalake.DeltaTable(str(data / "default/cpu"))
    found = deleter(data)
    found.carry_out(found.survey(CPU, Condition(end_us=NEXT_US)))
    found.vacuum(CPU)
    assert snapshot.to_pyarrow_table().num_rows == 8
    TableChanger(LocalStore(data), LOG).vacuum(CPU, 0.0)
    there = [path for path in old if (data / "default/cpu" / path).exists()]
    assert there == files_of(data)


def test_rows_that_come_after_the_survey_stay(data: Path) -> None:
    found = deleter(data)
    plan = found.survey(CPU, Condition())
    write(data, at(START_US, n=[100], host=["a"]))
    found.carry_out(plan)
    assert numbers(data) == [100]
    assert errors_of(data) == []


def test_a_replay_does_not_bring_deleted_rows_back(data: Path) -> None:
    found = deleter(data)
    found.carry_out(found.survey(CPU, Condition()))
    write(data, at(NEXT_US, n=[9], host=["z"]))
    assert numbers(data) == [9]


# --- beside others -----------------------------------------------------------------------------


def racing(
    monkeypatch: pytest.MonkeyPatch, found: Deleter, act: Callable[[], None]
) -> Callable[[], int]:
    """Have somebody else act just before the first commit; how many commits were tried."""
    changer = found._changer
    replace, tried = changer.replace, [0]

    def raced(*args: Any, **named: Any) -> int:
        tried[0] += 1
        if tried[0] == 1:
            act()
        return replace(*args, **named)

    monkeypatch.setattr(changer, "replace", raced)
    return lambda: tried[0]


@pytest.mark.parametrize("condition", [Condition(), Condition(equals=(("host", ("a",)),))])
def test_a_delete_that_meets_another_ones_work_begins_again(
    data: Path, monkeypatch: pytest.MonkeyPatch, condition: Condition
) -> None:
    want = sorted(set(range(8)) - ({0, 3, 4, 6} if condition.equals else set(range(8))))
    found, other = deleter(data), deleter(data)
    part = Condition(end_us=START_US + 1)
    act = lambda: (other.carry_out(other.survey(CPU, part)), None)[1]  # noqa: E731
    tried = racing(monkeypatch, found, act)
    done = found.carry_out(found.survey(CPU, condition))
    assert tried() >= 2
    assert numbers(data) == want
    assert done.rows == (3 if condition.equals else 7), "row 0 went by the other one"
    assert errors_of(data) == []
    assert not list((data / ".arc/staging").iterdir())


def test_a_column_that_turns_float_meanwhile_stays_float(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = deleter(data)
    racing(monkeypatch, found, lambda: write(data, at(NEXT_US + 9, n=[8.5], host=["z"])))
    found.carry_out(found.survey(CPU, Condition(equals=(("host", ("a",)),))))
    assert numbers(data) == [1.0, 2.0, 5.0, 7.0, 8.5]
    for path in files_of(data):
        assert pq.read_schema(data / "default/cpu" / path).field("n").type == pa.float64()
    assert errors_of(data) == []


def test_files_that_change_for_ever_end_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = deleter(data)
    gone = deletion._GoneError("somebody else was faster")

    def vanish(*_: object) -> None:
        raise gone

    monkeypatch.setattr(found, "_rewrite", vanish)
    with pytest.raises(StorageError, match="change faster"):
        found.carry_out(found.survey(CPU, Condition(equals=(("host", ("a",)),))))
    assert numbers(data) == list(range(8))


def test_beside_a_shard_that_flushes_and_a_compactor_no_other_row_goes(tmp_path: Path) -> None:
    root, done, errors, gone = tmp_path / "data", threading.Event(), [], [0]
    store = LocalStore(root)

    def flush() -> None:
        shard = DeltaTableLog(store, "app", 0, null(), LOG)
        for seq in range(1, 41):
            start_us = NEXT_US + seq % 5 * HOUR_US
            times = pa.array(range(start_us, start_us + 20), pa.timestamp("us", "UTC"))
            hosts = pa.array(["ab"[i % 2] for i in range(20)]).dictionary_encode()
            numbered = pa.array(range(seq * 20, seq * 20 + 20), pa.int64())
            rows = pa.table({"time": times, "host": hosts, "n": numbered})
            marks = LogRange(0, 1, seq, seq)
            shard.commit(CPU, [_staged(store, rows, marks)], marks, HOSTS)

    def remove() -> None:
        found, deleted = deleter(root), Deleted()
        found.carry_out(found.survey(CPU, Condition(equals=(("host", ("a",)),))), deleted)
        gone[0] += deleted.rows

    def compact() -> None:
        Compactor(LocalStore(root), LOG, clock=ManualClock(NEXT_US + 10**13)).run([CPU])

    def repeat(act: Callable[[], None]) -> None:
        try:
            while not done.is_set():
                act()
        except BaseException as error:
            errors.append(error)

    others = [threading.Thread(target=repeat, args=(act,)) for act in (remove, compact)]
    for thread in others:
        thread.start()
    try:
        flush()
    finally:
        done.set()
        for thread in others:
            thread.join()
    remove()
    assert errors == []
    assert numbers(root) == [number for number in range(20, 820) if number % 2]
    assert gone[0] == 400


def _staged(store: LocalStore, rows: pa.Table, marks: LogRange) -> StagedFile:
    low, high = (rows["time"][place].value for place in (0, -1))
    name = file_name(marks.shard, marks.epoch, marks.first_seq, marks.last_seq)
    metadata = parquet.file_metadata(HOSTS, "")
    return store.stage(
        f"{table_dir(CPU)}/{hour_dir(low)}/{name}",
        lambda path: parquet.write(rows, path, parquet.plan(rows), metadata),
        num_rows=rows.num_rows,
        min_time_us=low,
        max_time_us=high,
    )


def test_only_one_at_a_time(data: Path) -> None:
    with my_turn(data / ".arc"), opened(data) as found:
        dry = found.delete(DeleteOrder(CPU, "host = 'a'"))
        assert dry.done.rows == 4, "a dry run waits for nobody"
        with pytest.raises(BusyError, match="another delete or retention run is under way"):
            found.delete(DeleteOrder(CPU, "host = 'a'", dry_run=False))
    with opened(data) as found:
        assert found.delete(DeleteOrder(CPU, "host = 'a'", dry_run=False)).done.rows == 4


# --- what breaks -------------------------------------------------------------------------------


class EndedError(Exception):
    """The process, as far as the code can tell, is killed here."""


class Refusing(SystemCalls):
    """Fails the n-th of the calls that change the disk, and all after it where it is a kill."""

    def __init__(self, fail_at: int, error: type[Exception]) -> None:
        self.count, self.fail_at, self.error = 0, fail_at, error

    def _step(self) -> None:
        self.count += 1
        is_dead = self.error is EndedError and self.count > self.fail_at >= 0
        if self.count == self.fail_at or is_dead:
            raise OSError(28, "No space left on device") if self.error is OSError else EndedError

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def link(self, source: Path, target: Path) -> None:
        self._step()
        super().link(source, target)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)


@pytest.mark.parametrize("error", [EndedError, OSError])
def test_wherever_it_is_cut_off_the_next_one_does_the_rest(
    data: Path, tmp_path: Path, error: type[Exception]
) -> None:
    condition = Condition(equals=(("host", ("a", "c")),))
    gone = {0, 3, 4, 6, 7}
    calls = Refusing(-1, error)
    counted = tmp_path / "counted"
    shutil.copytree(data, counted)
    whole = deleter(counted, calls)
    whole.carry_out(whole.survey(CPU, condition))
    for fail_at in range(1, calls.count + 1):
        root = tmp_path / f"cut-{fail_at}"
        shutil.copytree(data, root)
        with contextlib.suppress(EndedError, IngestError):
            broken = deleter(root, Refusing(fail_at, error))
            broken.carry_out(broken.survey(CPU, condition))
        left = set(numbers(root))
        assert left >= set(range(8)) - gone, fail_at
        assert len(numbers(root)) == len(left), fail_at
        again = deleter(root)
        again.carry_out(again.survey(CPU, condition))
        assert set(numbers(root)) == set(range(8)) - gone, fail_at
        assert errors_of(root) == [], fail_at
        assert not list((root / ".arc/staging").iterdir()), fail_at
        shutil.rmtree(root)


def test_a_check_that_raises_ends_it_between_two_commits(data: Path) -> None:
    found = deleter(data)
    plan = found.survey(CPU, Condition(equals=(("host", ("a",)),)))

    def stop() -> None:
        raise EndedError

    found._check = stop
    with pytest.raises(EndedError):
        found.carry_out(plan)
    assert numbers(data) == list(range(8))
    assert not list((data / ".arc/staging").iterdir())


def test_a_file_that_cannot_be_read_is_named(data: Path) -> None:
    path = data / "default/cpu" / files_of(data)[0]
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(StorageError, match=str(path)):
        deleter(data).survey(CPU, Condition(equals=(("host", ("a",)),)))


def test_a_full_disk_is_said_before_anything_is_written(data: Path) -> None:
    class Full(SystemCalls):
        def free_bytes(self, path: Path) -> int:
            return 1000

    found = deleter(data, Full())
    with pytest.raises(StorageError, match="1000 bytes of disk are free, too few to rewrite"):
        found.carry_out(found.survey(CPU, Condition(equals=(("host", ("a",)),))))
    assert numbers(data) == list(range(8))


# --- files of several groups of rows -----------------------------------------------------------


def test_large_files_are_rewritten_group_by_group_with_the_settings_of_a_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10_000)
    monkeypatch.setattr(deletion, "_BATCH_ROWS", 1_000)
    root, count = tmp_path / "data", 50_000
    rng = np.random.default_rng(7)
    columns: dict[str, Any] = {
        "n": list(range(count)),
        "host": [f"h{value}" for value in rng.integers(0, 50, count)],
        "usage": [float(value) for value in rng.random(count)],
        "up": [bool(value) for value in rng.integers(0, 2, count)],
    }
    write(root, at(*range(START_US, START_US + count), **columns))
    (old,) = files_of(root)
    before = pq.read_metadata(root / "default/cpu" / old)
    assert before.num_row_groups == 5
    found = deleter(root)
    found.carry_out(found.survey(CPU, Condition(START_US + 10_000, None, (("host", ("h1",)),))))
    wanted = [
        number for number, host in enumerate(columns["host"]) if number < 10_000 or host != "h1"
    ]
    assert numbers(root) == wanted
    (new,) = files_of(root)
    after = pq.read_metadata(root / "default/cpu" / new)
    for place in range(before.num_columns):
        one, other = (footer.row_group(0).column(place) for footer in (before, after))
        for fact in ("path_in_schema", "encodings", "compression", "is_stats_set"):
            assert getattr(one, fact) == getattr(other, fact)
    assert (before.format_version, before.created_by) == (after.format_version, after.created_by)
    assert errors_of(root) == []


def test_a_group_writer_writes_what_one_write_of_all_rows_does(tmp_path: Path) -> None:
    times = pa.array(range(20_000), pa.timestamp("us", "UTC"))
    hosts = pa.array([f"h{i % 7}" for i in range(20_000)]).dictionary_encode()
    table = pa.table({"time": times, "host": hosts, "v": [i / 3 for i in range(20_000)]})
    parquet.write(table, tmp_path / "one", parquet.plan(table, "zstd"), {"a": "b"})
    (tmp_path / "two").touch()
    with GroupWriter(str(tmp_path / "two"), "zstd", {"a": "b"}) as writer:
        for batch in table.to_batches(max_chunksize=3_000):
            writer.write(batch)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# --- orders ------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(root: Path, now_us: int = NEXT_US) -> Iterator[Upkeep]:
    with upkeep(root, LOG, clock=ManualClock(now_us)) as found:
        yield found


def test_an_order_is_a_dry_run_at_first(data: Path) -> None:
    with opened(data) as found:
        result = found.delete(DeleteOrder(CPU, "time < now() AND host = 'b'"))
        assert (result.done.rows, result.version) == (2, 1)
        assert numbers(data) == list(range(8))
        found.delete(DeleteOrder(CPU, "time < now() AND host = 'b'", dry_run=False))
        assert numbers(data) == [0, 2, 3, 4, 6, 7]


def test_everything_and_very_much_has_to_be_confirmed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(data) as found:
        with pytest.raises(ConfirmationError, match="every row of the measurement"):
            found.delete(DeleteOrder(CPU, "1=1", dry_run=False))
        monkeypatch.setattr("ingest.upkeep.CONFIRM_ROWS", 3)
        with pytest.raises(ConfirmationError, match="deletes 4 rows, more than 3"):
            found.delete(DeleteOrder(CPU, "host = 'a'", dry_run=False))
        monkeypatch.setattr("ingest.upkeep.MAX_ROWS", 3)
        with pytest.raises(IngestError, match="rows of one delete: 4, over the limit of 3"):
            found.delete(DeleteOrder(CPU, "host = 'a'", dry_run=False, confirmed=True))
        assert numbers(data) == list(range(8))
        assert found.delete(DeleteOrder(CPU, "host = 'c'", dry_run=False)).done.rows == 1


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (TableId("default", "nope"), "'nope' of database 'default' not found"),
        (TableId("other", "cpu"), "'cpu' of database 'other' not found"),
        (TableId("..", "cpu"), "database '..'"),
    ],
)
def test_a_table_that_is_not_there_is_named(data: Path, table: TableId, said: str) -> None:
    with opened(data) as found, pytest.raises(IngestError, match=said):
        found.delete(DeleteOrder(table, "1=1"))
    with opened(data) as found, pytest.raises(NoSuchTableError):
        found.delete(DeleteOrder(TableId("default", "nope"), "1=1"))


def test_a_folder_without_state_is_no_data_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is no data directory"):
        Upkeep(tmp_path, LOG)
    assert list(tmp_path.iterdir()) == []


# --- what is known of the log ------------------------------------------------------------------


def test_ranges_of_removed_files_are_kept_merged(tmp_path: Path) -> None:
    assert read_removed(tmp_path) == {}
    note_removed(tmp_path, {0: [(1, 3)], 2: [(9, 9)]})
    note_removed(tmp_path, {0: [(4, 6), (10, 12)]})
    assert read_removed(tmp_path) == {0: [(1, 6), (10, 12)], 2: [(9, 9)]}
    (tmp_path / "removed.json").write_bytes(b"{")
    with pytest.raises(StorageError, match="cannot be read"):
        read_removed(tmp_path)


def test_requests_whose_files_were_removed_are_noted(data: Path) -> None:
    found = deleter(data)
    found.carry_out(found.survey(CPU, Condition(equals=(("host", ("a", "c")),))))
    found.carry_out(found.survey(CPU, Condition()))
    ((first, last), (other_first, other_last)) = read_removed(data / ".arc")[0]
    assert first == last
    assert other_first == other_last != first


def test_verify_does_not_miss_requests_whose_files_were_removed(tmp_path: Path) -> None:
    with contextlib.closing(DataDirectory(tmp_path / "data")) as made:
        made.start(0)
        for seq in range(1, 6):
            made.flush(seq, seq, hours=[seq])
    root = tmp_path / "data"
    removal = Deleter(LocalStore(root), TableChanger(LocalStore(root), LOG, None, OWNER))
    middle = Condition(HOUR_0_US + 2 * HOUR_US, HOUR_0_US + 4 * HOUR_US)
    done = removal.carry_out(removal.survey(CPU_OF_LOG, middle))
    assert done.files_removed == 2
    TableChanger(LocalStore(root), LOG).vacuum(CPU_OF_LOG, 0.0)
    assert verify.verify(root).findings == []
    (root / ".arc/removed.json").unlink()
    assert [found.kind for found in verify.verify(root).findings] == ["gap"]
