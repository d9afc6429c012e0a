"""A file is whole, synced and durable before it has its name, or it is not there at all."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.errors import IngestError, StorageError
from ingest.paths import file_name
from ingest.store import FileEntry, InDoubtError, LocalStore, StagedFile, SystemCalls

FOLDER = "db/cpu/2026/01/02/03"
NEXT_FOLDER = "db/cpu/2026/01/02/04"
NAME = file_name(0, 1, 1, 42)
NOBODY = 65534


class RecordingCalls(SystemCalls):
    """The real calls, written down, any of which can be told to fail."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str], int] = lambda call, path: 0
        self._opened: dict[int, str] = {}

    def _note(self, call: str, path: Path | str) -> None:
        below = os.path.relpath(path, self.root)
        self.log.append((call, below))
        code = self.refuse(call, below)
        if code:
            raise OSError(code, os.strerror(code), str(path))

    def take_log(self) -> list[tuple[str, str]]:
        log, self.log = self.log, []
        return log

    def create(self, path: Path) -> int:
        self._note("create", path)
        descriptor = super().create(path)
        self._opened[descriptor] = str(path)
        return descriptor

    def sync(self, descriptor: int) -> None:
        self._note("sync", self._opened[descriptor])
        super().sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        self._note("sync_directory", path)
        super().sync_directory(path)

    def write(self, descriptor: int, content: bytes) -> None:
        self._note("write", self._opened[descriptor])
        super().write(descriptor, content)

    def sync_file(self, path: Path) -> None:
        self._note("sync_file", path)
        super().sync_file(path)

    def link(self, source: Path, target: Path) -> None:
        self._note("link", target)
        super().link(source, target)

    def lock(self, path: Path) -> int:
        self._note("lock", path)
        return super().lock(path)

    def rename(self, source: Path, target: Path) -> None:
        self._note("rename", target)
        super().rename(source, target)

    def make_directory(self, path: Path) -> None:
        self._note("make_directory", path)
        super().make_directory(path)

    def remove(self, path: Path) -> None:
        self._note("remove", path)
        super().remove(path)

    def free_bytes(self, path: Path) -> int:
        self._note("free_bytes", path)
        return super().free_bytes(path)


@pytest.fixture
def calls(tmp_path: Path) -> RecordingCalls:
    return RecordingCalls(tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path, calls: RecordingCalls) -> LocalStore:
    store = LocalStore(tmp_path / "data", calls)
    calls.take_log()
    return store


def filler(content: bytes) -> Callable[[str], None]:
    def write(path: str) -> None:
        Path(path).write_bytes(content)

    return write


def stage(store: LocalStore, path: str, content: bytes = b"rows") -> StagedFile:
    return store.stage(path, filler(content), num_rows=3, min_time_us=-5, max_time_us=7)


def parquet_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.parquet"))


def staged_files(root: Path) -> list[str]:
    return sorted(os.listdir(root / ".arc/staging"))


def failing(call: str, code: int, *, times: int = 1, path: str = "") -> Callable[[str, str], int]:
    """Refuse the first calls of a kind that concern a path."""
    left = [times]

    def refuse(found: str, where: str) -> int:
        if found != call or path not in where or not left[0]:
            return 0
        left[0] -= 1
        return code

    return refuse


def test_a_published_file_has_its_content_under_its_name(store: LocalStore, tmp_path: Path) -> None:
    staged = stage(store, f"{FOLDER}/{NAME}", b"all of it")
    assert parquet_files(tmp_path) == []
    store.publish([staged])
    assert parquet_files(store.root) == [f"{FOLDER}/{NAME}"]
    assert (store.root / FOLDER / NAME).read_bytes() == b"all of it"


def test_a_published_file_keeps_its_staged_name_until_its_commit_is_in(store: LocalStore) -> None:
    staged = [stage(store, f"{FOLDER}/{NAME}", b"all of it")]
    store.publish(staged)
    assert os.path.samefile(staged[0].temporary, store.root / FOLDER / NAME)
    store.unstage(staged)
    assert staged_files(store.root) == []
    assert (store.root / FOLDER / NAME).read_bytes() == b"all of it"


def test_a_staged_file_says_what_a_table_must_know(store: LocalStore) -> None:
    staged = stage(store, f"{FOLDER}/{NAME}", b"12345")
    assert isinstance(staged, FileEntry)
    found = (staged.path, staged.size_bytes, staged.num_rows, staged.min_time_us)
    assert found == (f"{FOLDER}/{NAME}", 5, 3, -5)
    assert staged.max_time_us == 7


def test_pyarrow_writes_straight_into_a_staged_file(store: LocalStore) -> None:
    table = pa.table({"time": [1, 2, 3]})
    staged = store.stage(
        f"{FOLDER}/{NAME}",
        lambda path: pq.write_table(table, path),
        num_rows=3,
        min_time_us=1,
        max_time_us=3,
    )
    store.publish([staged])
    assert pq.read_table(store.root / FOLDER / NAME) == table
    assert (store.root / FOLDER / NAME).stat().st_size == staged.size_bytes


def test_no_name_ends_in_parquet_while_a_file_is_written(store: LocalStore) -> None:
    seen: list[str] = []

    def write(path: str) -> None:
        Path(path).write_bytes(b"half")
        seen.extend([path, *parquet_files(store.root)])

    store.stage(f"{FOLDER}/{NAME}", write, num_rows=1, min_time_us=0, max_time_us=0)
    assert len(seen) == 1
    assert not seen[0].endswith(".parquet")


def test_everything_happens_in_the_order_that_survives_a_power_cut(
    store: LocalStore, calls: RecordingCalls
) -> None:
    paths = [f"{FOLDER}/{NAME}", f"{FOLDER}/{file_name(0, 1, 43, 44)}", f"{NEXT_FOLDER}/{NAME}"]
    staged = [stage(store, path) for path in paths]
    assert [call for call, _ in calls.take_log()] == ["create", "sync"] * 3
    store.publish(staged)
    above = ["db", "db/cpu", "db/cpu/2026", "db/cpu/2026/01", "db/cpu/2026/01/02"]
    assert calls.take_log() == [
        *[("make_directory", path) for path in [*above, FOLDER, NEXT_FOLDER]],
        ("sync_directory", ".arc/staging"),
        *[("link", path) for path in paths],
        *[("sync_directory", path) for path in [NEXT_FOLDER, FOLDER, *reversed(above), "."]],
    ]


def test_a_folder_that_is_known_costs_one_sync_however_many_files_it_gets(
    store: LocalStore, calls: RecordingCalls
) -> None:
    store.publish([stage(store, f"{FOLDER}/{NAME}")])
    more = [stage(store, f"{FOLDER}/{file_name(0, 1, 43 + i, 43 + i)}") for i in range(20)]
    calls.take_log()
    store.publish(more)
    log = calls.take_log()
    assert log[0] == ("sync_directory", ".arc/staging")
    assert [call for call, _ in log[1:-1]] == ["link"] * 20
    assert log[-1] == ("sync_directory", FOLDER)


def test_a_folder_that_another_process_made_is_not_trusted_to_be_on_the_disk(
    store: LocalStore, calls: RecordingCalls
) -> None:
    (store.root / FOLDER).mkdir(parents=True)
    store.publish([stage(store, f"{FOLDER}/{NAME}")])
    synced = [path for call, path in calls.take_log() if call == "sync_directory"]
    assert synced == [".arc/staging", FOLDER, *[str(path) for path in Path(FOLDER).parents]]


def test_a_new_data_directory_is_synced_into_the_ones_above_it(tmp_path: Path) -> None:
    calls = RecordingCalls(tmp_path)
    LocalStore(tmp_path / "a/b", calls)
    assert calls.take_log() == [
        ("make_directory", "a"),
        ("sync_directory", "."),
        ("make_directory", "a/b"),
        ("sync_directory", "a"),
        ("make_directory", "a/b/.arc"),
        ("make_directory", "a/b/.arc/locks"),
        ("make_directory", "a/b/.arc/staging"),
        ("sync_directory", "a/b/.arc"),
        ("sync_directory", "a/b"),
    ]


def test_only_the_owner_can_read_what_the_store_makes(store: LocalStore) -> None:
    store.publish([stage(store, f"{FOLDER}/{NAME}")])
    for path in [store.root, *store.root.rglob("*")]:
        wanted = 0o600 if path.is_file() else 0o700
        assert stat.S_IMODE(path.stat().st_mode) == wanted


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyboardInterrupt()])
def test_a_write_that_raises_leaves_nothing_and_its_error_comes_out(
    store: LocalStore, error: BaseException
) -> None:
    def write(path: str) -> None:
        Path(path).write_bytes(b"half of the ro")
        raise error

    with pytest.raises(type(error)) as raised:
        store.stage(f"{FOLDER}/{NAME}", write, num_rows=1, min_time_us=0, max_time_us=0)
    assert raised.value is error
    assert staged_files(store.root) == []


def test_a_write_that_removes_its_own_file_when_it_fails_is_understood(store: LocalStore) -> None:
    def write(path: str) -> None:
        os.unlink(path)
        raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(StorageError, match="No space left on device"):
        store.stage(f"{FOLDER}/{NAME}", write, num_rows=1, min_time_us=0, max_time_us=0)


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_only_a_part_of_a_file_leaves_nothing_and_is_named(
    store: LocalStore,
) -> None:
    table = pa.table({"value": list(range(100_000))})
    with (
        files_no_larger_than(65_536),
        pytest.raises(StorageError, match=rf"cannot write .*{NAME}: File too large \(EFBIG\)"),
    ):
        store.stage(
            f"{FOLDER}/{NAME}",
            lambda path: pq.write_table(table, path),
            num_rows=1,
            min_time_us=0,
            max_time_us=0,
        )
    assert staged_files(store.root) == []
    assert parquet_files(store.root) == []
    store.publish([stage(store, f"{FOLDER}/{NAME}")])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["create", "sync"])
def test_a_refused_stage_names_the_file_and_the_reason_and_leaves_nothing(
    store: LocalStore, calls: RecordingCalls, call: str, code: int
) -> None:
    calls.refuse = failing(call, code)
    with pytest.raises(StorageError) as refusal:
        stage(store, f"{FOLDER}/{NAME}")
    reason = f"{os.strerror(code)} ({errno.errorcode[code]})"
    assert str(refusal.value) == f"cannot write {store.root}/{FOLDER}/{NAME}: {reason}"
    assert staged_files(store.root) == []
    store.publish([stage(store, f"{FOLDER}/{NAME}")])


PUBLISH_STEPS = [
    ("make_directory", "db/cpu/2026"),
    ("sync_directory", ".arc/staging"),
    ("link", f"{NEXT_FOLDER}/{NAME}"),
    ("sync_directory", NEXT_FOLDER),
    ("sync_directory", "db/cpu/2026/01"),
]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
@pytest.mark.parametrize(("call", "path"), PUBLISH_STEPS)
def test_a_refused_publish_shows_none_of_its_files_and_can_be_repeated(
    store: LocalStore, calls: RecordingCalls, call: str, path: str, code: int
) -> None:
    staged = [stage(store, f"{folder}/{NAME}", folder.encode()) for folder in (FOLDER, NEXT_FOLDER)]
    calls.refuse = failing(call, code, path=path)
    with pytest.raises(StorageError) as refusal:
        store.publish(staged)
    assert str(store.root / path) in str(refusal.value)
    assert str(refusal.value).endswith(f"{os.strerror(code)} ({errno.errorcode[code]})")
    assert parquet_files(store.root) == []
    calls.take_log()
    store.publish(staged)
    # Linked and synced anew: a second sync of an unchanged directory would prove nothing.
    log = calls.take_log()
    assert [call for call, _ in log].count("link") == 2
    assert {("sync_directory", str(above)) for above in Path(FOLDER).parents} <= set(log)
    for folder in (FOLDER, NEXT_FOLDER):
        assert (store.root / folder / NAME).read_text() == folder


def refuse_one_folder_and_all_removals(call: str, path: str) -> int:
    """A disk that links two files, fails to sync the second folder, and then takes nothing."""
    if call == "sync_directory" and path == NEXT_FOLDER:
        return errno.EIO
    return errno.EROFS if call == "remove" else 0


def test_a_publish_that_could_not_be_undone_is_completed_by_the_next(
    store: LocalStore, calls: RecordingCalls
) -> None:
    staged = [stage(store, f"{FOLDER}/{NAME}"), stage(store, f"{NEXT_FOLDER}/{NAME}")]
    calls.refuse = refuse_one_folder_and_all_removals
    with pytest.raises(StorageError, match=r"cannot sync .*\(EIO\)"):
        store.publish(staged)
    store.discard(staged)
    assert parquet_files(store.root) == [f"{FOLDER}/{NAME}", f"{NEXT_FOLDER}/{NAME}"]
    assert len(store.staged(0)) == 2  # what is in doubt can be found by the next start
    calls.refuse = lambda call, path: 0
    calls.take_log()
    store.publish(staged)
    assert [call for call, _ in calls.take_log()].count("link") == 2
    store.unstage(staged)
    assert parquet_files(store.root) == [f"{FOLDER}/{NAME}", f"{NEXT_FOLDER}/{NAME}"]
    assert staged_files(store.root) == []


def test_a_publish_that_could_not_be_undone_may_be_repeated_with_files_staged_anew(
    store: LocalStore, calls: RecordingCalls
) -> None:
    paths = [f"{FOLDER}/{NAME}", f"{NEXT_FOLDER}/{NAME}"]
    staged = [stage(store, path, b"first") for path in paths]
    calls.refuse = refuse_one_folder_and_all_removals
    with pytest.raises(StorageError):
        store.publish(staged)
    calls.refuse = lambda call, path: 0
    store.discard(staged)
    second = [stage(store, path, b"second") for path in paths]
    store.publish(second)
    store.unstage(second)
    assert {(store.root / path).read_bytes() for path in paths} == {b"second"}
    assert staged_files(store.root) == []
    with pytest.raises(IngestError, match="BUG"):
        store.publish([stage(store, paths[0], b"third")])


def test_a_disk_that_refuses_for_long_does_not_fill_with_staged_files(
    store: LocalStore, calls: RecordingCalls
) -> None:
    for _ in range(5):
        staged = [stage(store, f"{NEXT_FOLDER}/{NAME}")]
        calls.refuse = refuse_one_folder_and_all_removals
        with pytest.raises(StorageError):
            store.publish(staged)
        calls.refuse = lambda call, path: 0
        store.discard(staged)
    assert len(store.staged(0)) == 1


def test_a_publish_that_is_taken_back_leaves_no_name_on_the_disk(
    store: LocalStore, calls: RecordingCalls
) -> None:
    staged = [stage(store, f"{folder}/{NAME}") for folder in (FOLDER, NEXT_FOLDER)]
    store.publish(staged)
    calls.take_log()
    store.take_back(staged)
    assert parquet_files(store.root) == []
    assert calls.take_log() == [
        *[("remove", f"{folder}/{NAME}") for folder in (FOLDER, NEXT_FOLDER)],
        *[("sync_directory", folder) for folder in (NEXT_FOLDER, FOLDER)],
    ]
    store.publish(staged)
    assert len(parquet_files(store.root)) == 2


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named(
    store: LocalStore, calls: RecordingCalls, code: int
) -> None:
    calls.refuse = failing("link", code)
    with pytest.raises(StorageError, match="the file system has no hard links"):
        store.publish([stage(store, f"{FOLDER}/{NAME}")])
    assert parquet_files(store.root) == []


def test_a_name_that_was_given_by_a_call_that_failed_is_taken_back(
    store: LocalStore, calls: RecordingCalls
) -> None:
    staged = [stage(store, f"{FOLDER}/{NAME}")]
    note = store.stage_note("s000-a", b"")

    def link_and_fail(call: str, path: str) -> int:
        if call != "link":
            return 0
        source = note if path.endswith(".json") else staged[0].temporary
        os.link(source, store.root / path)
        return errno.EIO

    calls.refuse = link_and_fail
    with pytest.raises(StorageError):
        store.publish(staged)
    with pytest.raises(StorageError):
        store.put_if_absent(note, "db/0.json")
    assert parquet_files(store.root) == []
    assert not (store.root / "db/0.json").exists()


def test_publishing_what_is_no_longer_staged_takes_nothing_away(store: LocalStore) -> None:
    staged = [stage(store, f"{FOLDER}/{NAME}")]
    store.publish(staged)
    store.unstage(staged)
    with pytest.raises(StorageError):
        store.publish(staged)
    assert parquet_files(store.root) == [f"{FOLDER}/{NAME}"]


def test_publishing_twice_changes_nothing(store: LocalStore) -> None:
    staged = [stage(store, f"{FOLDER}/{NAME}", b"once")]
    store.publish(staged)
    inode = (store.root / FOLDER / NAME).stat().st_ino
    store.publish(staged)
    assert (store.root / FOLDER / NAME).stat().st_ino == inode


def test_a_file_that_has_its_name_is_never_replaced(store: LocalStore) -> None:
    store.publish([stage(store, f"{FOLDER}/{NAME}", b"first")])
    second = [stage(store, f"{NEXT_FOLDER}/{NAME}"), stage(store, f"{FOLDER}/{NAME}", b"second")]
    with pytest.raises(IngestError, match=r"BUG: .* is there already") as defect:
        store.publish(second)
    assert not isinstance(defect.value, StorageError)
    assert (store.root / FOLDER / NAME).read_bytes() == b"first"
    assert parquet_files(store.root) == [f"{FOLDER}/{NAME}"]


def test_a_staged_file_that_somebody_took_away_is_reported(store: LocalStore) -> None:
    staged = stage(store, f"{FOLDER}/{NAME}")
    os.unlink(staged.temporary)
    with pytest.raises(StorageError, match=r"cannot publish .* \(ENOENT\)"):
        store.publish([staged])


def test_a_folder_that_somebody_removed_is_made_again(store: LocalStore) -> None:
    store.publish([stage(store, f"{FOLDER}/{NAME}")])
    (store.root / FOLDER / NAME).unlink()
    (store.root / FOLDER).rmdir()
    again = [stage(store, f"{FOLDER}/{NAME}")]
    with pytest.raises(StorageError):
        store.publish(again)
    store.publish(again)
    assert parquet_files(store.root) == [f"{FOLDER}/{NAME}"]


def test_a_file_where_a_folder_should_be_is_reported(store: LocalStore) -> None:
    (store.root / "db").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot make .*/db/cpu: Not a directory \(ENOTDIR\)"):
        store.publish([stage(store, f"{FOLDER}/{NAME}")])


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write everywhere, so be somebody else for a while."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_directory_that_may_not_be_written_is_reported(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    staged = [stage(store, f"{FOLDER}/{NAME}")]
    tmp_path.chmod(0o500)
    with without_privileges():
        with pytest.raises(StorageError, match=r"cannot make .*: Permission denied \(EACCES\)"):
            store.publish(staged)
        with pytest.raises(StorageError, match=r"\(EACCES\)"):
            LocalStore(tmp_path / "below")
    tmp_path.chmod(0o700)
    store.publish(staged)


def test_discarded_files_are_gone_and_may_be_discarded_twice(store: LocalStore) -> None:
    staged = [stage(store, f"{FOLDER}/{NAME}"), stage(store, f"{NEXT_FOLDER}/{NAME}")]
    store.discard(staged)
    store.discard(staged)
    assert staged_files(store.root) == []


def test_a_start_finds_what_its_own_shard_left_behind_and_nothing_else(
    store: LocalStore, tmp_path: Path
) -> None:
    mine = [stage(store, f"{folder}/{NAME}") for folder in (FOLDER, NEXT_FOLDER)]
    note = store.stage_note("s000-note", b"to whom it may concern")
    theirs = [stage(store, f"{FOLDER}/{file_name(shard, 1, 1, 1)}") for shard in (1, 10, 1000)]
    (store.root / ".arc/staging/s000-notes.txt").write_bytes(b"")
    restarted = LocalStore(tmp_path / "data")
    wanted = sorted([*[Path(file.temporary) for file in mine], note])
    assert restarted.staged(0) == wanted
    assert restarted.staged(1000) == [Path(theirs[-1].temporary)]
    for path in wanted:
        restarted.remove_staged(path)
    assert restarted.staged(0) == []


def test_what_a_start_stages_never_meets_what_was_left_behind(
    store: LocalStore, tmp_path: Path
) -> None:
    left = stage(store, f"{FOLDER}/{NAME}")
    again = stage(LocalStore(tmp_path / "data"), f"{FOLDER}/{NAME}")
    assert left.temporary != again.temporary


def test_a_leftover_that_cannot_be_removed_is_reported(
    store: LocalStore, calls: RecordingCalls
) -> None:
    stage(store, f"{FOLDER}/{NAME}")
    calls.refuse = failing("remove", errno.EIO)
    with pytest.raises(StorageError, match=r"cannot remove .*staging.* \(EIO\)"):
        store.remove_staged(store.staged(0)[0])


def test_a_name_that_is_put_is_put_once_and_durably(
    store: LocalStore, calls: RecordingCalls
) -> None:
    first, second = store.stage_note("s000-a", b"first"), store.stage_note("s000-a", b"second")
    calls.take_log()
    assert store.put_if_absent(first, "db/cpu/_delta_log/0.json")
    assert calls.take_log() == [
        *[("make_directory", path) for path in ("db", "db/cpu", "db/cpu/_delta_log")],
        ("link", "db/cpu/_delta_log/0.json"),
        *[("sync_directory", path) for path in ("db/cpu/_delta_log", "db/cpu", "db", ".")],
    ]
    assert not store.put_if_absent(second, "db/cpu/_delta_log/0.json")
    assert (store.root / "db/cpu/_delta_log/0.json").read_bytes() == b"first"


def test_a_name_that_cannot_be_synced_is_taken_back_or_in_doubt(
    store: LocalStore, calls: RecordingCalls
) -> None:
    note = store.stage_note("s000-a", b"content")
    calls.refuse = failing("sync_directory", errno.EIO)
    with pytest.raises(StorageError) as refusal:
        store.put_if_absent(note, "db/0.json")
    assert not isinstance(refusal.value, InDoubtError)
    assert not (store.root / "db/0.json").exists()
    calls.refuse = failing("sync_directory", errno.EIO, times=2)
    with pytest.raises(InDoubtError):
        store.put_if_absent(note, "db/0.json")
    calls.refuse = lambda call, path: 0
    assert store.put_if_absent(note, "db/0.json")


def test_a_lock_holds_between_threads(store: LocalStore) -> None:
    inside, most = [0], [0]

    def enter() -> None:
        for _ in range(50):
            with store.locked("07.lock"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    with LocalStore(store.root).locked("07.lock"), store.locked("08.lock"):
        pass


def test_free_space_is_what_the_file_system_says(store: LocalStore) -> None:
    found = os.statvfs(store.root)
    whole = found.f_blocks * found.f_frsize
    assert 0 <= store.free_bytes() <= whole


def test_a_file_system_that_does_not_answer_is_reported(
    store: LocalStore, calls: RecordingCalls
) -> None:
    calls.refuse = failing("free_bytes", errno.EIO)
    with pytest.raises(StorageError, match=r"\(EIO\)"):
        store.free_bytes()


@pytest.mark.parametrize("path", ["", "/etc/x", "a//b", "../x", "a/../../x", "a/./b", "a/"])
def test_a_path_that_leads_out_of_the_store_is_a_defect(store: LocalStore, path: str) -> None:
    with pytest.raises(IngestError, match="BUG"):
        stage(store, path)


def test_threads_can_publish_into_the_same_new_folders(store: LocalStore) -> None:
    staged = [
        [stage(store, f"db/cpu/2026/01/02/{hour:02d}/{file_name(0, 1, n, n)}") for hour in range(5)]
        for n in range(8)
    ]
    start, failures = threading.Barrier(len(staged)), []

    def publish(files: list[StagedFile]) -> None:
        start.wait()
        try:
            store.publish(files)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(files,)) for files in staged]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(parquet_files(store.root)) == 40
