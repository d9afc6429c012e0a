"""How far an audit is: one line that is rewritten on a terminal, a line now and then elsewhere.

In: names of parts and steps. Out: text on standard error, so that standard output is the result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

#: Without a terminal: a line at the begin of each part, and then this often.
PLAIN_S = 15.0


class Steps:
    """Tells of steps; a context for its display."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        """Begin with nothing done of `total` steps."""
        self._console = console or Console(stderr=True, highlight=False)
        self._total, self._done = total, 0
        self._part = ""
        self._next_s = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it meanwhile."""
        if not self._console.is_terminal:
            yield
            return
        columns = (BarColumn(20), TextColumn("{task.completed}/{task.total} {task.description}"))
        with Progress(
            *columns, TimeElapsedColumn(), console=self._console, transient=True
        ) as self._bar:
            self._task = self._bar.add_task("", total=self._total)
            yield
        self._bar = None

    def part(self, name: str) -> None:
        """A new part begins."""
        self._part, self._next_s = name, 0.0
        self._say("")

    def step(self, name: str) -> None:
        """A step of the part begins."""
        self._say(name)
        self._done += 1

    def _say(self, name: str) -> None:
        words = f"{self._part}: {name}" if name else self._part
        if self._bar is not None:
            # One line: what does not fit is cut, never wrapped.
            room = max(10, self._console.width - 48)
            self._bar.update(self._task, completed=self._done, description=words[:room])
        elif time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + PLAIN_S
            self._console.print(f"[{self._done}/{self._total}] {words}", markup=False)
