"""What py-spy saw, as values: stacks of frames and how often each was seen. Pure.

In: the text that `py-spy record --format raw --threads` writes. Out: `Stack` -> samples. Nothing
here knows what the functions mean; stages.py does.

One line of the text is one stack, outermost frame first, then its number of samples:

    thread (6895): MainThread;<module> (busy.py:44);decode (busy.py:20) 66

A native frame (`--native`) may lack its line: `epoll_wait (libc.so.6)`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

#: How py-spy names the thread that runs the event loop of a worker.
MAIN_THREAD = "MainThread"

_THREAD = re.compile(r"^thread \((?P<id>\w+)\)(?:: (?P<name>.*))?$")
_FRAME = re.compile(r"^(?P<name>.*) \((?P<file>[^()]*?)(?::(?P<line>\d+))?\)$")


class Frame(NamedTuple):
    """One function on a stack. `file` as py-spy shortens it, `line` 0 where it is not known."""

    name: str
    file: str
    line: int = 0


class Stack(NamedTuple):
    """What one thread was doing: its name, and its frames from the outermost to the innermost."""

    thread: str
    frames: tuple[Frame, ...]

    @property
    def is_event_loop(self) -> bool:
        """Whether this is the thread of the event loop."""
        return self.thread == MAIN_THREAD


class RawFormatError(ValueError):
    """A line that is not what py-spy's raw format is known to be."""

    def __init__(self, line: str) -> None:
        super().__init__(f"not a line of py-spy's raw format: {line[:200]!r}")


@dataclass(frozen=True, slots=True)
class WorkerSamples:
    """All that was seen of one worker.

    Attributes:
        shard: Which worker.
        pid: Its process id.
        rate_hz: Rounds of sampling per second; in one round every thread is looked at once.
        rounds: How many rounds there were, the lost ones included.
        lost: Rounds that gave nothing, since the interpreter changed its frames meanwhile.
        stacks: Samples by stack, threads that the kernel had put to sleep left out.
        cpu_s: Processor time that the kernel counted for the process meanwhile, all threads.
        ended_early: The process was gone before the sampling was over.
        own_s: Processor time of the process that went into sampling itself.
        name: What the process is called when it is no worker; empty for workers.
    """

    shard: int
    pid: int
    rate_hz: int
    rounds: int
    lost: int
    stacks: Mapping[Stack, int]
    cpu_s: float = 0.0
    ended_early: bool = False
    own_s: float = 0.0
    name: str = ""

    @property
    def label(self) -> str:
        """What people call the process."""
        return f"{self.name or f'worker {self.shard}'} (pid {self.pid})"

    @property
    def loop_idle(self) -> int:
        """Rounds in which the event loop had nothing to do.

        A lost round counts as busy: frames change under the reader only while Python runs.
        """
        loop_busy = sum(n for stack, n in self.stacks.items() if stack.is_event_loop)
        return max(0, self.rounds - self.lost - loop_busy)


def parse_raw(text: str) -> dict[Stack, int]:
    """Read py-spy's raw format, written with `--threads`.

    Raises:
        RawFormatError: a line has no count or no frame.
    """
    stacks: Counter[Stack] = Counter()
    for line in text.splitlines():
        if line.strip():
            stack, count = _parse_line(line)
            stacks[stack] += count
    return dict(stacks)


def _parse_line(line: str) -> tuple[Stack, int]:
    path, _, count = line.rpartition(" ")
    if not path or not count.isdigit():
        raise RawFormatError(line)
    parts = path.split(";")
    thread = _THREAD.match(parts[0])
    if thread:
        parts = parts[1:]
    name = _thread_name(thread)
    return Stack(name, tuple(parse_frame(part) for part in parts)), int(count)


def _thread_name(thread: re.Match[str] | None) -> str:
    if thread is None:
        return "?"
    return pool_name(thread["name"] or f"thread {thread['id']}")


def pool_name(name: str) -> str:
    """The name of a thread without the number at its end: threads of one pool are one."""
    return re.sub(r"[-_ ]?\d+$", "", name) or name


def parse_frame(text: str) -> Frame:
    """Read `function (file:line)`; a text without parentheses is a name without a file."""
    match = _FRAME.match(text)
    if match is None:
        return Frame(text, "")
    return Frame(match["name"], match["file"], int(match["line"] or 0))
