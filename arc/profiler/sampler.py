"""What the threads of this process do, sampled from within: no tool, no right to trace, no pause.

In: a rate. Out, from `Sampler.stop`: the stacks that were seen, each with the processor time spent
on it, in samples of 1 / rate seconds. Linux only. It starts no thread, and between two sessions it
does nothing at all.

A timer of the kernel (`ITIMER_PROF`, setitimer(2)) runs on the processor time of the process and
sends SIGPROF; Python calls its handler on the main thread, before the next instruction that it
runs there. So the event loop is caught where it is, whether it gives up the interpreter's lock
there or not; a thread that sampled would wait for that lock, and see the loop at the points where
it is given up (benchmarks/profiling/bench_sampler.py has both, beside py-spy). The handler asks
the kernel for the processor time of every thread, and enters what a thread has used since the
last tick under the stack that it is on now:

* a thread that waits now did its work on another stack; it is entered at the next tick that finds
  it elsewhere;
* a frame that has only just been entered has used nothing: the time is its caller's;
* time of threads without Python (the pools of Arrow) stands under one frame that says so.

The main thread must be woken by signals while it waits, as an event loop is that handles any by
itself (`signal.set_wakeup_fd`): otherwise what happens meanwhile is entered when it wakes.

A system call that SIGPROF comes into goes on (SA_RESTART), and the handler's own time is left
out, but told.
"""

from __future__ import annotations

import dis
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath
from types import CodeType, FrameType

from arc.profiler.samples import Frame, Stack, WorkerSamples, pool_name
from arc.profiler.stages import Stage, stage_of_frame

#: Stands for the time of threads that run no Python.
NATIVE = Stack("native", (Frame("[threads without Python]", ""),))

_RESUME = dis.opmap["RESUME"]
_NS = 1_000_000_000

#: A frame as it is kept until the end: nothing is looked up while the process is held up.
_Place = tuple[CodeType, int]


class NotHereError(Exception):
    """This system does not tell the processor time of one thread from that of another."""


@dataclass(slots=True)
class _Thread:
    """What is known of one thread: its clock, what that showed last, and what is not entered."""

    name: str
    clock: int
    last_ns: int
    due_ns: int = 0


class Sampler:
    """One session. Made, started and stopped on the main thread.

    Attributes:
        defect: What went wrong in the handler, after which nothing is sampled any more.

    Args:
        rate_hz: Samples for a second of processor time.
    """

    def __init__(self, rate_hz: int) -> None:
        self.defect: Exception | None = None
        if sys.platform != "linux":
            raise NotHereError("profiles are taken on Linux only")
        self._period_ns = _NS // rate_hz
        self._rate_hz = rate_hz
        self._stacks: Counter[tuple[str, tuple[_Place, ...]]] = Counter()
        self._threads: dict[int, _Thread] = {}
        self._waiting: dict[CodeType, bool] = {}
        self._native = 0
        self._native_due_ns = 0
        self._own_ns = 0
        self._main = threading.get_ident()
        self._strange: set[int] = set()  # threads that Python did not start, such as a library's
        self._is_ticking = False

    def start(self) -> None:
        """Begin to sample."""
        self._started_s = time.monotonic()
        self._meet(after_start=False)
        self._process_ns = self._process_before_ns = time.process_time_ns()
        signal.signal(signal.SIGPROF, self._on_tick)
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, 1 / self._rate_hz, 1 / self._rate_hz)

    def stop(self, shard: int, pid: int) -> WorkerSamples:
        """End, and say what was seen. A tick that is still under way is ignored.

        Args:
            shard: Which worker this is.
            pid: Its process id.
        """
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        took_s = time.monotonic() - self._started_s
        cpu_ns = time.process_time_ns() - self._process_before_ns
        return WorkerSamples(
            shard=shard,
            pid=pid,
            rate_hz=self._rate_hz,
            rounds=round(took_s * self._rate_hz),
            lost=0,
            stacks=self._named(),
            cpu_s=cpu_ns / _NS,
            own_s=self._own_ns / _NS,
        )

    # --- at every tick ------------------------------------------------------------------------

    def _on_tick(self, _number: int, frame: FrameType | None) -> None:
        # What is raised here would be raised in whatever the main thread is doing.
        if self._is_ticking or self.defect is not None:
            return
        self._is_ticking = True
        try:
            self._tick(frame)
        except Exception as error:
            self.defect = error
        finally:
            self._is_ticking = False

    def _tick(self, frame: FrameType | None) -> None:
        process_ns = time.process_time_ns()
        began_ns = time.thread_time_ns()
        spent_ns = 0
        tops = sys._current_frames()
        if not tops.keys() <= self._threads.keys() | self._strange:
            self._meet(after_start=True)
            self._strange = tops.keys() - self._threads.keys()
        for ident, thread in list(self._threads.items()):
            spent_ns += self._look(ident, thread, frame if ident == self._main else tops.get(ident))
        self._enter_native(process_ns - self._process_ns - spent_ns)
        # What the handler took is nobody's.
        main = self._threads[self._main]
        main.last_ns = time.thread_time_ns()
        self._own_ns += main.last_ns - began_ns
        self._process_ns = time.process_time_ns()

    def _look(self, ident: int, thread: _Thread, top: FrameType | None) -> int:
        """Enter the time of one thread; returns how much it has used since the last tick."""
        try:
            now_ns = time.clock_gettime_ns(thread.clock)
        except OSError:  # it has ended
            del self._threads[ident]
            return 0
        spent_ns = now_ns - thread.last_ns
        thread.last_ns = now_ns
        thread.due_ns += spent_ns
        if thread.due_ns >= self._period_ns and top is not None and not self._waits(top.f_code):
            samples, thread.due_ns = divmod(thread.due_ns, self._period_ns)
            self._stacks[thread.name, _places(top)] += samples
        return spent_ns

    def _waits(self, code: CodeType) -> bool:
        """Whether a thread whose innermost function is this one waits for work."""
        waits = self._waiting.get(code)
        if waits is None:
            frame = Frame(code.co_qualname, code.co_filename)
            waits = stage_of_frame(frame, innermost=True) is Stage.IDLE
            self._waiting[code] = waits
        return waits

    def _enter_native(self, spent_ns: int) -> None:
        """Enter time that no thread of Python has used."""
        self._native_due_ns += max(0, spent_ns)
        samples, self._native_due_ns = divmod(self._native_due_ns, self._period_ns)
        self._native += samples

    def _meet(self, *, after_start: bool) -> None:
        """Find the clocks of threads that are not known yet."""
        for found in threading.enumerate():
            if found.ident is None or found.native_id is None or found.ident in self._threads:
                continue
            # After a fork, Python may still have the number of the thread that forked.
            native_id = os.getpid() if found.ident == self._main else found.native_id
            clock = _thread_clock(native_id)
            try:
                last_ns = 0 if after_start else time.clock_gettime_ns(clock)
            except OSError:
                continue
            self._threads[found.ident] = _Thread(pool_name(found.name), clock, last_ns)

    # --- at the end ---------------------------------------------------------------------------

    def _named(self) -> dict[Stack, int]:
        shorten = _Shortener(sys.path)
        stacks: Counter[Stack] = Counter()
        for (thread, places), samples in self._stacks.items():
            if len(places) > 1 and _just_entered(*places[0]) and not self._waits(places[1][0]):
                places = places[1:]
            frames = (_frame(code, at, shorten) for code, at in reversed(places))
            stacks[Stack(thread, tuple(frames))] += samples
        if self._native:
            stacks[NATIVE] += self._native
        return dict(stacks)


def _thread_clock(native_id: int) -> int:
    """The clock of a thread's processor time, as the kernel numbers it (linux/posix-timers.h).

    Not `time.pthread_getcpuclockid`, which must not be asked for a thread that has just ended.
    """
    return (~native_id << 3) | 6  # CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED


def _places(frame: FrameType | None) -> tuple[_Place, ...]:
    """Where a thread is, innermost first."""
    places = []
    while frame is not None:
        places.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(places)


def _just_entered(code: CodeType, at: int) -> bool:
    """Whether a frame is at the instruction that begins it, or that goes on after an await."""
    return at < 0 or code.co_code[at] == _RESUME


def _frame(code: CodeType, at: int, shorten: _Shortener) -> Frame:
    line = code.co_firstlineno
    for start, end, found in code.co_lines():
        if start <= at < end and found is not None:
            line = found
    return Frame(code.co_qualname, shorten(code.co_filename), line)


class _Shortener:
    """Paths of files below the folders that modules are imported from, as py-spy shows them."""

    def __init__(self, folders: list[str]) -> None:
        resolved = {str(PurePath(folder)) + "/" for folder in folders if folder}
        self._folders = sorted(resolved, key=len, reverse=True)
        self._known: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        if path not in self._known:
            found = next((f for f in self._folders if path.startswith(f)), "")
            self._known[path] = path[len(found) :]
        return self._known[path]
