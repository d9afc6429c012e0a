"""The commands that read what is stored: `arc query` and `arc tables`.

In: SQL, or nothing. Out: rows in a format, or a list of tables, on standard output or in a file.
A running daemon is asked over HTTP; without one the files of the data directory are read here,
which are all that is stored, but not what waits in the log. Nothing is changed. A file that is
written gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import http.client
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn
from urllib.parse import quote, urlsplit

import msgspec
import typer

from arc.config import load
from arc.runtime import DataDir, find_daemon

if TYPE_CHECKING:
    from ingest.query.export import Rows

#: A refusal or a file that cannot be written, bad usage, no data directory, a daemon that does
#: not answer, Ctrl-C.
EXIT_REFUSED, EXIT_USAGE, EXIT_NOTHING_THERE, EXIT_UNANSWERED, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

#: To connect. An answer is waited for as long as it takes: the daemon bounds it.
_CONNECT_TIMEOUT_S = 5.0
_PROGRESS_S = 0.2

#: Memory of a query without a daemon; the default of query_memory_bytes.
_LOCAL_MEMORY_BYTES = 512 * 2**20

_OF_A_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})

_FORMATS = ("table", "csv", "json", "arrow", "parquet")
_BINARY = ("arrow", "parquet")
_BY_SUFFIX = {f".{name}": name for name in _FORMATS if name != "table"}

_HEADERS = (
    *("database", "measurement", "files", "size", "rows", "from", "to"),
    "files/hour",
)
_FIRST_NUMBER, _TIMES = 2, (5, 6)

Sql = Annotated[str, typer.Argument(metavar="SQL", help="One statement that reads; - reads it.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="table, csv, json, arrow (IPC stream) or parquet. Default: what the name of the "
        "output says, else table.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to. Default: standard output."),
]
Database = Annotated[str, typer.Option("--database", help="Of tables that are named without one.")]
OfDatabase = Annotated[
    str | None, typer.Option("--database", help="Show those of this database. Default: all.")
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Base of the daemon's URLs. Default: that of the data directory."),
]
DataDirOption = Annotated[
    str | None, typer.Option("--data-dir", help="Data directory. Default: that of the settings.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(query)
    app.command()(tables)


def query(
    sql: Sql,
    form: Format = None,
    output: Output = None,
    database: Database = "default",
    url: Url = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run one statement of SQL and print its rows, or write them to a file.

    Exits with 0 if all rows are written, 1 if the statement is refused or fails, 2 for bad usage,
    3 if there is neither a daemon nor a data directory, 4 if the daemon does not answer.
    """
    chosen = _chosen_format(form, output)
    text = sys.stdin.read() if sql == "-" else sql
    place = _find(url, data_dir)
    with _ending_in_a_line():
        _run_query(place, text, database, chosen, output)
    sys.exit(0)


def tables(
    database: OfDatabase = None,
    as_json: Json = False,
    url: Url = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show the tables: files, bytes, rows, times, and how much each is in pieces.

    Rows in memory are not among them. Exits with 0, 3 if there is neither a daemon nor a data
    directory, 4 if the daemon does not answer.
    """
    with _ending_in_a_line():
        found = _tables(_find(url, data_dir), database)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print("\n".join(_table_lines(found)))
    sys.exit(0)


# --- where to ask ------------------------------------------------------------------------------


class _Place(msgspec.Struct, frozen=True):
    """Whom to ask: the daemon at a URL, or without one the files of a data directory."""

    url: str | None
    root: Path


class _RefusedError(Exception):
    """The daemon refuses; the message is its own."""


def _find(url: str | None, data_dir: str | None) -> _Place:
    root = Path(load({"data_dir": data_dir}).config.data_dir).absolute()
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            _fail(f"--url: found {url!r}, wanted http://host:port", EXIT_USAGE)
        return _Place(url, root)
    info = find_daemon(root).info
    if info is not None:
        return _Place(info.url, root)
    if not (DataDir(root).state / "catalog.db").exists():
        _fail(f"no daemon is running on {root}, and it is no data directory", EXIT_NOTHING_THERE)
    print(
        f"arc: no daemon is running on {root}: what is shown is stored; rows that wait in its log "
        "are not",
        file=sys.stderr,
    )
    return _Place(None, root)


@contextlib.contextmanager
def _ending_in_a_line() -> Iterator[None]:
    """End the program with one line and a status for whatever goes wrong inside."""
    from ingest.errors import IngestError

    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except (_RefusedError, IngestError) as error:
        _fail(str(error), EXIT_REFUSED)
    except BrokenPipeError:  # a pager or `head` that has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except http.client.IncompleteRead:
        _fail("the answer broke off: the query failed late, or the daemon ended", EXIT_REFUSED)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _OF_A_DISK:
            _fail(f"the rows cannot be written: {error.strerror}", EXIT_REFUSED)
        _fail(f"the daemon does not answer: {error!r}", EXIT_UNANSWERED)


@contextlib.contextmanager
def _asked(
    url: str, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    """An answer of the daemon that is no refusal, to be read.

    Raises:
        _RefusedError: with its words.
        OSError: no connection, or none any more.
        http.client.HTTPException: not HTTP, or an answer that is broken off.
    """
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    # Not urllib: it would ask the proxy that the environment names.
    connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=_CONNECT_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.connect()
        connection.sock.settimeout(None)
        try:
            connection.request(method, parts.path.rstrip("/") + path, body, headers)
        except BrokenPipeError:  # not that of our own output
            raise ConnectionResetError("it closed the connection") from None
        response = connection.getresponse()
        if response.status != 200:
            raise _RefusedError(_words(response))
        yield response


def _words(response: http.client.HTTPResponse) -> str:
    body = response.read()
    try:
        return str(msgspec.json.decode(body, type=dict[str, object])["error"])
    except (msgspec.DecodeError, KeyError):
        return f"status {response.status}: {body[:200].decode(errors='replace')}"


# --- arc query ---------------------------------------------------------------------------------


def _chosen_format(form: str | None, output: Path | None) -> str:
    found = form or _BY_SUFFIX.get(output.suffix if output else "", "table")
    if found not in _FORMATS:
        _fail(f"--format: found {found!r}, wanted one of {', '.join(_FORMATS)}", EXIT_USAGE)
    if found in _BINARY and output is None and sys.stdout.isatty():
        _fail(f"{found} is no text for a terminal: name a file with --output", EXIT_USAGE)
    return found


def _run_query(place: _Place, sql: str, database: str, form: str, output: Path | None) -> None:
    from ingest.query.export import export

    on_terminal = output is None and sys.stdout.isatty()
    with _Progress() as progress, _rows(place, sql, database) as rows:
        if on_terminal:
            progress.clear()  # the rows themselves show how far it is
        with _sink(output) as sink:
            num_rows = export(rows, form, sink, progress.count)
    if output is not None:
        print(f"{num_rows} rows, {_size(output.stat().st_size)}: {output}", file=sys.stderr)


@contextlib.contextmanager
def _rows(place: _Place, sql: str, database: str) -> Iterator[Rows]:
    """The rows of a statement, while they come."""
    if place.url is None:
        with _local_rows(place.root, sql, database) as rows:
            yield rows
        return
    from ingest.query.export import rows_of_stream

    body = msgspec.json.encode({"sql": sql})
    headers = {"Content-Type": "application/json", "x-arc-database": database}
    with _asked(place.url, "POST", "/api/v1/query/arrow", body, headers) as response:
        yield rows_of_stream(response)


@contextlib.contextmanager
def _local_rows(root: Path, sql: str, database: str) -> Iterator[Rows]:
    from ingest.query.engine import Engine, EngineSettings
    from ingest.query.export import Rows

    settings = EngineSettings(_LOCAL_MEMORY_BYTES, os.cpu_count() or 1)
    with (
        _catalog(root) as catalog,
        contextlib.closing(Engine(root, catalog, settings)) as engine,
        contextlib.closing(engine.query(sql, database)) as running,
    ):
        running.start()
        yield Rows(running.schema, iter(running.next_batch, None))


@contextlib.contextmanager
def _catalog(root: Path) -> Iterator[Any]:
    from ingest.catalog import Catalog
    from ingest.limits import Limits

    limits = Limits()  # of writers, and this is none
    path = DataDir(root).state / "catalog.db"
    with contextlib.closing(Catalog(path, limits.max_measurements, limits.max_columns)) as catalog:
        yield catalog


@contextlib.contextmanager
def _sink(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that has its name only once it is whole."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with _opened(draft, output) as file:
            yield file
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)


def _opened(draft: Path, output: Path) -> BinaryIO:
    try:
        return draft.open("xb")
    except OSError as error:
        _fail(f"{output} cannot be written: {error.strerror}", EXIT_REFUSED)


class _Progress:
    """Says on a terminal how long it takes and how many rows have come; elsewhere nothing."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._num_rows = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def count(self, num_rows: int) -> None:
        """Tell how many rows are written."""
        self._num_rows = num_rows

    def clear(self) -> None:
        """Make room for what comes next."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        while not self._over.wait(_PROGRESS_S):
            seconds = time.monotonic() - self._started_s
            doing = f"{self._num_rows:,} rows" if self._num_rows else "running"
            print(f"\r{seconds:6.1f} s  {doing}\x1b[K", end="", file=sys.stderr, flush=True)


# --- arc tables --------------------------------------------------------------------------------


def _tables(place: _Place, database: str | None) -> list[dict[str, Any]]:
    """As `GET /api/v1/measurements` has them."""
    if place.url is None:
        from arc.table_answer import measurement_entry
        from ingest.table_list import list_tables

        with _catalog(place.root) as catalog:
            return [measurement_entry(e) for e in list_tables(catalog, place.root, database)]
    path = "/api/v1/measurements" + (f"?database={quote(database)}" if database else "")
    with _asked(place.url, "GET", path, None, {}) as response:
        found = msgspec.json.decode(response.read(), type=dict[str, Any])["measurements"]
        return list(found)


def _table_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    if not found:
        return ["There are no tables."]
    rows = [_HEADERS, *map(_table_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    files, size = sum(e["file_count"] for e in found), sum(e["size_bytes"] for e in found)
    num_rows = sum(entry["rows"] or 0 for entry in found)
    total = f"{len(found)} tables, {files} files, {_size(size)}, {num_rows} rows."
    return [*lines, "", total]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        text.rjust(width) if place >= _FIRST_NUMBER and place not in _TIMES else text.ljust(width)
        for place, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def _table_row(entry: dict[str, Any]) -> tuple[str, ...]:
    return (
        entry["database"],
        entry["measurement"],
        str(entry["file_count"]),
        _size(entry["size_bytes"]),
        "?" if entry["rows"] is None else str(entry["rows"]),
        _short_time(entry["min_time"]),
        _short_time(entry["max_time"]),
        f"{entry['files_per_hour']:.1f}" if entry["file_count"] else "",
    )


def _short_time(text: str | None) -> str:
    """To the second."""
    if text is None:
        return ""
    return f"{datetime.datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _fail(message: str, status: int) -> NoReturn:
    print(f"arc: {message}", file=sys.stderr)
    sys.exit(status)
