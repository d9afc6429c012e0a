"""`arc compact`: small files of closed hours and days into few, now and by hand.

In: a data directory, beside a running daemon or without one. Out: what was merged, and a status
for scripts. The rows that queries see are the same before, meanwhile and after. What is merged
and why is in `ingest.compaction`, which the command imports, since it takes longer than all of
the command line.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer

from arc.config import load

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from ingest.compaction import Outcome, Progress

#: Something could not be merged, bad usage or no such table, another compactor, Ctrl-C.
EXIT_FAILED, EXIT_USAGE, EXIT_BUSY, EXIT_INTERRUPTED = 1, 2, 3, 130

_PROGRESS_S = 0.2
_BAR_CELLS = 24

#: It runs when nobody else wants the core (nice, -20 to 19).
_NICE = 19

DataDirArgument = Annotated[
    str | None,
    typer.Argument(metavar="[DATA_DIR]", help="Data directory. Default: that of the settings."),
]
Database = Annotated[str | None, typer.Option("--database", help="Only tables of this database.")]
Measurement = Annotated[
    str | None, typer.Option("--measurement", help="Only tables of this measurement.")
]
OlderThan = Annotated[
    float,
    typer.Option(
        "--older-than", min=0, help="Seconds since an hour or a day has ended before it is merged."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(compact)


def compact(
    data_dir: DataDirArgument = None,
    database: Database = None,
    measurement: Measurement = None,
    older_than: OlderThan = 300.0,
    as_json: Json = False,
) -> None:
    """Merge small files: those of an hour that is over into one, those of a day into day files.

    Runs beside a daemon or without one, at the lowest priority; queries see the same rows all the
    time. Replaced files stay on the disk for 15 minutes, for those who still read them; the next
    run removes them. It can be ended at any moment and started again.

    Exits with 0 if all is done, 1 if something could not be merged, 2 for bad usage or no such
    table, 3 if another compactor is at work, 130 for Ctrl-C.
    """
    from ingest.compaction import Limits, NoSuchTableError, compact_directory
    from ingest.errors import IngestError
    from ingest.turn import CompactionBusyError

    root = Path(data_dir or load({}, None).config.data_dir).absolute()
    log, bar = _quiet_log(), _Bar()
    os.nice(_NICE)
    signal.signal(signal.SIGTERM, _interrupt)
    started_s = time.monotonic()
    try:
        outcome = compact_directory(
            root, log, Limits(older_than_s=older_than), database, measurement, progress=bar
        )
    except KeyboardInterrupt:
        bar.clear()
        _fail("interrupted; what was merged by now stays so", EXIT_INTERRUPTED)
    except (IngestError, OSError) as error:
        bar.clear()
        is_usage = isinstance(error, NoSuchTableError)
        busy = EXIT_BUSY if isinstance(error, CompactionBusyError) else EXIT_FAILED
        _fail(str(error), EXIT_USAGE if is_usage else busy)
    bar.clear()
    print(_shown(outcome, time.monotonic() - started_s, as_json))
    sys.exit(EXIT_FAILED if outcome.failures else 0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _quiet_log() -> FilteringBoundLogger:
    """Warnings and errors, on standard error."""
    from arc.logs import configure

    return configure("warning", "console", sys.stderr)


def _shown(outcome: Outcome, took_s: float, as_json: bool) -> str:
    if as_json:
        return msgspec.json.format(msgspec.json.encode(outcome)).decode()
    lines = [
        f"{outcome.files_merged} files of {_size(outcome.bytes_before)} became "
        f"{outcome.files_written} of {_size(outcome.bytes_after)} "
        f"({outcome.rows} rows, {took_s:.1f} s)."
    ]
    if not outcome.files_merged:
        lines = ["Nothing to merge."]
    if outcome.files_vacuumed:
        what = f"{outcome.files_vacuumed} files of {_size(outcome.bytes_vacuumed)}"
        lines.append(f"Removed {what} that were replaced before.")
    if outcome.conflicts:
        lines.append(f"{outcome.conflicts} times a table changed meanwhile, and it began anew.")
    if outcome.failures:
        lines.append(f"{outcome.failures} times it could not be done; see above.")
    return "\n".join(lines)


def _size(num_bytes: int) -> str:
    """Bytes for people: `12.3 MB`."""
    size, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


class _Bar:
    """Shows on a terminal how far it is; elsewhere nothing."""

    def __init__(self) -> None:
        self._is_wanted = sys.stderr.isatty()
        self._next_s = 0.0
        self._width = 0

    def __call__(self, progress: Progress) -> None:
        """Overwrite the line, a few times a second."""
        if not self._is_wanted or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _PROGRESS_S
        line = bar_line(progress)
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def clear(self) -> None:
        """Make room for what comes next."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def bar_line(progress: Progress) -> str:
    """One line of progress."""
    share = progress.done_bytes / max(1, progress.total_bytes)
    cells = round(share * _BAR_CELLS)
    bar = "#" * cells + "." * (_BAR_CELLS - cells)
    name = f"{progress.table.database}.{progress.table.measurement}"
    return f"{name} [{bar}] {share:4.0%}  {_size(progress.done_bytes)}"


def _fail(message: str, status: int) -> NoReturn:
    print(f"arc: {message}", file=sys.stderr)
    sys.exit(status)
