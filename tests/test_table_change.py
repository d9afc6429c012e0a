"""Files take the place of others in one step, whoever else commits and wherever it is cut off."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from ingest import table_change
from ingest.clock import ManualClock
from ingest.delta_folder import read_tombstones
from ingest.errors import IngestError, StorageError
from ingest.lsn import make_lsn
from ingest.merged_files import new_name
from ingest.paths import TableId
from ingest.store import LocalStore, StagedFile
from ingest.table_change import (
    GRACE_S,
    ConflictError,
    TableChanger,
    Vacuumed,
)
from tests.test_table_log import (
    CPU,
    FLOATS,
    FOLDER,
    INTS,
    CountedCalls,
    Crash,
    Rows,
    actions_of,
    append_by_deltalake,
    assert_readers_agree,
    by_deltalake,
    commits_of,
    delta_log,
    files_of,
    hours,
    marks,
    plain,
    put,
    stage,
    staged_of,
)

HOUR_0 = "1970/01/01/00"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


@pytest.fixture
def clock() -> ManualClock:
    # A checkpoint leaves out files that went more than a week ago, by the time of the machine.
    return ManualClock(time.time_ns() // 1000)


@pytest.fixture
def changer(store: LocalStore, clock: ManualClock) -> TableChanger:
    return changer_of(store, clock)


def changer_of(store: LocalStore, clock: ManualClock | None = None) -> TableChanger:
    return TableChanger(store, structlog.get_logger(), clock)


def one_hour(number: int) -> Rows:
    return hours(number, 1)


def paths_of(changer: TableChanger) -> list[str]:
    return [file.path for file in changer.files(CPU)]


def merge(store: LocalStore, old: Sequence[str]) -> StagedFile:
    """The rows of some files of the first hour, staged as one file."""
    tables = [pq.ParquetFile(store.root / FOLDER / path).read() for path in old]
    table = pa.concat_tables(tables).sort_by("time")
    times = table.column("time").cast(pa.int64())
    return store.stage(
        f"{FOLDER}/{HOUR_0}/{new_name()}",
        lambda path: pq.write_table(table, path, store_schema=False),
        num_rows=table.num_rows,
        min_time_us=times[0].as_py(),
        max_time_us=times[-1].as_py(),
        staged_as="change-file",
    )


def replace_all(store: LocalStore, changer: TableChanger, **options: Any) -> StagedFile:
    old = paths_of(changer)
    new = merge(store, old)
    changer.replace(CPU, old, [new], "OPTIMIZE", data_change=False, **options)
    return new


# --- replacing -------------------------------------------------------------------------------


def test_a_new_file_takes_the_place_of_old_ones_for_every_reader(
    store: LocalStore, changer: TableChanger
) -> None:
    rows = [one_hour(number) for number in (1, 2, 3)]
    for number in (1, 2, 3):
        put(delta_log(store), store, number)
    old = [path for path in paths_of(changer) if path.startswith(HOUR_0)]
    new = merge(store, old)
    version = changer.replace(CPU, old, [new], "OPTIMIZE", data_change=False)
    assert version == 3
    for path in old:
        (store.root / FOLDER / path).unlink()
    assert_readers_agree(store, [*rows, *[_second_hour(number) for number in (1, 2, 3)]])
    assert staged_of(store) == []


def _second_hour(number: int) -> Rows:
    return {name: values[1:] for name, values in hours(number).items()}


def test_a_commit_of_a_replacement_says_so_and_leaves_the_marks_of_shards(
    store: LocalStore, changer: TableChanger, clock: ManualClock
) -> None:
    for number in (1, 2):
        put(delta_log(store), store, number, rows=one_hour(number))
    old = paths_of(changer)
    replace_all(store, changer)
    found = actions_of(store, 2)
    now_ms = clock.now_us() // 1000
    assert set(found) == {"commitInfo", "remove", "add"}
    assert [(one["path"], one["dataChange"]) for one in found["remove"]] == [
        (path, False) for path in old
    ]
    assert {one["deletionTimestamp"] for one in found["remove"]} == {now_ms}
    assert found["add"][0]["dataChange"] is False
    assert found["commitInfo"][0]["isBlindAppend"] is False
    assert delta_log(store).committed(CPU) == make_lsn(1, 2)


def test_a_shard_goes_on_after_its_files_were_replaced(
    store: LocalStore, changer: TableChanger
) -> None:
    log = delta_log(store)
    for number in (1, 2, 3):
        put(log, store, number, rows=one_hour(number))
        replace_all(store, changer)
    put(log, store, 4, rows=one_hour(4))
    assert by_deltalake(store.root / FOLDER).num_rows == 4
    assert log.committed(CPU) == make_lsn(1, 4)


def test_files_may_go_without_any_that_take_their_place(
    store: LocalStore, changer: TableChanger
) -> None:
    for number in (1, 2):
        put(delta_log(store), store, number, rows=one_hour(number))
    first, _ = paths_of(changer)
    changer.replace(CPU, [first], [], "DELETE", data_change=True)
    assert by_deltalake(store.root / FOLDER).num_rows == 1
    assert actions_of(store, 2)["remove"][0]["dataChange"] is True


def test_a_file_that_somebody_else_replaced_is_a_conflict_and_changes_nothing(
    store: LocalStore, changer: TableChanger
) -> None:
    for number in (1, 2):
        put(delta_log(store), store, number, rows=one_hour(number))
    old = paths_of(changer)
    new = merge(store, old)
    replace_all(store, changer_of(store))
    before = (files_of(store), commits_of(store))
    with pytest.raises(ConflictError, match=old[0]):
        changer.replace(CPU, old, [new], "OPTIMIZE", data_change=False)
    assert (files_of(store), commits_of(store)) == before
    assert staged_of(store) == [Path(new.temporary).name]
    store.discard([new])
    assert staged_of(store) == []


def test_a_change_of_a_type_wins_over_a_replacement_that_began_before_it(
    store: LocalStore, changer: TableChanger
) -> None:
    log = delta_log(store)
    for number in (1, 2):
        put(log, store, number, rows=one_hour(number))
    old = paths_of(changer)
    new = merge(store, old)
    put(log, store, 3, FLOATS, one_hour(3))
    with pytest.raises(ConflictError):
        changer.replace(CPU, old, [new], "OPTIMIZE", data_change=False)
    replace_all(store, changer)
    assert plain(by_deltalake(store.root / FOLDER)) == [
        {"time": number, "host": f"h{number}", "v": float(number)} for number in (1, 2, 3)
    ]


def test_a_replaced_file_takes_part_in_a_later_change_of_a_type(
    store: LocalStore, changer: TableChanger
) -> None:
    log = delta_log(store)
    for number in (1, 2):
        put(log, store, number, rows=one_hour(number))
    new = replace_all(store, changer)
    put(log, store, 3, FLOATS, one_hour(3))
    assert f"{FOLDER}/{paths_of(changer)[0]}" != new.path
    assert_types(store, "double")
    assert by_deltalake(store.root / FOLDER).num_rows == 3


def assert_types(store: LocalStore, wanted: str) -> None:
    for path in paths_of(changer_of(store)):
        assert str(pq.read_schema(store.root / FOLDER / path).field("v").type) == wanted


def test_a_table_that_is_not_there_is_a_conflict(store: LocalStore, changer: TableChanger) -> None:
    with pytest.raises(ConflictError, match="no table"):
        changer.replace(CPU, ["x"], [], "DELETE", data_change=True)
    assert changer.files(CPU) == []
    assert changer.vacuum(CPU, 0) == Vacuumed()


def test_a_version_that_a_foreign_writer_takes_is_no_conflict(
    store: LocalStore, changer: TableChanger
) -> None:
    for number in (1, 2):
        put(delta_log(store), store, number, rows=one_hour(number))
    foreign: Rows = {"time": [77], "host": ["x"], "v": [3]}
    replace_all(store, changer, check=lambda: append_by_deltalake(store, foreign))
    assert len(commits_of(store)) == 4
    assert by_deltalake(store.root / FOLDER).num_rows == 3


def test_a_file_that_a_foreign_writer_removes_meanwhile_is_a_conflict(
    store: LocalStore, changer: TableChanger
) -> None:
    for number in (1, 2):
        put(delta_log(store), store, number, rows=one_hour(number))

    def optimize() -> None:
        deltalake.DeltaTable(str(store.root / FOLDER)).optimize.compact()

    before = files_of(store)
    with pytest.raises(ConflictError):
        replace_all(store, changer, check=optimize)
    (left,) = staged_of(store)
    assert left.startswith("change-file.")
    assert len(files_of(store)) == len(before) + 1
    assert by_deltalake(store.root / FOLDER).num_rows == 2


def test_what_the_caller_checks_under_the_lock_can_prevent_it(
    store: LocalStore, changer: TableChanger
) -> None:
    put(delta_log(store), store, 1, rows=one_hour(1))

    def refuse() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError):
        replace_all(store, changer, check=refuse)
    assert len(commits_of(store)) == 1


def test_a_file_outside_of_its_table_is_a_defect(store: LocalStore, changer: TableChanger) -> None:
    put(delta_log(store), store, 1, rows=one_hour(1))
    with pytest.raises(IngestError, match="BUG"):
        changer.replace(
            TableId("other", "cpu"), [], [merge(store, paths_of(changer))], "X", data_change=False
        )


def test_files_show_what_the_log_knows(store: LocalStore, changer: TableChanger) -> None:
    (staged,) = put(delta_log(store), store, 7, rows=one_hour(7))
    (file,) = changer.files(CPU)
    assert (file.num_rows, file.min_us, file.max_us, file.version) == (1, 7, 7, 0)
    assert file.size_bytes == staged.size_bytes
    assert file.modified_ms > 0


# --- others at the same time -----------------------------------------------------------------

COMMITS = 60


def _append(root: Path, shard: int) -> None:
    store = LocalStore(root)
    log = delta_log(store, shard)
    for number in range(1, COMMITS + 1):
        put(log, store, number, rows=one_hour(number), shard=shard)


def _merge_until(root: Path, done: Any) -> None:
    store = LocalStore(root)
    changer = changer_of(store)
    while True:
        is_last = done.is_set()
        old = paths_of(changer)
        if len(old) > 1:
            new = None
            try:
                new = merge(store, old)
                changer.replace(CPU, old, [new], "OPTIMIZE", data_change=False)
            except (ConflictError, FileNotFoundError):
                store.discard([new] if new else [])
        if is_last:
            break


def test_shards_append_and_changers_replace_in_other_processes_and_no_reader_miscounts(
    store: LocalStore,
) -> None:
    put(delta_log(store, 9), store, 1, rows=one_hour(1), shard=9)
    spawn = multiprocessing.get_context("spawn")
    done = spawn.Event()
    shards = [spawn.Process(target=_append, args=(store.root, shard)) for shard in (0, 1)]
    changers = [spawn.Process(target=_merge_until, args=(store.root, done)) for _ in range(2)]
    for process in [*shards, *changers]:
        process.start()
    counts = list(_counts(store, shards))
    done.set()
    for process in [*shards, *changers]:
        process.join()
        assert process.exitcode == 0
    assert counts == sorted(counts)
    assert counts[-1] <= 2 * COMMITS + 1
    found = by_deltalake(store.root / FOLDER)
    assert sorted(found.column("host").to_pylist()) == sorted(
        ["h1", *[f"h{number}" for number in range(1, COMMITS + 1)] * 2]
    )
    assert staged_of(store) == []
    assert len(changer_of(store).files(CPU)) < COMMITS


def _counts(store: LocalStore, shards: Sequence[Any]) -> Iterator[int]:
    """Rows of the table, over and over; each count must be of one moment."""
    while any(process.is_alive() for process in shards):
        table = deltalake.DeltaTable(str(store.root / FOLDER))
        rows = sum(
            pq.read_metadata(uri.removeprefix("file://")).num_rows for uri in table.file_uris()
        )
        assert rows == sum(pa.table(table.get_add_actions())["num_records"].to_pylist())
        yield rows


# --- the end of the process, and refusals of the disk, at every step -------------------------


class Swap:
    """A table with two files, about to become one."""

    def __init__(self, root: Path) -> None:
        self.calls = CountedCalls()
        self.store = LocalStore(root, self.calls)
        for number in (1, 2):
            put(delta_log(self.store), self.store, number, rows=one_hour(number))
        self.changer = changer_of(self.store)
        self.old = paths_of(self.changer)

    def run(self) -> None:
        """As a compactor does it."""
        new: list[StagedFile] = []
        try:
            new.append(merge(self.store, self.old))
            self.changer.replace(CPU, self.old, new, "OPTIMIZE", data_change=False)
        except BaseException:
            self.store.discard(new)
            raise

    def rows(self) -> int:
        return int(by_deltalake(self.store.root / FOLDER).num_rows)

    def restart(self) -> None:
        """Another process, after this one was killed."""
        self.calls.arm(-1)
        self.store = LocalStore(self.store.root)
        self.changer = changer_of(self.store)
        self.changer.recover()

    def strays(self) -> set[str]:
        """Files that are in no table and never were."""
        active = {f"{FOLDER}/{path}" for path in paths_of(self.changer)}
        known = {f"{FOLDER}/{path}" for path in read_tombstones(self.store.root, FOLDER)}
        return set(files_of(self.store)) - active - known


def swaps(tmp_path: Path) -> Iterator[tuple[int, Swap]]:
    """Fresh tables for as long as the failure falls into the work."""
    whole = Swap(tmp_path / "whole")
    whole.calls.arm(-1)
    whole.run()
    assert len(whole.calls.names) > 12
    for at in range(len(whole.calls.names)):
        yield at, Swap(tmp_path / f"{at}")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_wherever_the_process_ends_every_row_is_there_once_and_a_start_cleans_up(
    tmp_path: Path, after: bool
) -> None:
    for at, swap in swaps(tmp_path):
        swap.calls.error = Crash
        swap.calls.arm(at, lasting=True, after=after)
        with pytest.raises(Crash):
            swap.run()
        assert swap.rows() == 2
        swap.restart()
        assert staged_of(swap.store) == []
        assert swap.strays() == set()
        if len(paths_of(swap.changer)) > 1:
            swap.run()
        assert len(paths_of(swap.changer)) == 1
        assert swap.rows() == 2


@pytest.mark.parametrize(
    ("lasting", "after"),
    [(False, False), (True, False), (False, True)],
    ids=["once", "from then on", "once, although it worked"],
)
def test_whichever_call_the_disk_refuses_every_row_is_there_once(
    tmp_path: Path, lasting: bool, after: bool
) -> None:
    for at, swap in swaps(tmp_path):
        swap.calls.arm(at, lasting=lasting, after=after)
        with contextlib.suppress(StorageError):
            swap.run()
        assert swap.rows() == 2
        swap.calls.arm(-1)
        with contextlib.suppress(ConflictError):  # it was in after all
            swap.run()
        assert swap.rows() == 2
        assert len(paths_of(swap.changer)) == 1
        swap.restart()
        assert staged_of(swap.store) == []
        swap.changer.vacuum(CPU)
        assert swap.strays() == set()
        assert swap.rows() == 2


def test_a_start_leaves_what_other_owners_and_shards_staged(store: LocalStore) -> None:
    put(delta_log(store), store, 1, rows=one_hour(1))
    old = paths_of(changer_of(store))
    (mine,) = (merge(store, old),)
    stage(store, one_hour(2), marks(2))
    assert TableChanger(store, structlog.get_logger(), owner="other").recover() == 0
    assert len(staged_of(store)) == 2
    assert changer_of(store).recover() == 1
    assert not Path(mine.temporary).exists()
    assert len(staged_of(store)) == 1


def test_leftovers_of_a_table_that_cannot_be_read_wait(tmp_path: Path) -> None:
    swap = Swap(tmp_path / "data")
    swap.calls.error = Crash
    link = _call_number(tmp_path, "link", 1)
    swap.calls.arm(link, lasting=True)
    with pytest.raises(Crash):
        swap.run()
    commit = swap.store.root / FOLDER / "_delta_log" / f"{0:020d}.json"
    content = commit.read_bytes()
    commit.write_bytes(b"{")
    with structlog.testing.capture_logs() as logs:
        swap.restart()
    assert [entry["event"] for entry in logs] == ["recovery_postponed"]
    commit.write_bytes(content)
    assert len(swap.strays()) == 1
    swap.restart()
    assert swap.strays() == set()
    assert staged_of(swap.store) == []


def _call_number(tmp_path: Path, name: str, nth: int) -> int:
    """Which call of a swap is the nth of its kind, from 0."""
    swap = Swap(tmp_path / "counted")
    swap.calls.arm(-1)
    swap.run()
    return [at for at, found in enumerate(swap.calls.names) if found == name][nth]


# --- vacuum ----------------------------------------------------------------------------------


def test_replaced_files_stay_for_the_grace_period(
    store: LocalStore, changer: TableChanger, clock: ManualClock
) -> None:
    for number in (1, 2):
        put(delta_log(store), store, number, rows=one_hour(number))
    new = replace_all(store, changer)
    clock.move(GRACE_S - 1)
    assert changer.vacuum(CPU) == Vacuumed()
    clock.move(1)
    size_bytes = sum(
        (store.root / path).stat().st_size for path in files_of(store) if path != new.path
    )
    assert changer.vacuum(CPU, dry_run=True) == Vacuumed(2, size_bytes)
    assert changer.vacuum(CPU) == Vacuumed(2, size_bytes)
    assert files_of(store) == [new.path]
    assert changer.vacuum(CPU) == Vacuumed()
    assert_readers_agree(store, [one_hour(1), one_hour(2)])


def test_files_that_left_before_a_checkpoint_are_still_known(
    store: LocalStore, changer: TableChanger, clock: ManualClock
) -> None:
    for number in (1, 2):
        put(delta_log(store), store, number, rows=one_hour(number))
    new = replace_all(store, changer)
    deltalake.DeltaTable(str(store.root / FOLDER)).create_checkpoint()
    put(delta_log(store), store, 3, rows=one_hour(3))
    assert len(read_tombstones(store.root, FOLDER)) == 2
    assert changer.vacuum(CPU) == Vacuumed()
    clock.move(GRACE_S)
    assert changer.vacuum(CPU).num_files == 2
    assert new.path in files_of(store)


def test_a_file_of_ours_that_the_log_never_knew_goes_and_one_of_others_stays(
    store: LocalStore, changer: TableChanger
) -> None:
    put(delta_log(store), store, 1, rows=one_hour(1))
    folder = store.root / FOLDER / HOUR_0
    for name in (new_name(), "s000-e000001-000000000008-000000000009.parquet", "foreign.parquet"):
        (folder / name).write_bytes(b"x")
    assert changer.vacuum(CPU) == Vacuumed(2, 2)
    assert [path for path in files_of(store) if "/s000" not in path] == [
        f"{FOLDER}/{HOUR_0}/foreign.parquet"
    ]
    assert by_deltalake(store.root / FOLDER).num_rows == 1


def test_a_file_whose_commit_is_in_doubt_stays(store: LocalStore, changer: TableChanger) -> None:
    put(delta_log(store), store, 1, rows=one_hour(1))
    files = stage(store, one_hour(2), marks(2))
    store.publish(files)
    assert changer.vacuum(CPU) == Vacuumed()
    delta_log(store).commit(CPU, files, marks(2), INTS)
    assert by_deltalake(store.root / FOLDER).num_rows == 2


def test_a_hundredth_version_gets_a_checkpoint(
    store: LocalStore, changer: TableChanger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_change, "CHECKPOINT_VERSIONS", 2)
    for number in (1, 2):
        put(delta_log(store), store, number, rows=one_hour(number))
    replace_all(store, changer)
    assert (store.root / FOLDER / "_delta_log" / f"{2:020d}.checkpoint.parquet").exists()
    assert changer_of(store).files(CPU) == changer.files(CPU)
