"""`arc quarantine`: what tables refused and the daemon kept, to look at and to send again.

In: a data directory. Out: lists for people or JSON; `replay` posts to the daemon that runs on it.
Rows are read from the tables `_quarantine`, never changed and never removed; which of them were
sent again and accepted is noted beside. What a row of such a table means is in
docs/quarantine.md.
"""

from __future__ import annotations

import base64
import datetime
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer

from arc.config import load
from arc.runtime import DaemonInfo, find_daemon

if TYPE_CHECKING:
    import http.client

    from ingest.quarantine_table import Kept

EXIT_REFUSED, EXIT_UNABLE = 1, 2

#: A body is stored within milliseconds, or told to come back.
TIMEOUT_S = 60.0

#: The daemon cannot take anything now: what comes after would be told the same.
_COME_BACK = frozenset({409, 429, 502, 503, 504})
_ACCEPTED = frozenset({200, 204})

_OTLP_PATHS = {
    "otlp_logs_json": "/v1/logs",
    "otlp_traces_json": "/v1/traces",
    "otlp_metrics_json": "/v1/metrics",
}

_SHOWN_CHARACTERS = 100
_HEADERS = ("id", "came at", "database", "measurement", "door", "line", "reason")

DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Data directory. Default: that of the settings.")
]
Database = Annotated[str | None, typer.Option("--database", help="Only of this database.")]
Measurement = Annotated[str | None, typer.Option("--measurement", help="Only for this one.")]
Reason = Annotated[
    str | None, typer.Option("--reason", help="Only with this word in the column reason.")
]
AllRows = Annotated[
    bool, typer.Option("--all-rows", help="Also those that were sent again and accepted.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As the list has it, or its beginning.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Which ones, as the list has them.")
]
All = Annotated[bool, typer.Option("--all", help="All that the other options leave.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    commands.command("list")(list_kept)
    commands.command()(show)
    commands.command()(replay)
    app.add_typer(commands, name="quarantine", help="Look at rows that no table took; send again.")


def list_kept(
    data_dir: DataDir = None,
    database: Database = None,
    measurement: Measurement = None,
    reason: Reason = None,
    all_rows: AllRows = False,
    as_json: Json = False,
) -> None:
    """List what tables refused, but for what was sent again and accepted.

    Changes nothing, and may run beside a daemon; what came within the last seconds may not be in
    the table yet. Exits with 0, or 2 if it could not look.
    """
    root = _root(data_dir)
    wanted = _filter(measurement, reason)
    found = _read(root, database, wanted, None if all_rows else _replayed(root))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode([_as_json(kept) for kept in found])).decode())
        return
    rows = sorted([(kept.arrival_us, _row(kept), kept.error) for kept in found])
    print("\n".join(_list_lines([(row, error) for _, row, error in rows])))


def show(piece: Id, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show one of them, with the bytes that came.

    Exits with 0, or 2 if there is none, or more than one, whose id begins so.
    """
    root = _root(data_dir)
    piece_id = _resolved(root, [piece])[0]
    kept = next(kept for kept in _read(root, None, lambda kept: kept.id == piece_id, None))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(_as_json(kept, whole=True))).decode())
        return
    for name, value in _as_json(kept).items():
        print(f"{name:<12} {'' if value is None else _printable(str(value))}")
    print(f"\n{_readable(kept.body)}")


def replay(
    pieces: Ids = None,
    everything: All = False,
    data_dir: DataDir = None,
    database: Database = None,
    measurement: Measurement = None,
    reason: Reason = None,
    dry_run: DryRun = False,
) -> None:
    """Send them to the running daemon once more, to the database and with the times of then.

    What is accepted is not listed any more. What is refused again stays, is not kept twice, and
    is told here. Exits with 0 if all were accepted, 1 if some were not, 2 if it could not be done.
    """
    root = _root(data_dir)
    if everything == bool(pieces):
        _fail("name the ids to send again, or --all")
    chosen = None if everything else set(_resolved(root, pieces or []))
    wanted = _filter(measurement, reason)
    kept = _read(
        root,
        database,
        lambda row: wanted(row) and (chosen is None or row.id in chosen),
        _replayed(root) if everything else None,
    )
    if dry_run:
        for row in kept:
            request = _request(row)
            print(f"{row.id}  would be sent to {request.path}, {len(request.body)} bytes")
        return
    info = find_daemon(root).info
    if info is None:
        _fail(f"no daemon is running on {root}")
    sys.exit(_replay(root, info, kept))


# --------------------------------------------------------------------------------- sending again


class _Request(msgspec.Struct, frozen=True):
    """A kept piece as a request."""

    path: str
    headers: dict[str, str]
    body: bytes


def _request(kept: Kept) -> _Request:
    """How a piece is sent again."""
    from ingest.log_format import Format
    from ingest.quarantine import as_sent_again
    from ingest.timestamps import TimeUnit

    headers = {
        "x-arc-database": kept.database,
        "x-arc-on-bad-rows": "reject",  # or what is refused again would be kept again
        "Idempotency-Key": f"quarantine-{kept.id}",
    }
    if kept.format in _OTLP_PATHS:
        headers["Content-Type"] = "application/json"
        return _Request(_OTLP_PATHS[kept.format], headers, kept.body)
    given = None if kept.time_unit is None else TimeUnit(kept.time_unit)
    form = Format[kept.format.upper()]
    body, unit = as_sent_again(kept.body, form, given, kept.arrival_us)
    if form is Format.LINE_PROTOCOL:
        path = f"/api/v1/write/line-protocol?precision={unit or TimeUnit.NS}"
        return _Request(path, headers, body)
    if unit is not None:
        headers["x-arc-time-unit"] = unit
    return _Request("/api/v1/write/msgpack", headers, body)


def _replay(root: Path, info: DaemonInfo, pieces: Iterator[Kept]) -> int:
    """Send pieces again, one after another; the status to exit with."""
    import http.client

    from ingest.quarantine_table import ReplayNotes

    notes, accepted, refused = ReplayNotes(root), 0, 0
    connection = http.client.HTTPConnection(info.host, info.port, timeout=TIMEOUT_S)
    try:
        for kept in pieces:
            status, error = _send(connection, _request(kept))
            if status in _ACCEPTED and not error:
                notes.note(kept.id, time.time_ns() // 1000)
                accepted += 1
                continue
            refused += 1
            print(f"{kept.id}  {status}: {_printable(error)}")
            if status in _COME_BACK:
                print("The daemon cannot take more now; the rest was not sent.")
                break
    except (OSError, http.client.HTTPException) as error:
        _fail(f"{info.url} does not answer: {error!r}; {accepted} were accepted before")
    finally:
        connection.close()
    print(f"{accepted} accepted, {refused} refused.")
    return EXIT_REFUSED if refused else 0


def _send(connection: http.client.HTTPConnection, request: _Request) -> tuple[int, str]:
    """Status of the answer, and what it says is wrong."""
    connection.request("POST", request.path, request.body, request.headers)
    response = connection.getresponse()
    body = response.read()
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
    except msgspec.DecodeError:
        answer = {}
    return response.status, _error_of(response.status, answer)


def _error_of(status: int, answer: dict[str, Any]) -> str:
    """What an answer says is wrong; empty: nothing."""
    if status not in _ACCEPTED:
        return str(answer.get("error") or answer.get("message") or "no reason was given")
    partial = answer.get("partialSuccess")
    if not isinstance(partial, dict):
        return ""
    counts = [value for name, value in partial.items() if name.startswith("rejected")]
    if any(str(count) not in ("0", "") for count in counts):
        return str(partial.get("errorMessage") or "refused by the table")
    return ""


# --------------------------------------------------------------------------------------- reading


def _root(data_dir: str | None) -> Path:
    return Path(data_dir or load({}, None).config.data_dir).absolute()


def _filter(measurement: str | None, reason: str | None) -> Callable[[Kept], bool]:
    return lambda kept: measurement in (None, kept.measurement) and reason in (None, kept.reason)


def _replayed(root: Path) -> set[str]:
    from ingest.errors import IngestError
    from ingest.quarantine_table import ReplayNotes

    try:
        return ReplayNotes(root).replayed()
    except IngestError as error:
        _fail(str(error))


def _read(
    root: Path,
    database: str | None,
    wanted: Callable[[Kept], bool],
    left_out: Collection[str] | None,
) -> Iterator[Kept]:
    """The rows that are wanted; ends the process if a table cannot be read."""
    from ingest.errors import IngestError
    from ingest.quarantine_table import read_kept

    try:
        for kept in read_kept(root, database):
            if wanted(kept) and kept.id not in (left_out or ()):
                yield kept
    except IngestError as error:
        _fail(str(error))


def _resolved(root: Path, beginnings: list[str]) -> list[str]:
    """The ids that begin so, one each; ends the process where there is none or more than one."""
    ids = [kept.id for kept in _read(root, None, lambda _: True, None)]
    found = []
    for beginning in beginnings:
        matches = [known for known in ids if known.startswith(beginning)]
        exact = [known for known in matches if known == beginning]
        if len(exact or matches) != 1:
            _fail(f"{beginning}: {len(matches)} rows have an id that begins so, wanted one")
        found += exact or matches
    return found


# --------------------------------------------------------------------------------------- showing


def _as_json(kept: Kept, whole: bool = False) -> dict[str, Any]:
    """A row without its body, or with it: as text, or in base64 if it is none."""
    shown: dict[str, Any] = msgspec.structs.asdict(kept)
    body = shown.pop("body")
    shown["arrival"] = _moment(shown.pop("arrival_us"))
    shown["body_bytes"] = len(body)
    if whole:
        try:
            shown["body_text"] = body.decode()
        except UnicodeDecodeError:
            shown["body_base64"] = base64.b64encode(body).decode()
    return shown


def _moment(time_us: int) -> str:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (epoch + datetime.timedelta(microseconds=time_us)).isoformat(timespec="microseconds")


def _readable(body: bytes) -> str:
    """A body for people: text as it is, MessagePack as JSON, the rest in base64."""
    try:
        return _printable(body.decode())
    except UnicodeDecodeError:
        pass
    try:
        return _printable(msgspec.json.encode(msgspec.msgpack.decode(body)).decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
        return base64.b64encode(body).decode()


def _printable(text: str) -> str:
    """A client's text without what would command the terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else f"\\x{ord(character):02x}"
        for character in text
    )


def _row(kept: Kept) -> tuple[str, ...]:
    return (
        kept.id,
        _moment(kept.arrival_us),
        kept.database,
        kept.measurement or "",
        kept.door,
        "" if kept.line is None else str(kept.line),
        kept.reason,
    )


def _list_lines(rows: list[tuple[tuple[str, ...], str]]) -> list[str]:
    if not rows:
        return ["Nothing is in quarantine."]
    cells = [_HEADERS, *[row for row, _ in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    out = lines[:1]
    for line, (_, error) in zip(lines[1:], rows, strict=True):
        shown = _printable(error.replace("\n", " ")[:_SHOWN_CHARACTERS])
        shown += "…" if len(error) > _SHOWN_CHARACTERS else ""
        out += [line, f"    {shown}"]
    return [*out, "", f"{len(rows)} in quarantine."]


def _fail(message: str) -> NoReturn:
    print(f"arc: {message}", file=sys.stderr)
    sys.exit(EXIT_UNABLE)
