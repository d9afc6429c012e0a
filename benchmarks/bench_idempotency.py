"""What an `Idempotency-Key` costs: the window of all workers, and the digest of the body.

Keys of 36 bytes, as a UUID has. "beside another" lets a second process do the same as fast as it
can all the while, which no worker does.

    python -m benchmarks.bench_idempotency
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Bench, main
from ingest.clock import SystemClock
from ingest.idempotency import DIGEST_BYTES, KeyEntry, KeyJournal, KeyWindow, body_digest

WINDOW_S = 600.0
KEYS = 1_000
FULL_KEYS = 500_000

#: Endless: the benchmark beside it ends it.
OTHER = """
import sys
from pathlib import Path
from benchmarks.bench_idempotency import Window
window = Window(Path(sys.argv[1]), 1)
print("ready", flush=True)
while True:
    window.one_by_one(100)
"""


class Window:
    """A window, and keys that it has not seen."""

    def __init__(self, path: Path, shard: int = 0, full_keys: int = 0) -> None:
        self.path = path
        self._clock = SystemClock()
        self._window = KeyWindow(path, shard, WINDOW_S, self._clock)
        self._numbers = itertools.count()
        self._salt = os.urandom(8).hex()
        now_us = self._clock.now_us()
        self._window.restore(
            KeyEntry(i, self._key(), bytes(DIGEST_BYTES), now_us) for i in range(full_keys)
        )

    def _key(self) -> bytes:
        # Scattered as a UUID is: the worst for a tree.
        spread = next(self._numbers) * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF
        return f"{spread:016x}-{self._salt}".encode().ljust(36, b"-")

    def one_by_one(self, count: int = KEYS) -> int:
        """Begin and finish keys, each for itself; how many were new."""
        new = 0
        for _ in range(count):
            key = self._key()
            new += self._window.begin(key, bytes(DIGEST_BYTES))
            self._window.finish([key])
        return new

    def in_groups(self, size: int = 16) -> int:
        """The same with one `finish` for several."""
        new = 0
        for _ in range(KEYS // size):
            keys = [self._key() for _ in range(size)]
            new += sum(self._window.begin(key, bytes(DIGEST_BYTES)) for key in keys)
            self._window.finish(keys)
        return new

    def repeat(self) -> int:
        """Ask for one stored key again and again; how often it was new."""
        key = self._key()
        new = int(self._window.begin(key, bytes(DIGEST_BYTES)))
        self._window.finish([key])
        return new + sum(self._window.begin(key, bytes(DIGEST_BYTES)) for _ in range(KEYS))

    def start_another(self) -> subprocess.Popen[str]:
        """A process that begins and finishes keys in the same file until it is killed."""
        command = [sys.executable, "-c", OTHER, str(self.path)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        return other

    def beside_another(self, other: subprocess.Popen[str]) -> int:
        """`one_by_one` beside a process that does the same; ends it."""
        try:
            return self.one_by_one()
        finally:
            other.kill()
            other.communicate()


def expect(wanted: int) -> Callable[[int], None]:
    """A check for one number."""

    def check(found: int) -> None:
        assert found == wanted, (found, wanted)

    return check


def note_and_keep(folder: Path) -> int:
    """Note keys and bring them to the disk; how many were read again."""
    clock = SystemClock()
    journal = KeyJournal(folder, WINDOW_S, clock)
    now_us = clock.now_us()
    for lsn in range(1, KEYS + 1):
        journal.note(KeyEntry(lsn, b"%036d" % lsn, bytes(DIGEST_BYTES), now_us))
    journal.keep(KEYS)
    found = len(KeyJournal(folder, WINDOW_S, clock).load())
    for path in folder.iterdir():
        path.unlink()
    return found


def benches(folder: Path) -> list[Bench]:
    """One row is one key. The bytes are of the keys; for a digest, of the body."""
    alone, full = Window(folder / "alone.db"), Window(folder / "full.db", full_keys=FULL_KEYS)
    size_bytes = full.path.stat().st_size
    print(f"{FULL_KEYS} keys of 36 bytes: {size_bytes / FULL_KEYS:.0f} bytes of the file each")
    journal = folder / "journal"
    journal.mkdir()
    groups = KEYS // 16 * 16
    cases: list[tuple[str, Callable[[], int], int, int]] = [
        ("begin and finish", alone.one_by_one, KEYS, KEYS),
        ("begin 16, finish 16 at once", alone.in_groups, groups, groups),
        ("begin a stored key", alone.repeat, KEYS, 1),
        (f"begin and finish among {FULL_KEYS} keys", full.one_by_one, KEYS, KEYS),
        ("note, keep and load", lambda: note_and_keep(journal), KEYS, KEYS),
    ]
    out = [Bench(name, fn, rows, 36 * rows, expect(new)) for name, fn, rows, new in cases]
    shared = Window(folder / "shared.db")
    out.append(
        Bench(
            "begin and finish beside another",
            shared.beside_another,
            KEYS,
            36 * KEYS,
            expect(KEYS),
            setup=shared.start_another,
        )
    )
    for size in (300, 40_000, 4_000_000):
        body = os.urandom(size)

        def digest(body: bytes = body) -> int:
            return len(body_digest("db", None, body))

        out.append(Bench(f"digest of {size} bytes", digest, 1, size, expect(DIGEST_BYTES)))
    return out


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        raise SystemExit(main(benches(Path(temporary))))
