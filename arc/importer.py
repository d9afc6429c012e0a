"""`arc import`: files into a running daemon, through its doors, its log and its tables.

In: files, and where their rows go. Out: rows in the daemon, a line for each file, and a status for
scripts. A file that was cut off goes on where it was, one that is finished is not sent twice; see
docs/import.md. The files are read by `ingest.file_import`, which the command imports, since it
takes longer than all of the command line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import urlsplit

import msgspec
import typer

from arc.config import Loaded, load
from arc.import_job import (
    MAX_PREFIX_BYTES,
    Client,
    Destination,
    DoubtError,
    ImportStoppedError,
    Job,
    Journal,
    JournalFile,
    RefusedError,
    UnansweredError,
)
from arc.runtime import find_daemon

if TYPE_CHECKING:
    from ingest.file_import import Piece, ReadOptions

#: All imported (or before), stopped by a file or a refusal, bad usage, no daemon, one that takes
#: nothing, a piece in doubt, Ctrl-C.
EXIT_REFUSED, EXIT_USAGE, EXIT_NOT_RUNNING, EXIT_UNANSWERED, EXIT_DOUBT = 1, 2, 3, 4, 5
EXIT_INTERRUPTED = 130

_PROGRESS_S = 0.2
_BAR_CELLS = 24

_UNITS = ("s", "ms", "us", "ns")
_UNITS_OF_LINES = (*_UNITS, "m", "h")
_DOUBTFUL = ("send", "skip")

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="What to import.")]
Measurement = Annotated[
    str, typer.Option("--measurement", help="Where the rows go. Not for line protocol.")
]
Database = Annotated[str, typer.Option("--database", help="Of the measurement.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Base of the daemon's URLs. Default: that of the data directory."),
]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Data directory. Default: that of the settings.")
]
Format = Annotated[
    str,
    typer.Option("--format", help="auto, csv, parquet, line-protocol or arrow (file or stream)."),
]
TimeColumn = Annotated[str, typer.Option("--time-column", help="Name of the column of times.")]
TimeUnit = Annotated[
    str,
    typer.Option(
        "--time-unit",
        help="Of times that are numbers: s, ms, us, ns. Default: told from their magnitudes; "
        "for line protocol ns, which also knows m and h.",
    ),
]
Tags = Annotated[str, typer.Option("--tags", help="Names of tag columns, with commas between.")]
ColumnType = Annotated[
    list[str] | None,
    typer.Option(
        "--column-type",
        metavar="NAME=TYPE",
        help="CSV: int64, float64, utf8, bool, binary or timestamp, instead of the type told from "
        "the first rows. May be given for several columns.",
    ),
]
BatchRows = Annotated[int, typer.Option("--batch-rows", min=1, help="Rows of one request at most.")]
KeyPrefix = Annotated[
    str, typer.Option("--key-prefix", help="How the idempotency keys of its requests begin.")
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Folder for the journals. Default: that of each file."),
]
Again = Annotated[bool, typer.Option("--again", help="Send all of it, also what was sent before.")]
Doubtful = Annotated[
    str,
    typer.Option(
        "--doubtful",
        help="What to do with a piece that nobody knows the fate of: send or skip.",
    ),
]
Patience = Annotated[
    float, typer.Option("--patience-s", min=0, help="How long to try to send one piece, seconds.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("import")(import_files)


def import_files(
    files: Files,
    measurement: Measurement = "",
    database: Database = "default",
    url: Url = None,
    data_dir: DataDir = None,
    form: Format = "auto",
    time_column: TimeColumn = "time",
    time_unit: TimeUnit = "",
    tags: Tags = "",
    column_type: ColumnType = None,
    batch_rows: BatchRows = 50_000,
    key_prefix: KeyPrefix = "import",
    state: State = None,
    again: Again = False,
    doubtful: Doubtful = "",
    patience_s: Patience = 300.0,
) -> None:
    """Send the rows of files to the running daemon: CSV, Parquet, Arrow IPC, line protocol.

    CSV and line protocol may be compressed (.gz, .zst). How far each file has come is kept in a
    small file beside it (.arc-import-….json): run the same command again to go on where it was.

    Exits with 0 if everything is stored, 1 if a file cannot be read or the daemon refuses some of
    it, 2 for bad usage, 3 without a daemon, 4 if it takes nothing, 5 if only you can find out
    whether a piece is stored.
    """
    settings = load({"data_dir": data_dir})
    request = _Request(
        measurement, database, form, time_column, time_unit, _names(tags),
        _column_types(column_type or []), batch_rows, key_prefix, state, again, doubtful,
    )  # fmt: skip
    request.check()
    client = Client(_finder(url, settings))
    try:
        for path in files:
            _import_file(path, request, client, settings.config.idempotency_window_s, patience_s)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", EXIT_INTERRUPTED)
    finally:
        client.close()
    sys.exit(0)


class _Request(msgspec.Struct, frozen=True):
    """The options, as they were given."""

    measurement: str
    database: str
    form: str
    time_column: str
    time_unit: str
    tags: tuple[str, ...]
    column_types: tuple[tuple[str, str], ...]
    batch_rows: int
    key_prefix: str
    state: Path | None
    again: bool
    doubtful: str

    def check(self) -> None:
        """End the program where an option says nothing."""
        from ingest.errors import InvalidNameError
        from ingest.file_import import COLUMN_TYPES, FileFormat
        from ingest.paths import check_database, check_measurement

        try:
            check_database(self.database)
            if self.measurement:
                check_measurement(self.measurement)
        except InvalidNameError as error:
            _fail(str(error), EXIT_USAGE)
        _check_word("--format", self.form, ("auto", *FileFormat))
        _check_word("--time-unit", self.time_unit, ("", *_UNITS_OF_LINES))
        _check_word("--doubtful", self.doubtful, ("", *_DOUBTFUL))
        for name, kind in self.column_types:
            _check_word(f"--column-type {name}", kind, COLUMN_TYPES)
        prefix = self.key_prefix
        if not (prefix.isascii() and prefix.isprintable() and 0 < len(prefix) <= MAX_PREFIX_BYTES):
            _fail(
                f"--key-prefix: found {prefix!r}, wanted 1 to {MAX_PREFIX_BYTES} ASCII characters",
                EXIT_USAGE,
            )

    def for_file(self, path: Path) -> tuple[ReadOptions, Destination]:
        """How to read one of the files, and where its rows go."""
        from ingest import timestamps
        from ingest.file_import import FileFormat, ReadOptions, detect_format

        form = detect_format(path) if self.form == "auto" else FileFormat(self.form)
        is_text = form is FileFormat.LINE_PROTOCOL
        if is_text and (self.measurement or self.tags or self.column_types):
            _fail(
                f"{path} is line protocol, which names its measurements and tags itself: "
                "leave --measurement, --tags and --column-type out",
                EXIT_USAGE,
            )
        if not is_text and not self.measurement:
            _fail(f"{path}: name where the rows go with --measurement", EXIT_USAGE)
        if not is_text:
            _check_word("--time-unit", self.time_unit, ("", *_UNITS))
        unit = timestamps.TimeUnit(self.time_unit) if self.time_unit else None
        options = ReadOptions(
            form, self.batch_rows, self.time_column, unit, self.tags, self.column_types
        )
        return options, Destination(self.database, self.measurement, self.time_unit)


def _import_file(
    path: Path, request: _Request, client: Client, window_s: float, patience_s: float
) -> None:
    """Send one file, or end the program with a line that says what stands in the way."""
    from ingest.file_import import FileError, file_identity, read_pieces

    bar = _Bar(path.name)
    job = None
    try:
        options, destination = request.for_file(path)
        kept = JournalFile(request.state or path.parent, file_identity(path), destination)
        journal = _journal(path, request, options, destination, kept)
        if journal.finished:
            print(f"{path}: imported before ({journal.rows} rows); to send it again: --again")
            return
        job = Job(client, kept, journal, window_s, patience_s)
        _settle(job, request, lambda: next(read_pieces(path, options, journal.pieces)).rows)
        before, started_s = journal.rows, time.monotonic()
        for piece in job.send(_watched(read_pieces(path, options, journal.pieces), bar)):
            bar.show(piece.share, journal.rows - before)
        bar.clear()
        print(_summary(path, journal, before, time.monotonic() - started_s))
    except (FileError, ImportStoppedError, OSError) as error:
        bar.clear()
        _stop(path, error, bar.piece, job)
    except KeyboardInterrupt:
        bar.clear()
        raise


def _journal(
    path: Path, request: _Request, options: ReadOptions, to: Destination, kept: JournalFile
) -> Journal:
    """The journal to go on with: that of before, or a new one."""
    read = msgspec.json.decode(msgspec.json.encode(options))  # as the journal has them
    fresh = Journal(path.name, kept.identity, to, read, request.key_prefix)
    found = kept.load()
    if found is None:
        return fresh
    if request.again:
        fresh.run = found.run + 1
        return fresh
    same = found.options == read and found.destination == to
    if not found.finished and not (same and found.key_prefix == request.key_prefix):
        raise ImportStoppedError(
            f"its import was begun with other options ({_in_words(found)}) and is at row "
            f"{found.rows}: go on with those, or send all of it with --again. See {kept.path}"
        )
    return found


def _in_words(journal: Journal) -> str:
    options = journal.options | msgspec.to_builtins(journal.destination)
    return ", ".join(f"{name}={value!r}" for name, value in options.items() if value)


def _settle(job: Job, request: _Request, count_rows: Callable[[], int]) -> None:
    """Say what happens to a piece in doubt, if one is and its key is too old."""
    try:
        job.check_doubt()
    except DoubtError:
        if not request.doubtful:
            raise
        job.settle_doubt(count_rows if request.doubtful == "skip" else None)


def _stop(path: Path, error: Exception, piece: Piece | None, job: Job | None) -> NoReturn:
    """End the program, with the rows that the error is about and how to go on."""
    where = f"{path}: "
    if piece is not None and isinstance(error, RefusedError | UnansweredError):
        what = "lines" if piece.door == "line-protocol" else "rows"
        where += f"{what} {piece.first} to {piece.last}: "
    text = str(error).removeprefix(f"{path}: ")
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    done = f" ({job.journal.rows} rows before are stored)" if job and job.journal.rows else ""
    if isinstance(error, UnansweredError):
        text += "; run the same command again to go on"
    is_doubt, is_unanswered = isinstance(error, DoubtError), isinstance(error, UnansweredError)
    status = EXIT_DOUBT if is_doubt else EXIT_UNANSWERED if is_unanswered else EXIT_REFUSED
    _fail(f"{where}{text}{done}", status)


def _watched(pieces: Iterator[Piece], bar: _Bar) -> Iterator[Piece]:
    """The same pieces, each noted for what there is to say when it is refused."""
    for piece in pieces:
        bar.piece = piece
        yield piece
    bar.piece = None


def _summary(path: Path, journal: Journal, before: int, took_s: float) -> str:
    rows = journal.rows - before
    to = journal.destination
    where = f"{to.database}.{to.measurement}" if to.measurement else to.database
    earlier = f" ({before} before)" if before else ""
    return f"{path}: {rows} rows{earlier} into {where} in {took_s:.1f} s"


def _finder(url: str | None, settings: Loaded) -> Callable[[], str]:
    """How to find the daemon; ends the program where there is none to begin with."""
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            _fail(f"--url: found {url!r}, wanted http://host:port", EXIT_USAGE)
        return lambda: url
    root = settings.config.data_dir

    def find() -> str:
        info = find_daemon(root).info
        if info is None:
            raise ConnectionError(f"no daemon is running on {root}")
        return info.url

    try:
        find()
    except ConnectionError as error:
        _fail(f"{error}; start it, or name another with --url", EXIT_NOT_RUNNING)
    return find


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _column_types(given: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in given:
        name, equals, kind = text.rpartition("=")
        if not equals:
            _fail(f"--column-type: found {text!r}, wanted NAME=TYPE", EXIT_USAGE)
        pairs.append((name, kind))
    return tuple(pairs)


def _check_word(option: str, word: str, allowed: tuple[str, ...]) -> None:
    if word not in allowed:
        wanted = ", ".join(str(one) for one in allowed if one)
        _fail(f"{option}: found {word!r}, wanted one of {wanted}", EXIT_USAGE)


class _Bar:
    """Shows on a terminal how far a file is; elsewhere nothing.

    Attributes:
        piece: The one that is being sent.
    """

    def __init__(self, name: str) -> None:
        self.piece: Piece | None = None
        self._name = name
        self._is_wanted = sys.stderr.isatty()
        self._started_s = time.monotonic()
        self._next_s = 0.0
        self._width = 0

    def show(self, share: float, rows: int) -> None:
        """Overwrite the line, a few times a second.

        Args:
            share: Of the file, 0 to 1.
            rows: Sent in this run.
        """
        now_s = time.monotonic()
        if not self._is_wanted or now_s < self._next_s:
            return
        self._next_s = now_s + _PROGRESS_S
        line = bar_line(self._name, share, rows, now_s - self._started_s)
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def clear(self) -> None:
        """Make room for what comes next."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def bar_line(name: str, share: float, rows: int, took_s: float) -> str:
    """One line of progress.

    Args:
        name: Of the file.
        share: Of it, 0 to 1.
        rows: Sent so far.
        took_s: Time that they took.
    """
    full = round(share * _BAR_CELLS)
    rate = rows / took_s if took_s > 0 else 0.0
    return f"{name} [{'#' * full:-<{_BAR_CELLS}}] {share:4.0%}  {rows:,} rows  {rate:,.0f} rows/s"


def _fail(text: str, status: int) -> NoReturn:
    print(f"arc: {text}", file=sys.stderr)
    sys.exit(status)
