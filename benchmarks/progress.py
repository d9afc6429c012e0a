"""Progress of a program that takes a while, for people. Writes to a console, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

#: Called with a line of progress, and whether it must be seen.
Tell = Callable[[str, bool], None]


@contextmanager
def progress(console: Console, label: str, plain_every_s: float) -> Iterator[Tell]:
    """A live line on a terminal; elsewhere a plain line now and then.

    Args:
        console: Where to.
        label: Before every line.
        plain_every_s: How often at the most, for lines that need not be seen.
    """
    if not console.is_terminal:
        yield _plain(console, label, plain_every_s)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(label)
        yield lambda text, _must: shown.update(task, description=f"{label}  {text}")


def _plain(console: Console, label: str, every_s: float) -> Tell:
    next_s = time.monotonic() + every_s

    def tell(text: str, must: bool) -> None:
        nonlocal next_s
        if must or time.monotonic() >= next_s:
            next_s = time.monotonic() + every_s
            console.print(f"{label}: {text}", markup=False, highlight=False)

    return tell
