"""The commands that look into a data directory without a daemon: `arc verify` and `arc wal`.

In: a data directory, running or not. Out: lines for people or JSON, and a status for scripts.
Nothing is changed. What the checks are and what they mean is in `ingest.verify`; it is imported
by the commands, since it takes longer than all of the command line.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import msgspec
import typer

from arc.config import load
from arc.runtime import State, find_daemon

if TYPE_CHECKING:
    from ingest.log_survey import LogFile, ShardLog
    from ingest.verify import Report

_T = TypeVar("_T")

EXIT_FINDINGS, EXIT_UNABLE = 1, 2

#: Steps of progress on a terminal.
_PROGRESS_S = 0.2

DataDirArgument = Annotated[
    str | None,
    typer.Argument(metavar="[DATA_DIR]", help="Data directory. Default: that of the settings."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuickVerify = Annotated[
    bool, typer.Option("--quick", help="Read the footers of files only, and decode no requests.")
]
QuickWal = Annotated[
    bool, typer.Option("--quick", help="Do not look up which requests tables have already.")
]

_COUNTS = (
    ("tables", "tables"),
    ("files", "files"),
    ("rows", "rows"),
    ("bytes of files", "size_bytes"),
    ("requests in the log", "log_records"),
    ("not yet in all tables", "uncommitted_records"),
)
_WAL_HEADERS = (
    *("shard", "file", "state", "epoch", "first", "last", "requests", "bytes", "not in tables"),
    *("size", "age"),
)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(verify)
    app.command()(wal)


def verify(
    data_dir: DataDirArgument = None, as_json: Json = False, quick: QuickVerify = False
) -> None:
    """Check tables and logs: every file, every row count, and that no request is missing.

    Changes nothing, and may run beside a daemon. Exits with 0 if there are no errors, 1 if there
    are, 2 if it could not look.
    """
    from ingest.findings import Severity
    from ingest.verify import verify as look

    report = _looked(look, data_dir, quick)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        print("\n".join(_report_lines(report)))
    sys.exit(EXIT_FINDINGS if report.count(Severity.ERROR) else 0)


def wal(data_dir: DataDirArgument = None, as_json: Json = False, quick: QuickWal = False) -> None:
    """Show the logs: segments with their requests, sizes and ages, and what tables still lack.

    Changes nothing, and may run beside a daemon. Exits with 0, or 2 if it could not look.
    """
    from ingest.verify import survey_logs

    logs = _looked(survey_logs, data_dir, quick)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(_without_spans(logs))).decode())
    else:
        print("\n".join(_wal_lines(logs, time.time())))
    sys.exit(0)


def _looked(look: Callable[..., _T], data_dir: str | None, quick: bool) -> _T:
    """Have somebody look at a data directory, with progress; ends the process if that fails."""
    from ingest.errors import IngestError

    root = _root(data_dir)
    progress = _Progress()
    try:
        return look(root, running=_is_running(root), quick=quick, progress=progress)
    except (IngestError, OSError) as error:
        _fail(error)
    finally:
        progress.clear()


def _root(data_dir: str | None) -> Path:
    return Path(data_dir or load({}, None).config.data_dir).absolute()


def _is_running(root: Path) -> bool:
    """Whether anybody may write there: a daemon, or workers that outlived theirs."""
    return find_daemon(root).state is not State.STOPPED


def _report_lines(report: Report) -> list[str]:
    from ingest.findings import Severity

    shown = [(title, getattr(report, name)) for title, name in _COUNTS]
    lines = [f"{'data directory':<22} {report.data_dir}"]
    lines += [f"{title:<22} {value}" for title, value in shown if value is not None]
    if report.running:
        lines.append("A daemon is at work: what it took since the start of this is not judged.")
    rows = [(found.severity.value, found.kind, found.where) for found in report.findings]
    if rows:
        lines.append("")
    for found, line in zip(report.findings, _table(rows), strict=True):
        lines += [line, f"    {found.what}"]
    counts = [f"{report.count(severity)} {severity.value}s" for severity in Severity]
    return [*lines, "", "Nothing is wrong." if not rows else ", ".join(counts) + "."]


def _wal_lines(logs: Sequence[ShardLog], now_s: float) -> list[str]:
    rows = [_wal_row(file, now_s) for log in logs for file in log.files]
    if not rows:
        return ["The logs are empty."]
    lines = _table([_WAL_HEADERS, *rows], right_from=3)
    for log in logs:
        lines += [f"{found.severity.value}: {found.where}: {found.what}" for found in log.findings]
    live = [file for log in logs for file in log.files if file.state == "live"]
    requests, size = sum(f.records for f in live), sum(f.record_bytes for f in live)
    total = f"{requests} requests of {size} bytes in {len(live)} segments"
    if all(file.uncommitted_records is not None for file in live):
        left = sum(file.uncommitted_records or 0 for file in live)
        left_bytes = sum(file.uncommitted_bytes or 0 for file in live)
        total += f"; tables do not have {left} of {left_bytes} bytes yet"
    return [*lines, "", f"{total}."]


def _wal_row(file: LogFile, now_s: float) -> tuple[str, ...]:
    blank = ("",) * 6
    if file.number is None:
        return (f"{file.shard:03d}", file.name, file.state, *blank, str(file.size_bytes), "")
    left = "?" if file.uncommitted_records is None else str(file.uncommitted_records)
    age = "" if file.oldest_us is None else _age(now_s - file.oldest_us / 1e6)
    return (
        f"{file.shard:03d}",
        file.name,
        file.state + (", damaged" if file.corrupt else ""),
        str(file.epoch),
        str(file.first_seq or ""),
        str(file.last_seq or ""),
        str(file.records),
        str(file.record_bytes),
        left,
        str(file.size_bytes),
        age,
    )


def _age(age_s: float) -> str:
    """How long ago a request came, to the second; not below 0 where a clock was set back."""
    return str(datetime.timedelta(seconds=max(0, round(age_s))))


def _table(rows: Iterable[Sequence[str]], right_from: int = 1_000) -> list[str]:
    """Rows of equal length as lines, each column as wide as its widest value."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            value.rjust(width) if place >= right_from else value.ljust(width)
            for place, (value, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _without_spans(logs: Sequence[ShardLog]) -> list[dict[str, object]]:
    fields = ("shard", "app_id", "epoch", "files", "findings")
    return [{name: getattr(log, name) for name in fields} for log in logs]


class _Progress:
    """Says on a terminal how far a look is; elsewhere nothing."""

    def __init__(self) -> None:
        self._is_wanted = sys.stderr.isatty()
        self._next_s = 0.0
        self._width = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Overwrite the line, a few times a second."""
        if not self._is_wanted or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _PROGRESS_S
        line = f"{stage}: {done} of {total}"
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def clear(self) -> None:
        """Make room for what comes next."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)


def _fail(error: Exception) -> NoReturn:
    print(f"arc: {error}", file=sys.stderr)
    sys.exit(EXIT_UNABLE)
