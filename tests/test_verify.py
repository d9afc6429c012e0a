"""Each thing that can be wrong with a data directory is found, and nothing else is."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.errors import StorageError
from ingest.findings import Severity, gaps, heads, in_words, merged, up_to
from ingest.log_survey import LogSurvey
from ingest.lsn import make_lsn
from ingest.paths import HOUR_US, LogRange, hour_dir
from ingest.promotion import Note
from ingest.verify import Report, survey_logs, verify
from tests.support.data_dir import (
    CPU,
    HOUR_0_US,
    MEM,
    DataDirectory,
    rows_at,
    sound_directory,
)

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDirectory]:
    with closing(DataDirectory(tmp_path / "data")) as made:
        yield made


@pytest.fixture(scope="module")
def sound_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataDirectory]:
    with closing(sound_directory(tmp_path_factory.mktemp("sound") / "data")) as made:
        yield made


@pytest.fixture
def sound(sound_once: DataDirectory, tmp_path: Path) -> Iterator[DataDirectory]:
    with closing(sound_once.copy(tmp_path / "copy")) as made:
        yield made


def kinds(report: Report) -> list[tuple[Severity, str]]:
    return [(found.severity, found.kind) for found in report.findings]


def only(report: Report) -> tuple[Severity, str, str, str]:
    """The one finding."""
    assert len(report.findings) == 1, report.findings
    found = report.findings[0]
    return found.severity, found.kind, found.where, found.what


def cpu_file(data: DataDirectory) -> str:
    """The file of requests 1 to 2 of epoch 2."""
    (found,) = data.root.glob("db/cpu/*/*/*/*/s000-e000002-*.parquet")
    return found.relative_to(data.root).as_posix()


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("running", [False, True])
def test_nothing_is_found_where_nothing_is_wrong(
    sound: DataDirectory, quick: bool, running: bool
) -> None:
    report = verify(sound.root, quick=quick, running=running)
    assert report.findings == []
    assert (report.shards, report.tables, report.files, report.rows) == (2, 2, 5, 50)
    sizes = [path.stat().st_size for path in sound.root.glob("db/*/*/*/*/*/*.parquet")]
    assert report.size_bytes == sum(sizes)
    assert report.log_records == 3
    assert report.uncommitted_records == (None if quick else 2)


def test_an_empty_data_directory_is_sound(data: DataDirectory) -> None:
    assert verify(data.root) == Report(str(data.root), False, False, uncommitted_records=0)


def test_what_is_no_data_directory_cannot_be_verified(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(StorageError, match="is no data directory"):
            verify(path)


def test_nothing_is_written_and_no_lock_is_taken(sound: DataDirectory) -> None:
    before = sound.snapshot()
    verify(sound.root)
    verify(sound.root, running=True)
    assert sound.snapshot() == before


def test_progress_is_told_by_stage(sound: DataDirectory) -> None:
    told: list[tuple[str, int, int]] = []
    verify(sound.root, progress=lambda *state: told.append(state))
    assert {stage for stage, _, _ in told} == {"log", "db/cpu", "db/mem"}
    assert all(0 <= done < total for _, done, total in told)


# --- files of a table ------------------------------------------------------------------------


def test_a_file_that_is_gone(sound: DataDirectory) -> None:
    path = cpu_file(sound)
    (sound.root / path).unlink()
    severity, kind, where, _ = only(verify(sound.root))
    assert (severity, kind, where) == (ERROR, "file_missing", path)


@pytest.mark.parametrize("quick", [False, True])
def test_a_file_without_a_footer(sound: DataDirectory, quick: bool) -> None:
    path = sound.root / cpu_file(sound)
    path.write_bytes(b"x" * path.stat().st_size)
    assert only(verify(sound.root, quick=quick))[:2] == (ERROR, "file_unreadable")


def test_a_file_that_is_empty(sound: DataDirectory) -> None:
    os.truncate(sound.root / cpu_file(sound), 0)
    assert kinds(verify(sound.root)) == [(ERROR, "file_size"), (ERROR, "file_unreadable")]


def test_a_damaged_page_is_found_by_reading_the_rows_only(sound: DataDirectory) -> None:
    path = sound.root / cpu_file(sound)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    assert verify(sound.root, quick=True).findings == []
    assert only(verify(sound.root))[:2] == (ERROR, "file_unreadable")


def rewritten(data: DataDirectory, table: pa.Table) -> str:
    """Another content for a file of a table, of a size that the table is told."""
    path = cpu_file(data)
    pq.write_table(table, data.root / path, store_schema=False)
    data.add_by_hand(path)
    return path


def test_rows_that_are_not_as_many_as_the_table_says(sound: DataDirectory) -> None:
    rewritten(sound, rows_at([HOUR_0_US + i for i in range(9)]))
    for quick in (False, True):
        severity, kind, _, what = only(verify(sound.root, quick=quick))
        assert (severity, kind, what) == (ERROR, "row_count", "9 rows, the table says 10")


def test_a_size_that_is_not_as_the_table_says(sound: DataDirectory) -> None:
    sound.add_by_hand(cpu_file(sound), size_bytes=77)
    assert only(verify(sound.root))[:2] == (ERROR, "file_size")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("stats", [{"min_time_us": HOUR_0_US + 1}, {"max_time_us": HOUR_0_US + 8}])
def test_times_outside_of_what_the_table_says(
    sound: DataDirectory, stats: dict[str, int], quick: bool
) -> None:
    sound.add_by_hand(cpu_file(sound), **stats)
    assert only(verify(sound.root, quick=quick))[:2] == (ERROR, "time_range")


@pytest.mark.parametrize("quick", [False, True])
def test_times_outside_of_the_hour_of_the_folder(sound: DataDirectory, quick: bool) -> None:
    path = cpu_file(sound)
    moved = path.replace(hour_dir(HOUR_0_US), hour_dir(HOUR_0_US + HOUR_US))
    (sound.root / path).rename(sound.root / moved)
    sound.commit_by_hand(CPU, {"remove": {"path": path[7:], "dataChange": True}})
    sound.add_by_hand(moved)
    assert only(verify(sound.root, quick=quick))[:3] == (ERROR, "hour", moved)


def test_a_file_of_ours_outside_of_the_hours(sound: DataDirectory) -> None:
    path = cpu_file(sound)
    moved = f"db/cpu/{Path(path).name}"
    (sound.root / path).rename(sound.root / moved)
    sound.commit_by_hand(CPU, {"remove": {"path": path[7:], "dataChange": True}})
    sound.add_by_hand(moved)
    assert only(verify(sound.root))[:3] == (ERROR, "hour", moved)


def test_rows_that_are_not_in_order(sound: DataDirectory) -> None:
    rewritten(sound, rows_at([HOUR_0_US + i for i in reversed(range(10))]))
    assert verify(sound.root, quick=True).findings == []
    assert only(verify(sound.root))[:2] == (WARNING, "unsorted")


@pytest.mark.parametrize("quick", [False, True])
def test_rows_without_a_time(sound: DataDirectory, quick: bool) -> None:
    rewritten(sound, rows_at([*[HOUR_0_US + i for i in range(9)], None]))
    assert only(verify(sound.root, quick=quick))[:2] == (ERROR, "time_null")


def test_a_file_without_a_column_of_times(sound: DataDirectory) -> None:
    rewritten(sound, pa.table({"time": pa.array(range(10), pa.int64())}))
    severity, kind, _, what = only(verify(sound.root))
    assert (severity, kind) == (ERROR, "file_unreadable")
    assert what == "it has no column 'time' of microseconds in UTC"


# --- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
def test_a_stray_file(sound: DataDirectory, running: bool) -> None:
    path = cpu_file(sound)
    stray = path.replace("000002.parquet", "000009.parquet")
    shutil.copy(sound.root / path, sound.root / stray)
    assert only(verify(sound.root, running=running))[:3] == (ERROR, "stray", stray)


def test_a_stray_file_of_a_commit_that_was_cut_short(sound: DataDirectory) -> None:
    file = sound.stage(LogRange(0, 2, 3, 3))
    sound.store.publish([file])
    report = verify(sound.root)
    assert kinds(report) == [(NOTE, "staged"), (NOTE, "stray")]
    assert report.findings[1].where == file.path
    assert verify(sound.root, running=True).findings == []


def test_a_stray_file_that_a_note_lists(sound: DataDirectory) -> None:
    path = cpu_file(sound)
    stray = path.replace(".parquet", "-v000002-s000.parquet")
    shutil.copy(sound.root / path, sound.root / stray)
    note = Note(CPU, (path, stray))
    sound.store.stage_note("s000-swap", msgspec.json.encode(note))
    assert kinds(verify(sound.root)) == [(NOTE, "staged"), (NOTE, "stray")]


def test_a_parquet_file_elsewhere_is_nobody_s_business(sound: DataDirectory) -> None:
    shutil.copy(sound.root / cpu_file(sound), sound.root / "db/cpu/copy.parquet")
    assert verify(sound.root).findings == []


@pytest.mark.parametrize(
    ("first", "last", "hour"), [(2, 2, 5), (2, 9, 5), (1, 3, 5)], ids=["inside", "after", "around"]
)
def test_requests_that_two_flushes_have(
    sound: DataDirectory, first: int, last: int, hour: int
) -> None:
    file = sound.stage(LogRange(0, 2, first, last), hour=hour)
    sound.store.publish([file])
    sound.store.unstage([file])
    start_us = HOUR_0_US + hour * HOUR_US
    sound.add_by_hand(file.path, min_time_us=start_us, max_time_us=start_us + 9)
    found = [kind for kind in kinds(verify(sound.root)) if kind[1] != "mark"]
    assert found == [(ERROR, "overlap")]


def test_the_same_flush_twice_in_one_hour(sound: DataDirectory) -> None:
    path = cpu_file(sound)
    again = path.replace(".parquet", "-v000002-s000.parquet")
    shutil.copy(sound.root / path, sound.root / again)
    sound.add_by_hand(again)
    severity, kind, where, what = only(verify(sound.root))
    assert (severity, kind, where) == (ERROR, "overlap", path)
    assert "hold requests 1 to 2 of epoch 2 of shard 0" in what


def test_a_mark_that_is_behind_the_files(sound: DataDirectory) -> None:
    file = sound.stage(LogRange(0, 2, 3, 3))
    sound.store.publish([file])
    sound.store.unstage([file])
    sound.add_by_hand(file.path)
    severity, kind, where, what = only(verify(sound.root))
    assert (severity, kind, where) == (ERROR, "mark", "db/cpu")
    assert what.startswith("holds requests 3 to 3 of epoch 2 of shard 0, but its mark for arc-000-")
    assert what.endswith(" is 2 of epoch 2")


def test_files_of_a_shard_that_is_gone(sound: DataDirectory) -> None:
    shutil.rmtree(sound.root / ".arc/shards/001")
    assert only(verify(sound.root))[:3] == (WARNING, "shard_unknown", "db/mem")


@pytest.mark.parametrize("running", [False, True])
def test_a_table_that_cannot_be_read(sound: DataDirectory, running: bool) -> None:
    log = sound.root / "db/mem/_delta_log"
    (log / f"{len(list(log.iterdir())):020d}.json").write_bytes(b"garbage\n")
    report = verify(sound.root, running=running)
    assert (ERROR, "table_unreadable") in kinds(report)
    assert all("\n" not in found.what for found in report.findings)
    # What only this table has cannot be missed for certain.
    assert (ERROR, "gap") not in kinds(report)


def test_a_table_whose_log_is_gone(sound: DataDirectory) -> None:
    shutil.rmtree(sound.root / "db/mem/_delta_log")
    assert kinds(verify(sound.root)) == [(ERROR, "stray")] * 2


def test_a_catalog_that_is_gone(sound: DataDirectory) -> None:
    sound.close()
    (sound.root / ".arc/catalog.db").unlink()
    assert only(verify(sound.root))[:3] == (ERROR, "catalog", ".arc/catalog.db")


def test_a_catalog_that_is_none(sound: DataDirectory) -> None:
    sound.close()
    (sound.root / ".arc/catalog.db").write_bytes(b"nothing" * 1_000)
    severity, kind, _, what = only(verify(sound.root))
    assert (severity, kind, what) == (ERROR, "catalog", "cannot be read: file is not a database")


def test_a_table_that_the_catalog_does_not_know(sound: DataDirectory) -> None:
    with closing(sqlite3.connect(sound.root / ".arc/catalog.db")) as connection:
        connection.execute("DELETE FROM tables WHERE measurement = 'mem'")
        connection.commit()
    assert only(verify(sound.root))[:3] == (WARNING, "not_in_catalog", "db/mem")


# --- logs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataDirectory]:
    with closing(DataDirectory(tmp_path_factory.mktemp("logged") / "data")) as made:
        made.start()
        made.log([[CPU]] * 400)
        assert len(list(made.log_dir().glob("0*.log"))) >= 3
        yield made


@pytest.fixture
def logged(logged_once: DataDirectory, tmp_path: Path) -> Iterator[DataDirectory]:
    """A log of several segments, of which nothing is stored."""
    with closing(logged_once.copy(tmp_path / "copy")) as made:
        yield made


def segments(data: DataDirectory) -> list[Path]:
    return sorted(data.log_dir().glob("0*.log"))


def damage(path: Path, at: int, content: bytes = b"\xff") -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_a_log_of_several_segments_is_sound(logged: DataDirectory) -> None:
    report = verify(logged.root)
    assert report.findings == []
    assert (report.log_records, report.uncommitted_records) == (400, 400)


def test_a_damaged_record_is_an_error_and_so_is_its_request(logged: DataDirectory) -> None:
    damage(segments(logged)[0], 4096 + 500)
    report = verify(logged.root)
    assert kinds(report) == [(ERROR, "gap"), (ERROR, "log_corrupt")]
    assert report.findings[0].where == "shard 000"
    assert report.findings[1].where == ".arc/shards/000/log/000000000001.log"
    assert verify(logged.root, quick=True).findings == report.findings


def test_a_damaged_record_whose_request_a_table_has_is_no_gap(logged: DataDirectory) -> None:
    damage(segments(logged)[0], 4096 + 500)
    logged.flush(1, 50)
    assert only(verify(logged.root))[:2] == (ERROR, "log_corrupt")


def test_a_write_that_was_cut_short(logged: DataDirectory) -> None:
    info = next(file for file in reversed(survey_logs(logged.root)[0].files) if file.records)
    last = logged.log_dir() / info.name
    damage(last, 4096 + info.record_bytes, b"half a record")
    severity, kind, _, what = only(verify(logged.root))
    assert (severity, kind) == (NOTE, "log_torn")
    assert what.startswith("13 bytes at ")
    # With a daemon at work it may be the next record.
    assert verify(logged.root, running=True).findings == []


def test_a_segment_that_is_missing(logged: DataDirectory) -> None:
    segments(logged)[1].unlink()
    report = verify(logged.root)
    assert kinds(report) == [(ERROR, "gap"), (WARNING, "log_hole")]
    assert "no segment has a number of 2 to 2" in report.findings[1].what


def test_what_was_set_aside(sound: DataDirectory) -> None:
    aside = sound.root / ".arc/shards/000/aside"
    aside.mkdir()
    (aside / "000000000001-e000001.log").write_bytes(b"damaged")
    report = verify(sound.root)
    assert only(report)[:3] == (
        WARNING,
        "log_aside",
        ".arc/shards/000/aside/000000000001-e000001.log",
    )


def test_a_request_that_was_quarantined_is_not_missing(data: DataDirectory) -> None:
    data.start()
    data.flush(1, 1)
    data.flush(3, 3)
    aside = data.root / ".arc/shards/000/aside"
    aside.mkdir()
    (aside / f"request-{make_lsn(1, 2)}.body").write_bytes(b"body")
    severity, kind, _, what = only(verify(data.root))
    assert (severity, kind) == (WARNING, "quarantined")
    assert what.startswith("requests 2 to 2 of epoch 1 was accepted")


def test_a_body_that_cannot_be_decoded_is_not_committed(data: DataDirectory) -> None:
    data.start()
    data.flush(1, 1)
    data.log([[CPU]])
    assert verify(data.root).uncommitted_records == 0
    (data.root / ".arc/shards/000/id").unlink()
    report = verify(data.root)
    assert report.uncommitted_records == 1
    assert kinds(report) == [(WARNING, "shard_unknown")]


def test_a_request_is_committed_when_all_of_its_tables_have_it(data: DataDirectory) -> None:
    data.start()
    data.log([[CPU, MEM]] * 3)
    data.flush(1, 2, CPU)
    assert verify(data.root).uncommitted_records == 3
    data.flush(1, 1, MEM)
    assert verify(data.root).uncommitted_records == 2


# --- requests that are nowhere ---------------------------------------------------------------


def test_requests_between_two_files_are_missing(data: DataDirectory) -> None:
    data.start()
    data.flush(1, 3, CPU)
    data.flush(7, 9, CPU)
    assert only(verify(data.root)) == (
        ERROR,
        "gap",
        "shard 000",
        "requests 4 to 6 of epoch 1 are in no table and not in the log",
    )
    data.flush(4, 5, MEM)
    assert "requests 6 to 6 of" in only(verify(data.root))[3]
    data.flush(6, 8, MEM)
    assert verify(data.root).findings == []


def test_requests_between_files_and_log_are_missing(data: DataDirectory) -> None:
    data.start()
    data.log([[CPU]] * 400)
    first, *_ = segments(data)
    (number,) = [file.last_seq for file in survey_logs(data.root)[0].files if file.number == 1]
    first.unlink()
    data.flush(1, number - 1)
    assert f"requests {number} to {number} of" in only(verify(data.root))[3]
    data.flush(number, number)
    assert verify(data.root).findings == []


def test_shards_and_epochs_do_not_stand_in_for_one_another(data: DataDirectory) -> None:
    for shard in (0, 1):
        for _ in (1, 2):
            data.start(shard)
    data.flush(1, 9, shard=1)
    data.flush(1, 2, shard=0)
    data.flush(5, 9, shard=0)
    data.flush(1, 9, shard=0, epoch=2)
    assert only(verify(data.root))[2:] == (
        "shard 000",
        "requests 3 to 4 of epoch 1 are in no table and not in the log",
    )


def test_the_first_requests_of_an_epoch_are_missing(data: DataDirectory) -> None:
    data.start()
    data.flush(4, 5)
    severity, kind, where, what = only(verify(data.root))
    assert (severity, kind, where) == (WARNING, "head", "shard 000")
    assert what.startswith("requests 1 to 3 of epoch 1 are in no table")


def test_a_file_of_somebody_else_may_hold_what_is_missing(data: DataDirectory) -> None:
    data.start()
    data.flush(1, 3)
    (path,) = data.flush(7, 9)
    foreign = path.replace(Path(path).name, "part-00000.parquet")
    shutil.copy(data.root / path, data.root / foreign)
    data.add_by_hand(foreign)
    severity, kind, _, what = only(verify(data.root))
    assert (severity, kind) == (WARNING, "gap")
    assert "unless they are in a file or table that does not say what it holds" in what


def test_a_daemon_at_work_is_not_asked_for_what_came_after_the_log_was_read(
    data: DataDirectory,
) -> None:
    data.start()
    data.log([[CPU]] * 3)
    data.flush(1, 2)
    data.flush(7, 9)
    assert only(verify(data.root))[:2] == (ERROR, "gap")
    assert verify(data.root, running=True).findings == []


def test_a_daemon_at_work_is_asked_for_what_came_before(data: DataDirectory) -> None:
    data.start()
    data.flush(1, 2)
    data.flush(4, 4)
    data.start()
    data.log([[CPU]], epoch=2)
    assert "requests 3 to 3 of epoch 1" in only(verify(data.root, running=True))[3]


def test_a_segment_that_a_daemon_retires_meanwhile_is_left_out(
    logged: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = survey_logs(logged.root)[0].files[0].last_seq
    logged.flush(1, number)
    real = LogSurvey._scan

    def retire_first(self: LogSurvey, reader: object, path: Path) -> object:
        if path.name.endswith("1.log"):
            path.rename(path.with_name(f"spare-{path.name}"))
        return real(self, reader, path)  # type: ignore[arg-type]

    monkeypatch.setattr(LogSurvey, "_scan", retire_first)
    report = verify(logged.root, running=True)
    assert report.findings == []
    assert report.log_records == 400 - number


# --- the whole -------------------------------------------------------------------------------


def test_the_worst_is_told_first(sound: DataDirectory) -> None:
    rewritten(sound, rows_at([HOUR_0_US + i for i in (1, 0)]))
    sound.store.stage_note("s000-commit", b"half")
    assert kinds(verify(sound.root)) == [
        (ERROR, "row_count"),
        (WARNING, "unsorted"),
        (NOTE, "staged"),
    ]


def test_a_directory_that_may_not_be_read_is_said(
    sound: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StorageError, match=r"cannot read .*: Permission denied"):
        verify(sound.root)


SPANS = [(make_lsn(1, 5), make_lsn(1, 9)), (make_lsn(1, 2), make_lsn(1, 3)), (make_lsn(2, 1),) * 2]


def test_spans_are_merged_where_they_touch() -> None:
    assert merged([(5, 9), (1, 4), (12, 12), (7, 10)]) == [(1, 10), (12, 12)]
    assert merged([]) == []
    assert up_to([(1, 4), (6, 9), (11, 12)], 7) == [(1, 4), (6, 7)]


def test_gaps_and_heads_are_of_one_epoch() -> None:
    assert [in_words(gap) for gap in gaps(SPANS)] == ["requests 4 to 4 of epoch 1"]
    assert [in_words(head) for head in heads(SPANS)] == ["requests 1 to 1 of epoch 1"]
