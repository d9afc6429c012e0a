"""What it costs to have a batch on disk before it is sent.

`append+settle` is a batch's whole life in the spill, the deletion of full segments included; of
450 KB, as 10 000 rows of 45 bytes are, and of 45 KB. `state` is one state byte, `load` a batch read
back, `recover` everything that a dead client left (a hundred batches). `crc` compares three ways to
the same checksum. In the names: `sync` with fdatasync after each append; `busy` while another
thread of the process logs rows without a pause, which is what a producer does: each time that
a call gives up the interpreter's lock it may wait 5 ms to have it again. It ends with the CPU that
a batch takes, which says more than the rest where others use the machine.

    python -m benchmarks.client.bench_spill
    BENCH_DIR=/var/tmp python -m benchmarks.client.bench_spill -k sync
    python -m benchmarks.client.bench_spill -k crc
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isal import isal_zlib

from arc.client.batch import WRITE_MSGPACK, Batch, Kind
from arc.client.spill import Slot, Spill
from arc.client.spill_format import State
from benchmarks.harness import Bench, main

SIZES = {"450 KB": (450_000, 10_000), "45 KB": (45_000, 1_000)}
MAX_BYTES = 1 << 30
IN_A_SAMPLE = 100
RECOVERED = 100
SLICE_BYTES = 5120
CPU_SAMPLES = 9
ROWS_PER_S = 2_000_000


def batch_of(nbytes: int, rows: int, number: int = 0) -> Batch:
    """A batch of random bytes."""
    headers = (("x-arc-database", "default"), ("x-arc-time-unit", "ns"))
    return Batch(
        Kind.MSGPACK,
        WRITE_MSGPACK,
        headers,
        os.urandom(nbytes),
        rows,
        "cpu",
        key=f"{number:032x}",
        created_us=number,
    )


def same(batch: Batch) -> Callable[[Batch], None]:
    """A check that a batch was read back."""

    def check(found: Batch) -> None:
        assert found.body == batch.body
        assert (found.key, found.headers) == (batch.key, batch.headers)

    return check


def nothing_left(spill: Spill) -> Callable[[Any], None]:
    """A check that everything was given back but the segment that is written."""

    def check(_: Any) -> None:
        assert spill.num_bytes <= 17 << 20

    return check


def life(name: str, folder: Path, nbytes: int, rows: int, *, sync: bool = False) -> Bench:
    """Append a batch and settle it."""
    spill, batch = Spill(folder, MAX_BYTES, sync=sync), batch_of(nbytes, rows)
    label = f"append+settle {name}{' sync' if sync else ''}"
    return Bench(
        label, lambda: spill.settle(spill.append(batch)), rows, nbytes, nothing_left(spill)
    )


def read_back(name: str, folder: Path, nbytes: int, rows: int) -> Bench:
    """Load one of eight batches in turn."""
    spill, batch = Spill(folder, MAX_BYTES), batch_of(nbytes, rows)
    slot = [spill.append(batch) for _ in range(8)][3]
    return Bench(f"load {name}", lambda: spill.load(slot), rows, nbytes, same(batch))


def state(folder: Path) -> Bench:
    """Write one state byte."""
    spill = Spill(folder, MAX_BYTES)
    slot = spill.append(batch_of(45_000, 1_000))

    def mark() -> Slot:
        slot.state = State.FRESH
        spill.mark_sent(slot)
        return slot

    def check(found: Slot) -> None:
        assert spill.load(found).in_doubt

    return Bench("state", mark, 1, 1, check)


class Logging:
    """A thread that does what a loop around `client.log` does, until it is stopped."""

    def __init__(self) -> None:
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        rows: list[Any] = []
        while not self._is_stopped:
            rows += ("cpu", time.time_ns(), {"host": "a", "usage": 1.5})
            if len(rows) > 30_000:
                rows = []

    def stop(self) -> None:
        """Join it."""
        self._is_stopped = True
        self._thread.join()


def busy(bench: Bench) -> Bench:
    """The same, a hundred times a sample, beside a thread that logs."""

    def run(logging: Logging) -> Any:
        result = None
        for _ in range(IN_A_SAMPLE):
            result = bench.fn()
        logging.stop()
        return result

    return Bench(
        f"{bench.name} busy",
        run,
        bench.rows * IN_A_SAMPLE,
        bench.nbytes * IN_A_SAMPLE,
        bench.check,
        Logging,
    )


def recover(name: str, folder: Path, nbytes: int, rows: int) -> Bench:
    """Start on what a dead client left: lock, search, load and check everything."""
    spill = Spill(folder, MAX_BYTES)
    for number in range(RECOVERED):
        spill.append(batch_of(nbytes, rows, number))
    spill.close()

    def run() -> list[int]:
        heir = Spill(folder, MAX_BYTES)
        found = [batch.created_us for _, batch in heir.recovered()]
        heir.close()
        return found

    def check(found: list[int]) -> None:
        assert found == list(range(RECOVERED))

    return Bench(f"recover {name}", run, rows * RECOVERED, nbytes * RECOVERED, check)


def in_slices(body: bytes) -> int:
    """isal's, of so few bytes at a time that it does not give up the interpreter's lock."""
    crc, view = 0, memoryview(body)
    for at in range(0, len(view), SLICE_BYTES):
        crc = isal_zlib.crc32(view[at : at + SLICE_BYTES], crc)
    return crc


def checksums() -> list[Bench]:
    """The same CRC-32 in three ways."""
    out = []
    for name, (nbytes, rows) in SIZES.items():
        body = os.urandom(nbytes)
        ways: dict[str, Callable[[], int]] = {
            "zlib": lambda body=body: zlib.crc32(body),  # type: ignore[misc]
            "isal": lambda body=body: isal_zlib.crc32(body),  # type: ignore[misc]
            "slices": lambda body=body: in_slices(body),  # type: ignore[misc]
        }

        def check(found: int, body: bytes = body) -> None:
            assert found == zlib.crc32(body)

        for way, fn in ways.items():
            out.append(Bench(f"crc {way} {name}", fn, rows, nbytes, check))
    return out + [busy(bench) for bench in out]


def benches(folder: Path) -> list[Bench]:
    """Everything, each spill in a directory of its own."""
    out = []
    for name, (nbytes, rows) in SIZES.items():
        place = folder / name.replace(" ", "-")
        out.append(life(name, place / "life", nbytes, rows))
        out.append(busy(life(name, place / "busy", nbytes, rows)))
        out.append(life(name, place / "sync", nbytes, rows, sync=True))
        out.append(read_back(name, place / "load", nbytes, rows))
        out.append(recover(name, place / "recover", nbytes, rows))
    one = state(folder / "state")
    return [*out, one, busy(one), *checksums()]


def show_cpu(folder: Path) -> None:
    """CPU of the calling thread for a batch, which a machine that is shared leaves as it is."""
    for name, (nbytes, rows) in SIZES.items():
        one = life(name, folder / f"cpu-{rows}", nbytes, rows)
        samples = sorted(cpu_s(one.fn) for _ in range(CPU_SAMPLES))
        share = samples[CPU_SAMPLES // 2] * ROWS_PER_S / rows
        print(
            f"{one.name}: CPU {samples[0] * 1e6:.0f} µs at best, "
            f"{samples[CPU_SAMPLES // 2] * 1e6:.0f} µs median; "
            f"{share:.1%} of a core at {ROWS_PER_S:,} rows/s"
        )


def cpu_s(fn: Callable[[], Any]) -> float:
    """Seconds of CPU for one call."""
    start = time.thread_time()
    for _ in range(IN_A_SAMPLE):
        fn()
    return (time.thread_time() - start) / IN_A_SAMPLE


if __name__ == "__main__":
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="arc-bench-", dir=os.environ.get("BENCH_DIR")) as where,
    ):
        code = main(benches(Path(where)))
        show_cpu(Path(where))
        raise SystemExit(code)
