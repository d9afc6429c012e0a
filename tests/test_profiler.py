"""The sampler that a worker has in itself, and the sockets by which all workers are asked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import pytest
import structlog

from arc.profiler import collapsed
from arc.profiler.sampler import NATIVE, NotHereError, Sampler
from arc.profiler.samples import Frame, Stack, WorkerSamples, parse_raw
from arc.profiler_socket import (
    BusyError,
    NobodyError,
    ProfileServer,
    from_bytes,
    gather,
    profile_socket,
    to_bytes,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="profiles are taken on Linux only")

RATE_HZ = 250
LOG = structlog.get_logger()


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Leave SIGPROF as it was."""
    before = signal.getsignal(signal.SIGPROF)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def burn(cpu_s: float) -> int:
    """Use processor time of this thread, in calls of Python."""
    end_s, count = time.thread_time() + cpu_s, 0
    while time.thread_time() < end_s:
        count = _next(count)
    return count


def _next(count: int) -> int:
    return count + 1


def other_burn(cpu_s: float) -> int:
    """The same under another name."""
    return burn(cpu_s)


def taken(sampler: Sampler) -> WorkerSamples:
    return sampler.stop(3, os.getpid())


def samples_of(seen: WorkerSamples, function: str, thread: str | None = None) -> int:
    return sum(
        count
        for stack, count in seen.stacks.items()
        if thread in (None, stack.thread) and any(f.name == function for f in stack.frames)
    )


def test_time_goes_to_the_functions_that_use_it() -> None:
    sampler = Sampler(RATE_HZ)
    sampler.start()
    burn(0.2)
    other_burn(0.6)
    seen = taken(sampler)
    assert sampler.defect is None
    assert (seen.shard, seen.pid, seen.rate_hz) == (3, os.getpid(), RATE_HZ)
    both, second = samples_of(seen, "burn"), samples_of(seen, "other_burn")
    assert both == pytest.approx(0.8 * RATE_HZ, rel=0.15)
    assert second == pytest.approx(0.75 * both, abs=0.1 * both)
    [file] = {f.file for stack in seen.stacks for f in stack.frames if f.name == "other_burn"}
    assert file == "tests/test_profiler.py"


def test_all_processor_time_of_the_process_is_in_the_samples() -> None:
    sampler = Sampler(RATE_HZ)
    sampler.start()
    burn(0.5)
    seen = taken(sampler)
    counted = sum(seen.stacks.values()) / RATE_HZ + seen.own_s
    assert counted == pytest.approx(seen.cpu_s, rel=0.1, abs=0.02)
    assert 0 < seen.own_s < 0.2 * seen.cpu_s


def test_a_thread_at_work_is_seen_under_its_name_and_one_that_waits_is_not() -> None:
    sampler = Sampler(RATE_HZ)
    with ThreadPoolExecutor(2, thread_name_prefix="arc-flush") as pool:
        pool.submit(threading.Event().wait, 0.01).result()
        sampler.start()
        under_way = pool.submit(other_burn, 0.3)
        while not under_way.done():
            wait([under_way], timeout=0.005)  # an event loop is woken by signals; this by time
        burn(0.05)
        seen = taken(sampler)
    assert samples_of(seen, "other_burn", "arc-flush") > 0.5 * 0.3 * RATE_HZ
    assert samples_of(seen, "other_burn", "MainThread") == 0
    innermost = {s.frames[-1].name for s in seen.stacks if s.thread == "arc-flush"}
    assert not innermost & {"_worker", "Event.wait", "Condition.wait"}


def test_a_frame_that_was_only_just_entered_is_not_charged() -> None:
    sampler = Sampler(RATE_HZ)
    sampler.start()
    burn(0.3)
    seen = taken(sampler)
    at_entry = {s.frames[-1].line for s in seen.stacks if s.frames[-1].name == "_next"}
    first_line = _next.__code__.co_firstlineno
    assert first_line not in at_entry


def test_after_the_end_the_signal_does_nothing() -> None:
    sampler = Sampler(RATE_HZ)
    sampler.start()
    burn(0.05)
    taken(sampler)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    os.kill(os.getpid(), signal.SIGPROF)
    assert signal.getsignal(signal.SIGPROF) is signal.SIG_IGN


def test_what_goes_wrong_in_the_handler_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: FrameType | None) -> None:
        raise KeyError("broken")

    sampler = Sampler(RATE_HZ)
    monkeypatch.setattr(sampler, "_tick", broken)
    sampler.start()
    burn(0.1)
    taken(sampler)
    assert isinstance(sampler.defect, KeyError)


def test_a_forked_process_samples_its_own_main_thread() -> None:
    program = (
        "import os, sys, time\n"
        "from arc.profiler.sampler import Sampler\n"
        "pid = os.fork()\n"
        "if pid: sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "sampler = Sampler(250); sampler.start()\n"
        "end = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass\n"
        "seen = sampler.stop(0, os.getpid())\n"
        "sys.exit(0 if sampler.defect is None and sum(seen.stacks.values()) > 10 else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_another_system_hears_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotHereError, match="Linux"):
        Sampler(RATE_HZ)


# ---------------------------------------------------------------------------------------- sockets

SEEN = WorkerSamples(
    shard=1,
    pid=7,
    rate_hz=100,
    rounds=500,
    lost=0,
    stacks={
        Stack("MainThread", (Frame("f", "a.py", 3), Frame("g;h", "b c.py", 9))): 4,
        Stack("arc-flush", (Frame("f", "a.py", 3),)): 2,
        NATIVE: 1,
    },
    cpu_s=0.07,
    own_s=0.001,
)


def test_samples_pass_the_socket_unchanged() -> None:
    assert from_bytes(to_bytes(SEEN)) == SEEN


def test_collapsed_stacks_are_read_back() -> None:
    found = parse_raw(collapsed.collapsed([SEEN, SEEN]))
    assert sum(found.values()) == 14
    assert found[Stack("arc-flush", (Frame("f", "a.py", 3),))] == 4
    assert Stack("native", (Frame("[threads without Python]", ""),)) in found


@asynccontextmanager
async def servers(run_dir: Path, count: int) -> AsyncIterator[list[ProfileServer]]:
    """As many workers as asked for; all in this process, so that only one can sample at a time."""
    made = [ProfileServer(run_dir, shard, LOG) for shard in range(count)]
    for server in made:
        await server.start()
    try:
        yield made
    finally:
        for server in made:
            await server.stop()


async def test_a_worker_samples_itself_for_so_long(tmp_path: Path) -> None:
    async with servers(tmp_path, 1):
        profile = await gather(tmp_path, 2, 0.2, RATE_HZ)
    [samples] = profile.workers
    assert samples.pid == os.getpid()
    assert samples.rounds >= 0.2 * RATE_HZ
    assert profile.missing == [1]
    assert list(tmp_path.iterdir()) == []


async def test_a_second_one_is_told_for_how_long_to_wait(tmp_path: Path) -> None:
    async with servers(tmp_path, 1) as [server]:
        first = asyncio.ensure_future(gather(tmp_path, 1, 30, RATE_HZ))
        await until_sampling()
        with pytest.raises(BusyError) as caught:
            await gather(tmp_path, 1, 1, RATE_HZ)
        assert 1 <= caught.value.left_s <= 30
        await server.stop()
        assert len((await first).workers) == 1  # what was seen until the worker stopped


async def test_it_ends_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    async with servers(tmp_path, 1):
        first = asyncio.ensure_future(gather(tmp_path, 1, 60, RATE_HZ))
        await until_sampling()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await until_idle()
        assert len((await gather(tmp_path, 1, 0.05, RATE_HZ)).workers) == 1


async def until_sampling() -> None:
    while signal.getitimer(signal.ITIMER_PROF)[1] == 0.0:
        await asyncio.sleep(0)


async def until_idle() -> None:
    while signal.getitimer(signal.ITIMER_PROF)[1] != 0.0:
        await asyncio.sleep(0)


async def test_without_a_worker_there_is_nothing_to_sample(tmp_path: Path) -> None:
    profile_socket(tmp_path, 0).touch()  # as one that was killed leaves it
    with pytest.raises(NobodyError, match="no worker"):
        await gather(tmp_path, 1, 1, RATE_HZ)


async def test_nonsense_on_the_socket_harms_nobody(tmp_path: Path) -> None:
    async with servers(tmp_path, 1):
        for line in (b"\n", b"{}\n", b'{"seconds": "x"}\n', b"\xff" * 100_000 + b"\n"):
            reader, writer = await asyncio.open_unix_connection(str(profile_socket(tmp_path, 0)))
            writer.write(line)
            assert await reader.read() == b""
            writer.close()
        assert len((await gather(tmp_path, 1, 0.05, RATE_HZ)).workers) == 1
