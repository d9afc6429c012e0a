"""One key, one copy: whoever asks, in whatever order, and whoever is killed meanwhile."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.clock import ManualClock
from ingest.errors import (
    IngestError,
    KeyInFlightError,
    KeyReusedError,
    ReplayingError,
    StorageError,
)
from ingest.idempotency import DIGEST_BYTES, KeyEntry, KeyJournal, KeyWindow, body_digest
from ingest.timestamps import TimeUnit

ROOT = Path(__file__).resolve().parent.parent
WINDOW_S = 600.0
KEY, OTHER_KEY = b"4711", b"4712"
BODY, OTHER_BODY = b"a" * DIGEST_BYTES, b"b" * DIGEST_BYTES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data/.arc/run/keys.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(elapsed_s=10.0)  # less than a window after the boot


@pytest.fixture
def open_window(path: Path, clock: ManualClock) -> Iterator[Callable[..., KeyWindow]]:
    """Opens windows on one file, as the workers of a daemon do."""
    opened: list[KeyWindow] = []

    def open_one(
        shard: int = 0, busy_timeout_s: float = 10.0, shards: Iterable[int] = ()
    ) -> KeyWindow:
        opened.append(KeyWindow(path, shard, WINDOW_S, clock, busy_timeout_s, shards))
        return opened[-1]

    yield open_one
    for window in opened:
        window.close()


@pytest.fixture
def window(open_window: Callable[..., KeyWindow]) -> KeyWindow:
    return open_window()


def answer(window: KeyWindow, key: bytes = KEY, digest: bytes = BODY) -> object:
    """What `begin` says: True, False, or the class of its error."""
    try:
        return window.begin(key, digest)
    except IngestError as error:
        return type(error)


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM keys").fetchone()[0])


def entry(clock: ManualClock, key: bytes = KEY, age_s: float = 0.0, lsn: int = 1) -> KeyEntry:
    return KeyEntry(lsn, key, BODY, clock.wall_us - round(age_s * 1e6))


# --- what a key means ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "digest", "wanted"),
    [
        ([], BODY, True),
        (["begin"], BODY, KeyInFlightError),
        (["begin"], OTHER_BODY, KeyReusedError),
        (["begin", "finish"], BODY, False),
        (["begin", "finish"], OTHER_BODY, KeyReusedError),
        (["begin", "abandon"], BODY, True),
        (["begin", "abandon"], OTHER_BODY, True),
        (["begin", "abandon", "begin"], BODY, KeyInFlightError),
        (["begin", "finish", "abandon"], BODY, False),
        (["finish"], BODY, True),
        (["abandon"], BODY, True),
        (["restore"], BODY, False),
        (["restore"], OTHER_BODY, KeyReusedError),
        (["restore", "forget"], BODY, False),
        (["begin", "restore"], BODY, False),
        (["begin", "restore", "forget"], BODY, False),
        (["begin", "forget"], BODY, True),
        (["begin", "forget"], OTHER_BODY, True),
        (["begin", "finish", "forget"], BODY, False),
        (["begin", "finish", "window"], BODY, False),
        (["begin", "finish", "over"], BODY, True),
        (["begin", "finish", "over"], OTHER_BODY, True),
        (["begin", "over"], BODY, KeyInFlightError),
        (["begin", "over"], OTHER_BODY, KeyReusedError),
        (["begin", "over", "finish"], BODY, True),
        (["restore", "over"], BODY, True),
        (["begin", "finish", "over", "begin"], BODY, KeyInFlightError),
        (["begin", "finish", "over", "begin", "finish", "window"], BODY, False),
        (["begin", "finish", "clock set back"], BODY, False),
        (["begin", "finish", "clock set forward"], BODY, False),
    ],
)
@pytest.mark.parametrize("same_worker", [True, False])
def test_a_key_means_what_happened_to_it(
    open_window: Callable[..., KeyWindow],
    clock: ManualClock,
    before: list[str],
    digest: bytes,
    wanted: object,
    same_worker: bool,
) -> None:
    window = open_window()
    steps: dict[str, Callable[[], object]] = {
        "begin": lambda: window.begin(KEY, BODY),
        "finish": lambda: window.finish([KEY]),
        "abandon": lambda: window.abandon(KEY),
        "restore": lambda: window.restore([entry(clock)]),
        "forget": window.forget_in_flight,
        "window": lambda: clock.move(WINDOW_S),
        "over": lambda: clock.move(WINDOW_S + 0.001),
        "clock set back": lambda: setattr(clock, "wall_us", clock.wall_us - 3_600_000_000),
        "clock set forward": lambda: setattr(clock, "wall_us", clock.wall_us + 3_600_000_000),
    }
    for step in before:
        steps[step]()
    assert answer(window if same_worker else open_window(1), digest=digest) is wanted


def test_keys_do_not_touch_one_another(window: KeyWindow) -> None:
    assert window.begin(KEY, BODY)
    assert window.begin(OTHER_KEY, BODY)
    window.abandon(OTHER_KEY)
    assert answer(window) is KeyInFlightError
    window.finish([KEY])
    assert window.begin(OTHER_KEY, OTHER_BODY)


def test_many_keys_are_finished_at_once(window: KeyWindow) -> None:
    keys = [b"%d" % i for i in range(100)]
    assert [window.begin(key, BODY) for key in keys] == [True] * 100
    window.finish(keys[:99])
    assert [window.begin(key, BODY) for key in keys[:99]] == [False] * 99
    assert answer(window, keys[99]) is KeyInFlightError


def test_a_worker_cannot_finish_or_abandon_the_key_of_another(
    open_window: Callable[..., KeyWindow],
) -> None:
    first, second = open_window(0), open_window(1)
    first.begin(KEY, BODY)
    second.finish([KEY])
    second.abandon(KEY)
    second.forget_in_flight()
    assert answer(second) is KeyInFlightError
    first.finish([KEY])
    assert answer(second) is False


@pytest.mark.parametrize("key", [b"\x00", b"\xff" * 64, b"'; --", "é".encode(), b"a\n"])
def test_a_key_may_hold_any_bytes(window: KeyWindow, key: bytes) -> None:
    assert window.begin(key, BODY)
    window.finish([key])
    assert window.begin(key, BODY) is False
    with pytest.raises(KeyReusedError) as refusal:
        window.begin(key, OTHER_BODY)
    assert str(refusal.value).isprintable()


def test_a_refusal_names_the_key_shortened_and_the_window(window: KeyWindow) -> None:
    key = b"550e8400-e29b-41d4-a716-446655440000"
    window.begin(key, BODY)
    with pytest.raises(KeyReusedError, match=r"Key '550e8400-e29b-41'… came .* last 600 s; use a"):
        window.begin(key, OTHER_BODY)
    with pytest.raises(KeyInFlightError, match=r"Key '550e8400-e29b-41'… is not answered") as early:
        window.begin(key, BODY)
    assert early.value.retry_after_s == 1


def test_keys_whose_time_is_up_leave_the_file_while_others_come(
    window: KeyWindow, path: Path, clock: ManualClock
) -> None:
    for i in range(100):
        window.begin(b"old %d" % i, BODY)
    window.finish([b"old %d" % i for i in range(99)])  # and one is in flight for ever
    clock.move(WINDOW_S + 1)
    counts = [rows(path)]
    for i in range(100):
        window.begin(b"new %d" % i, BODY)
        window.finish([b"new %d" % i])
        counts.append(rows(path))
    assert min(after - before for before, after in itertools.pairwise(counts)) == -1
    assert counts[-1] == 101
    assert answer(window, b"old 99") is KeyInFlightError


MODEL_KEYS = (b"a", b"b", b"c")
STEPS = st.one_of(
    st.tuples(
        st.just("begin"),
        st.integers(0, 1),
        st.sampled_from(MODEL_KEYS),
        st.sampled_from([BODY, OTHER_BODY]),
    ),
    st.tuples(st.just("finish"), st.integers(0, 1), st.sets(st.sampled_from(MODEL_KEYS))),
    st.tuples(st.just("abandon"), st.integers(0, 1), st.sampled_from(MODEL_KEYS)),
    st.tuples(st.just("forget"), st.integers(0, 1)),
    st.tuples(st.just("move"), st.sampled_from([1.0, WINDOW_S / 2, WINDOW_S + 1])),
)


class Model:
    """The window as a dict: digest, shard or None, and when it began."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.keys: dict[bytes, tuple[bytes, int | None, float]] = {}

    def begin(self, shard: int, key: bytes, digest: bytes) -> object:
        known = self.keys.get(key)
        if known and known[1] is None and self.clock.elapsed_s - known[2] > WINDOW_S:
            known = None
        if known is None:
            self.keys[key] = (digest, shard, self.clock.elapsed_s)
            return True
        if known[0] != digest:
            return KeyReusedError
        return False if known[1] is None else KeyInFlightError

    def settle(self, shard: int, keys: set[bytes], is_stored: bool) -> None:
        for key in keys:
            known = self.keys.get(key)
            if known and known[1] == shard:
                del self.keys[key]
                if is_stored:
                    self.keys[key] = (known[0], None, known[2])


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=40))
def test_the_window_is_a_dict_with_an_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    clock = ManualClock()
    model = Model(clock)
    path = tmp_path_factory.mktemp("window") / "keys.db"
    with (
        closing(KeyWindow(path, 0, WINDOW_S, clock)) as first,
        closing(KeyWindow(path, 1, WINDOW_S, clock)) as second,
    ):
        windows = (first, second)
        for what, *args in steps:
            if what == "begin":
                shard, key, digest = args
                assert answer(windows[shard], key, digest) == model.begin(shard, key, digest)
            elif what == "finish":
                windows[args[0]].finish(list(args[1]))
                model.settle(args[0], args[1], True)
            elif what == "abandon":
                windows[args[0]].abandon(args[1])
                model.settle(args[0], {args[1]}, False)
            elif what == "forget":
                windows[args[0]].forget_in_flight()
                model.settle(args[0], set(model.keys), False)
            else:
                clock.move(args[0])


# --- the start of a shard --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "left_s"),
    [(0.0, 600.0), (599.0, 1.0), (600.0, 0.0), (-3600.0, 600.0)],
    ids=["new", "old", "oldest", "from the future"],
)
def test_a_restored_key_counts_for_the_rest_of_its_window(
    window: KeyWindow, clock: ManualClock, age_s: float, left_s: float
) -> None:
    window.restore([entry(clock, age_s=age_s)])
    clock.move(left_s)
    assert answer(window) is False
    clock.move(0.001)
    assert answer(window) is True


def test_a_key_whose_time_was_up_is_not_restored(
    window: KeyWindow, path: Path, clock: ManualClock
) -> None:
    window.restore([entry(clock, age_s=WINDOW_S + 1)])
    assert rows(path) == 0


def test_restoring_more_than_a_batch_and_twice_changes_nothing(
    window: KeyWindow, path: Path, clock: ManualClock
) -> None:
    entries = [entry(clock, b"%d" % i, age_s=i / 10, lsn=i) for i in range(2_500)]
    window.restore(entries)
    window.restore(iter(reversed(entries)))
    assert rows(path) == 2_500
    clock.move(WINDOW_S - 200)
    assert answer(window, b"1999") is False
    assert answer(window, b"2001") is True


def test_a_restored_key_does_not_shorten_the_window_that_is_there(
    window: KeyWindow, clock: ManualClock
) -> None:
    window.begin(KEY, BODY)
    window.finish([KEY])
    window.restore([entry(clock, age_s=500)])
    clock.move(500)
    assert answer(window) is False


def test_a_key_that_is_in_flight_with_another_body_or_shard_is_not_restored(
    open_window: Callable[..., KeyWindow], clock: ManualClock
) -> None:
    first, second = open_window(0), open_window(1)
    first.begin(KEY, OTHER_BODY)
    first.begin(OTHER_KEY, BODY)
    first.restore([entry(clock)])
    second.restore([entry(clock, OTHER_KEY)])
    assert answer(second, KEY, OTHER_BODY) is KeyInFlightError
    assert answer(second, OTHER_KEY) is KeyInFlightError


def test_forgetting_looks_through_the_whole_file(
    open_window: Callable[..., KeyWindow], clock: ManualClock
) -> None:
    predecessor = open_window(0)
    predecessor.begin(b"first", BODY)
    predecessor.restore([entry(clock, b"%d" % i) for i in range(25_000)])
    predecessor.begin(b"last", BODY)
    predecessor.close()
    successor = open_window(0)
    successor.forget_in_flight()
    assert successor.begin(b"first", BODY)
    assert successor.begin(b"last", BODY)
    assert successor.begin(b"12345", BODY) is False


def test_no_key_is_taken_before_every_shard_has_read_its_own(
    open_window: Callable[..., KeyWindow], clock: ManualClock
) -> None:
    first, second = open_window(0, shards=[0, 1]), open_window(1, shards=[0, 1])
    first.forget_in_flight()
    with pytest.raises(ReplayingError, match=r"1 shards have not read their idempotency keys"):
        first.begin(KEY, BODY)
    second.restore([entry(clock)])
    assert answer(first) is ReplayingError
    second.forget_in_flight()
    assert answer(first) is False
    assert answer(second) is False


def test_a_worker_that_starts_again_holds_no_one_up(
    open_window: Callable[..., KeyWindow],
) -> None:
    first = open_window(0, shards=[0])
    first.forget_in_flight()
    again = open_window(0, shards=[0])
    assert again.begin(KEY, BODY)
    assert answer(first) is KeyInFlightError


def test_the_file_and_its_folder_are_for_the_owner_only(window: KeyWindow, path: Path) -> None:
    window.begin(KEY, BODY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(f"{path}-journal").stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_journal_that_was_left_without_its_file_does_no_harm(
    window: KeyWindow, open_window: Callable[..., KeyWindow], path: Path
) -> None:
    window.begin(KEY, BODY)
    path.unlink()
    assert open_window().begin(KEY, BODY)


# --- what refuses ----------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize(
    "call",
    [
        lambda window: window.begin(OTHER_KEY, BODY),
        lambda window: window.finish([KEY]),
        lambda window: window.abandon(KEY),
        lambda window: window.forget_in_flight(),
        lambda window: window.restore([KeyEntry(1, KEY, BODY, 1_700_000_000_000_000)]),
    ],
    ids=["begin", "finish", "abandon", "forget_in_flight", "restore"],
)
def test_a_window_that_stays_locked_is_a_storage_error(
    open_window: Callable[..., KeyWindow], path: Path, call: Callable[[KeyWindow], object]
) -> None:
    window = open_window(busy_timeout_s=0.01)
    window.begin(KEY, BODY)
    with locked(path), pytest.raises(StorageError, match=r"idempotency keys .*locked"):
        call(window)
    window.begin(b"third", BODY)


@pytest.mark.parametrize(("is_stored", "wanted"), [(True, False), (False, True)])
@pytest.mark.parametrize("how", ["begin", "finish nothing", "abandon another"])
def test_what_could_not_be_written_is_made_up_for(
    open_window: Callable[..., KeyWindow], path: Path, is_stored: bool, wanted: bool, how: str
) -> None:
    window, other = open_window(0, 0.01), open_window(1)
    window.begin(KEY, BODY)
    with locked(path), pytest.raises(StorageError):
        window.finish([KEY]) if is_stored else window.abandon(KEY)
    assert answer(other) is KeyInFlightError
    if how == "begin":
        window.begin(OTHER_KEY, BODY)
    elif how == "finish nothing":
        window.finish([])
    else:
        window.abandon(OTHER_KEY)
    assert answer(other) is wanted


def test_a_file_that_is_no_window_is_a_storage_error(path: Path, clock: ManualClock) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1_000)
    with pytest.raises(StorageError, match=r"idempotency keys .*: file is not a database"):
        KeyWindow(path, 0, WINDOW_S, clock)


def test_a_folder_that_cannot_be_made_is_a_storage_error(
    tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="idempotency keys"):
        KeyWindow(tmp_path / "file/keys.db", 0, WINDOW_S, clock)


# --- several processes -----------------------------------------------------------------------

RACER = """
import sys
from pathlib import Path
from ingest.clock import SystemClock
from ingest.errors import KeyInFlightError
from ingest.idempotency import KeyWindow
window = KeyWindow(Path(sys.argv[1]), int(sys.argv[2]), 600.0, SystemClock(), 30.0)
print("ready", flush=True)
sys.stdin.readline()
for i in range(500):
    key = b"%d" % i
    try:
        if window.begin(key, bytes(16)):
            print(i)
            window.finish([key])
    except KeyInFlightError:
        pass
"""

VICTIM = """
import sys
from pathlib import Path
from ingest.clock import SystemClock
from ingest.idempotency import KeyWindow
window = KeyWindow(Path(sys.argv[1]), 0, 600.0, SystemClock())
for i in range(10**9):
    keys = [b"%s %d %d" % (sys.argv[2].encode(), i, j) for j in range(5)]
    for key in keys:
        assert window.begin(key, bytes(16))
    window.abandon(keys[0])
    window.finish(keys[1:4])
    print(i, flush=True)
"""


@contextmanager
def python(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of this Python; killed at the end if it still runs."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_of_two_processes_that_race_for_a_key_one_gets_it(path: Path) -> None:
    with python(RACER, path, 0) as first, python(RACER, path, 1) as second:
        assert read_line(first) == read_line(second) == "ready\n"
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        took = [process.stdout.read().split() for process in (first, second) if process.stdout]
        assert first.wait() == second.wait() == 0
    assert sorted(map(int, took[0] + took[1])) == list(range(500))


def test_a_process_that_is_killed_leaves_a_window_to_go_on_with(
    path: Path, clock: ManualClock
) -> None:
    for life in range(8):
        with python(VICTIM, path, life) as victim:
            for _ in range(10 + 7 * life):
                finished = int(read_line(victim))
            victim.send_signal(signal.SIGKILL)
            assert victim.stdout is not None
            finished = max([finished, *map(int, victim.stdout.read().splitlines())])
        with closing(KeyWindow(path, 1, WINDOW_S, clock)) as other:
            name = b"%d %d " % (life, finished)
            said = [answer(other, name + b"%d" % j, bytes(16)) for j in range(5)]
            assert said == [True, False, False, False, KeyInFlightError]
            other.abandon(name + b"0")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with closing(KeyWindow(path, 0, WINDOW_S, clock)) as successor:
        successor.forget_in_flight()
        assert successor.begin(name + b"4", bytes(16))


# --- digests ---------------------------------------------------------------------------------


def test_a_digest_is_the_same_for_the_same_request_only() -> None:
    bodies = [b"", b"x", b"1 0  db", b"\0"]
    requests = [
        (database, unit, body)
        for database in ("d", "db", "db1", "1")
        for unit in (None, *TimeUnit)
        for body in bodies
    ]
    digests = [body_digest(*request) for request in requests]
    assert len(set(digests)) == len(requests)
    assert [body_digest(*request) for request in requests] == digests
    assert {len(digest) for digest in digests} == {DIGEST_BYTES}


@given(
    st.tuples(st.text(), st.sampled_from([None, *TimeUnit]), st.binary()),
    st.tuples(st.text(), st.sampled_from([None, *TimeUnit]), st.binary()),
)
def test_no_part_of_a_request_passes_for_another(
    first: tuple[str, TimeUnit | None, bytes], second: tuple[str, TimeUnit | None, bytes]
) -> None:
    assert (body_digest(*first) == body_digest(*second)) == (first == second)


# --- the journal -----------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path, clock: ManualClock) -> KeyJournal:
    return KeyJournal(tmp_path, WINDOW_S, clock)


def reopened(folder: Path, clock: ManualClock) -> KeyJournal:
    return KeyJournal(folder, WINDOW_S, clock)


def test_a_kept_key_is_there_after_a_restart(
    journal: KeyJournal, tmp_path: Path, path: Path, clock: ManualClock
) -> None:
    journal.note(entry(clock))
    journal.keep(1)
    clock.elapsed_s = 5.0  # another boot
    clock.wall_us += 60_000_000
    with closing(KeyWindow(path, 0, WINDOW_S, clock, shards=[0])) as window:
        window.restore(reopened(tmp_path, clock).load())
        window.forget_in_flight()
        clock.move(WINDOW_S - 60)
        assert window.begin(KEY, BODY) is False
        clock.move(0.001)
        assert window.begin(KEY, BODY) is True


@given(
    entries=st.lists(
        st.builds(
            KeyEntry,
            st.integers(1, 2**63 - 1),
            st.binary(min_size=1, max_size=64),
            st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES),
            st.integers(1_700_000_000_000_000, 2**62),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_entries_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, entries: list[KeyEntry]
) -> None:
    folder, clock = tmp_path_factory.mktemp("keys"), ManualClock()
    journal = reopened(folder, clock)
    for one in entries:
        journal.note(one)
    journal.keep(2**63 - 1)
    assert reopened(folder, clock).load() == entries


def test_a_key_is_written_once(journal: KeyJournal, tmp_path: Path, clock: ManualClock) -> None:
    journal.note(entry(clock, b"a", lsn=1))
    journal.keep(5)
    journal.keep(9)
    journal.note(entry(clock, b"b", lsn=10))
    journal.keep(19)
    found = [path.name for path in sorted(tmp_path.iterdir())]
    assert found == ["keys-0000000000000000005-000.bin", "keys-0000000000000000019-000.bin"]
    assert [one.key for one in reopened(tmp_path, clock).load()] == [b"a", b"b"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_nothing_is_written_for_a_part_of_the_log_without_keys(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    journal.keep(5)
    journal.note(entry(clock, lsn=10))
    journal.keep(9)
    assert list(tmp_path.iterdir()) == []
    journal.keep(10)
    assert len(reopened(tmp_path, clock).load()) == 1


def test_a_file_is_never_replaced(journal: KeyJournal, tmp_path: Path, clock: ManualClock) -> None:
    journal.note(entry(clock, b"before the restart"))
    journal.keep(5)
    again = reopened(tmp_path, clock)
    again.note(entry(clock, b"after it"))
    again.keep(5)
    assert {one.key for one in reopened(tmp_path, clock).load()} == {
        b"before the restart",
        b"after it",
    }


def test_more_than_a_chunk_is_kept(journal: KeyJournal, tmp_path: Path, clock: ManualClock) -> None:
    for lsn in range(1, 5_001):
        journal.note(entry(clock, b"%064d" % lsn, lsn=lsn))
    journal.keep(5_000)
    assert len(reopened(tmp_path, clock).load()) == 5_000


def test_a_file_goes_when_its_window_is_over(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    journal.note(entry(clock))
    journal.keep(1)
    clock.move(WINDOW_S)
    journal.keep(2)
    assert len(reopened(tmp_path, clock).load()) == 1
    clock.move(0.001)
    journal.keep(3)
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_window_was_over_before_the_restart_goes_when_it_is_loaded(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    journal.note(entry(clock, b"a"))
    journal.note(entry(clock, b"b", age_s=-1))
    journal.keep(1)
    clock.move(WINDOW_S + 0.5)
    assert [one.key for one in reopened(tmp_path, clock).load()] == [b"b"]
    clock.move(1)
    assert reopened(tmp_path, clock).load() == []
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_file_goes_when_its_window_is_over(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    journal.note(entry(clock))
    journal.keep(1)
    again = reopened(tmp_path, clock)
    again.load()
    clock.move(WINDOW_S + 1)
    again.keep(2)
    assert list(tmp_path.iterdir()) == []


def test_what_was_noted_is_forgotten_when_its_window_is_over(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    journal.note(entry(clock))
    clock.move(WINDOW_S + 1)
    journal.keep(1)
    assert list(tmp_path.iterdir()) == []


def test_a_step_of_the_wall_clock_forgets_nothing_while_the_process_lives(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    journal.note(entry(clock, b"a"))
    clock.wall_us += 3_600_000_000
    journal.keep(1)
    journal.note(entry(clock, b"b"))
    clock.wall_us -= 3_600_000_000
    journal.keep(2)
    assert [one.key for one in reopened(tmp_path, clock).load()] == [b"a", b"b"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:8] + bytes([data[8] ^ 1]) + data[9:],
        lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
)
def test_a_damaged_file_is_passed_over_and_counted(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock, damage: Callable[[bytes], bytes]
) -> None:
    journal.note(entry(clock, b"a"))
    journal.keep(1)
    (whole,) = tmp_path.iterdir()
    journal.note(entry(clock, b"b", lsn=2))
    journal.keep(2)
    whole.write_bytes(damage(whole.read_bytes()))
    again = reopened(tmp_path, clock)
    assert [one.key for one in again.load()] == [b"b"]
    assert again.damaged == [whole]
    clock.move(WINDOW_S + 1)
    again.keep(3)
    assert list(tmp_path.iterdir()) == []


def test_half_a_file_of_a_killed_process_is_removed(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "keys-0000000000000000001-000.new").write_bytes(b"half")
    (tmp_path / "000000000001.log").write_bytes(b"not ours")
    assert journal.load() == []
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001.log"]


def test_a_disk_that_refuses_loses_no_key(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    folder = tmp_path / "log"
    journal = reopened(folder, clock)
    journal.note(entry(clock))
    with pytest.raises(FileNotFoundError):
        journal.keep(1)
    folder.mkdir()
    journal.keep(1)
    assert len(reopened(folder, clock).load()) == 1


@pytest.mark.parametrize("syncs_before", [0, 1], ids=["of the file", "of the folder"])
def test_a_sync_that_fails_leaves_no_file(
    journal: KeyJournal,
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    syncs_before: int,
) -> None:
    real, calls = os.fsync, itertools.count()

    def refuse(descriptor: int) -> None:
        if next(calls) == syncs_before:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    journal.note(entry(clock))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            journal.keep(1)
    assert list(tmp_path.iterdir()) == []
    journal.keep(1)
    assert len(reopened(tmp_path, clock).load()) == 1


def test_keys_that_come_while_others_are_kept_are_not_lost(
    journal: KeyJournal, tmp_path: Path, clock: ManualClock
) -> None:
    noted = itertools.count(1)
    halt = threading.Event()

    def note() -> None:
        for lsn in noted:
            if halt.is_set():
                return
            journal.note(entry(clock, b"%d" % lsn, lsn=lsn))

    thread = threading.Thread(target=note)
    thread.start()
    try:
        for _ in range(10):
            journal.keep(2**63 - 1)
    finally:
        halt.set()
        thread.join()
    journal.keep(2**63 - 1)
    count = next(noted) - 2
    found = [one.lsn for one in reopened(tmp_path, clock).load()]
    assert sorted(found) == list(range(1, count + 1))


def test_an_entry_that_no_request_makes_is_a_defect(
    journal: KeyJournal, clock: ManualClock
) -> None:
    for wrong in (KeyEntry(1, KEY, b"short", 0), KeyEntry(1, b"k" * 65, BODY, 0)):
        with pytest.raises(IngestError, match="BUG"):
            journal.note(wrong)
