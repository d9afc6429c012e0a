"""Profiles of all workers of a daemon, whichever of them is asked.

In: a duration. Out: what every worker saw of itself meanwhile. Each worker has a Unix socket,
`.arc/run/profile-{shard}.sock`, and samples itself for as long as somebody is connected to it, at
most for the time that was asked for; one at a time. `gather` asks them all, its own worker
included, in the order of their shards, so that of two who ask at once one gets all of them and
the other none. A connection is one line of JSON in either direction, and then the samples. What
a killed worker leaves refuses connections, until its successor takes its place.

Nothing here samples, draws or knows HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from structlog.typing import FilteringBoundLogger

from arc.profiler.sampler import NotHereError, Sampler
from arc.profiler.samples import Frame, Stack, WorkerSamples
from arc.query.socket_path import SocketPath, SocketPathError, listen

#: The longest that a worker samples itself, whoever asks.
MAX_SECONDS = 60

#: For what a worker does at once: accept, answer, encode what it saw.
_ANSWER_S = 10.0
_BACKLOG = 8


class BusyError(Exception):
    """A profile is being taken. `left_s` is how long that goes on."""

    def __init__(self, left_s: float) -> None:
        super().__init__(f"another profile is being taken, for {left_s:.0f} s more")
        self.left_s = left_s


class NobodyError(Exception):
    """No worker could be sampled; the message says why."""


class _Ask(msgspec.Struct, frozen=True):
    seconds: float
    rate_hz: int


class _Begun(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says at once: nothing when it samples, or why not."""

    busy_s: float = 0.0
    refused: str = ""


class _Seen(msgspec.Struct, frozen=True):
    """`WorkerSamples`, every frame written once."""

    shard: int
    pid: int
    rate_hz: int
    rounds: int
    cpu_s: float
    own_s: float
    frames: list[Frame]
    stacks: list[tuple[str, list[int], int]]


class Profile(NamedTuple):
    """Of one daemon: what was seen, and the shards that nothing was heard of."""

    workers: list[WorkerSamples]
    missing: list[int]


def profile_socket(run_dir: Path, shard: int) -> Path:
    """Where a worker can be asked."""
    return run_dir / f"profile-{shard:03d}.sock"


def to_bytes(samples: WorkerSamples) -> bytes:
    """Samples as `from_bytes` reads them."""
    index: dict[Frame, int] = {}
    stacks = [
        (stack.thread, [index.setdefault(f, len(index)) for f in stack.frames], count)
        for stack, count in samples.stacks.items()
    ]
    s = samples
    seen = _Seen(
        s.shard, s.pid, s.rate_hz, s.rounds, s.cpu_s, s.own_s, frames=list(index), stacks=stacks
    )
    return msgspec.msgpack.encode(seen)


def from_bytes(content: bytes) -> WorkerSamples:
    """What `to_bytes` wrote.

    Raises:
        msgspec.MsgspecError: it is not whole.
    """
    seen = msgspec.msgpack.decode(content, type=_Seen)
    stacks = {
        Stack(thread, tuple(seen.frames[number] for number in numbers)): count
        for thread, numbers, count in seen.stacks
    }
    return WorkerSamples(
        shard=seen.shard,
        pid=seen.pid,
        rate_hz=seen.rate_hz,
        rounds=seen.rounds,
        lost=0,
        stacks=stacks,
        cpu_s=seen.cpu_s,
        own_s=seen.own_s,
    )


class ProfileServer:
    """Samples this worker for those who connect. Made, started and stopped on the event loop.

    Args:
        run_dir: Of the daemon.
        shard: Number of this worker.
        log: Told of defects.
    """

    def __init__(self, run_dir: Path, shard: int, log: FilteringBoundLogger) -> None:
        self._path = profile_socket(run_dir, shard)
        self._shard = shard
        self._log = log
        self._server: asyncio.Server | None = None
        self._ends_s = 0.0  # monotonic time at which the session under way ends; 0: there is none
        self._stopping = asyncio.Event()
        self._sessions: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen. A path that no socket can have is no reason not to serve."""
        try:
            listener = listen(self._path, _BACKLOG)
        except SocketPathError as error:
            self._log.warning("no_profiles", error=str(error))
            return
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def stop(self) -> None:
        """End the session under way, which gives what it has seen, and take no more."""
        if self._server is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._stopping.set()
        self._server.close()
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=_ANSWER_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "BUG: called outside a task"
        self._sessions.add(task)
        try:
            async with asyncio.timeout(_ANSWER_S):
                ask = msgspec.json.decode(await reader.readline(), type=_Ask)
            await self._answer(ask, reader, writer)
        except (OSError, TimeoutError, ValueError):
            pass  # the asker is gone, hangs, or is no worker of this version
        except Exception:
            self._log.exception("profile_failed")
        finally:
            self._sessions.discard(task)
            writer.close()

    async def _answer(
        self, ask: _Ask, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        left_s = self._ends_s - time.monotonic()
        if self._ends_s:
            await _send(writer, msgspec.json.encode(_Begun(busy_s=max(1.0, left_s))) + b"\n")
            return
        seconds = min(ask.seconds, MAX_SECONDS)
        self._ends_s = time.monotonic() + seconds
        try:
            samples = await self._sample(ask.rate_hz, seconds, reader, writer)
        except NotHereError as error:
            await _send(writer, msgspec.json.encode(_Begun(refused=str(error))) + b"\n")
            return
        finally:
            self._ends_s = 0.0
        if samples is not None:
            await _send(writer, await asyncio.to_thread(to_bytes, samples))

    async def _sample(
        self,
        rate_hz: int,
        seconds: float,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> WorkerSamples | None:
        """One session; None when the asker went away, and nobody wants to know."""
        sampler = Sampler(rate_hz)
        gone = asyncio.ensure_future(reader.read(1))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await _send(writer, msgspec.json.encode(_Begun()) + b"\n")
            sampler.start()
            try:
                waited_for = (gone, stopping)
                when = asyncio.FIRST_COMPLETED
                await asyncio.wait(waited_for, timeout=seconds, return_when=when)
            finally:
                samples = sampler.stop(self._shard, os.getpid())
            if sampler.defect is not None:
                self._log.error("profile_broke_off", exc_info=sampler.defect)
            return None if gone.done() else samples
        finally:
            gone.cancel()
            stopping.cancel()


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(content)
    async with asyncio.timeout(_ANSWER_S):
        await writer.drain()


# --------------------------------------------------------------------------------------- asking


class _Asked:
    """One worker that samples itself for us, until this is closed."""

    def __init__(
        self, shard: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.shard = shard
        self._reader = reader
        self._writer = writer

    async def begin(self, ask: _Ask) -> None:
        """Have it begin.

        Raises:
            BusyError: it does so for another already.
            NobodyError: it cannot.
            OSError: it went away, or does not answer.
        """
        async with asyncio.timeout(_ANSWER_S):
            self._writer.write(msgspec.json.encode(ask) + b"\n")
            line = await self._reader.readline()
        if not line:
            raise ConnectionError("the worker went away")
        begun = msgspec.json.decode(line, type=_Begun)
        if begun.busy_s:
            raise BusyError(begun.busy_s)
        if begun.refused:
            raise NobodyError(begun.refused)

    async def seen(self) -> WorkerSamples | None:
        """What it has seen; None when it went away."""
        try:
            return from_bytes(await self._reader.read())
        except (OSError, msgspec.MsgspecError):
            return None

    def close(self) -> None:
        """Let it go; it stops at once."""
        self._writer.close()


async def _connect(run_dir: Path, shard: int) -> _Asked:
    name = SocketPath(profile_socket(run_dir, shard))
    try:
        return _Asked(shard, *await asyncio.open_unix_connection(name.name))
    finally:
        name.close()


async def gather(run_dir: Path, num_workers: int, seconds: float, rate_hz: int) -> Profile:
    """Have all workers sample themselves at the same time. Cancelled, it ends them all.

    Args:
        run_dir: Of the daemon.
        num_workers: How many it has.
        seconds: For how long, `MAX_SECONDS` at the most.
        rate_hz: Samples for a second of processor time.

    Raises:
        BusyError: another profile is being taken.
        NobodyError: no worker could be sampled.
    """
    asked: list[_Asked] = []
    try:
        for shard in range(num_workers):
            with contextlib.suppress(OSError, SocketPathError):
                worker = await _connect(run_dir, shard)
                asked.append(worker)
                try:
                    await worker.begin(_Ask(seconds, rate_hz))
                except OSError:
                    asked.remove(worker)
                    worker.close()
        found = await asyncio.gather(*(worker.seen() for worker in asked))
    finally:
        for worker in asked:
            worker.close()
    return _profile([samples for samples in found if samples], num_workers)


def _profile(workers: Sequence[WorkerSamples], num_workers: int) -> Profile:
    if not workers:
        raise NobodyError("no worker could be sampled: they are starting or being restarted")
    seen = {samples.shard for samples in workers}
    return Profile(list(workers), [n for n in range(num_workers) if n not in seen])
