"""`arc cq`: continuous queries, a SELECT run on a schedule into a measurement.

In: a data directory, whether a daemon runs on it or not; to execute one, a running daemon. Out:
lists for people or JSON. They are kept in `ingest.continuous_store`, and executed by the daemon.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from arc.delete import DataDirOption, JsonOption, data_root, fail
from arc.runtime import find_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.continuous import Execution, Query
    from ingest.continuous_store import QueryStore

EXIT_FAILED = 1

#: Executions that `show` prints.
_SHOWN_EXECUTIONS = 10

_HEADERS = ("id", "name", "database", "from", "to", "interval", "active", "next window", "last")

Name = Annotated[str, typer.Argument(metavar="NAME", help="For people; no other query has it.")]
Sql = Annotated[
    str,
    typer.Option(
        "--query",
        metavar="SQL",
        help="A SELECT with {start_time} and {end_time} where the bounds of a window belong; "
        "- reads it.",
    ),
]
Source = Annotated[str, typer.Option("--from", metavar="MEASUREMENT", help="What is read.")]
Target = Annotated[str, typer.Option("--to", metavar="MEASUREMENT", help="What is written.")]
Interval = Annotated[
    str, typer.Option("--every", metavar="TIME", help="Length of a window: 30s, 5m, 1h, 1d.")
]
Database = Annotated[str, typer.Option("--database", help="Of both measurements.")]
OfDatabase = Annotated[
    str | None, typer.Option("--database", help="Show those of this database. Default: all.")
]
Description = Annotated[str | None, typer.Option("--description", help="For people.")]
Keep = Annotated[
    int | None,
    typer.Option("--retention-days", help="Give the destination this retention policy."),
]
Inactive = Annotated[
    bool, typer.Option("--inactive", help="The daemon does not execute it by itself.")
]
Which = Annotated[str, typer.Argument(metavar="QUERY", help="Its id or its name.")]
Start = Annotated[
    str | None,
    typer.Option("--start", metavar="TIME", help="In the first window. Default: what is due."),
]
End = Annotated[
    str | None, typer.Option("--end", metavar="TIME", help="End of the last window. Default: now.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Run the SELECT and check its rows, and write nothing.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    commands.command("list")(list_queries)
    for command in (create, show, pause, resume, delete, run):
        commands.command()(command)
    app.add_typer(commands, name="cq", help="Continuous queries: a SELECT into a measurement.")


def list_queries(
    database: OfDatabase = None, data_dir: DataDirOption = None, as_json: JsonOption = False
) -> None:
    """List the continuous queries, with the latest execution of each.

    Exits with 0, or 2 if it could not look.
    """
    with _opened(data_root(data_dir)) as store:
        found = [one for one in store.queries() if database in (None, one.spec.database)]
    if as_json:
        _print_json(found)
        return
    rows = [_row(query) for query in found]
    print("\n".join(_table([_HEADERS, *rows]) if rows else ["There are no continuous queries."]))


def create(
    name: Name,
    query: Sql,
    source: Source,
    target: Target,
    interval: Interval,
    database: Database = "default",
    description: Description = None,
    retention_days: Keep = None,
    inactive: Inactive = False,
    data_dir: DataDirOption = None,
) -> None:
    """Add a continuous query; a daemon that runs executes it from the present window on.

    Exits with 0, or 2 if it makes no sense or could not be kept.
    """
    from ingest.continuous import QuerySpec
    from ingest.continuous_store import add

    sql = sys.stdin.read() if query == "-" else query
    spec = QuerySpec(
        *(name, database, source, target, sql, interval, description, retention_days),
        is_active=not inactive,
    )
    root = data_root(data_dir)
    with _opened(root) as store:
        made = add(store, spec)
    first = _moment(made.next_us)
    print(f"Continuous query {made.id}, {made.spec.name}: its first window begins at {first}.")


def show(query: Which, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show a continuous query and its latest executions.

    Exits with 0, or 2 if there is none.
    """
    with _opened(data_root(data_dir)) as store:
        found = _chosen(store, query)
        runs = store.executions(found.id, _SHOWN_EXECUTIONS)
    if as_json:
        _print_json({"query": found, "executions": runs})
        return
    spec = found.spec
    lines = _table([_HEADERS, _row(found)])
    lines += ["", *([spec.description, ""] if spec.description else []), spec.query, ""]
    lines += [_run_line(run) for run in runs] or ["It was not executed yet."]
    print("\n".join(lines))


def pause(query: Which, data_dir: DataDirOption = None) -> None:
    """Execute a continuous query no longer by itself.

    Exits with 0, or 2 if there is none.
    """
    _set_active(query, data_dir, is_active=False)


def resume(query: Which, data_dir: DataDirOption = None) -> None:
    """Execute a continuous query by itself again, from the window on where it was paused.

    Exits with 0, or 2 if there is none.
    """
    _set_active(query, data_dir, is_active=True)


def delete(query: Which, data_dir: DataDirOption = None) -> None:
    """Forget a continuous query; what it wrote stays.

    Exits with 0, or 2 if there is none.
    """
    with _opened(data_root(data_dir)) as store:
        found = _chosen(store, query)
        store.remove(found.id)
    print(f"Continuous query {found.id}, {found.spec.name}, is removed.")


def run(
    query: Which,
    start: Start = None,
    end: End = None,
    dry_run: DryRun = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the running daemon execute windows of a continuous query, again if they were.

    Exits with 0, 1 if it failed, 2 if it could not be tried.
    """
    root = data_root(data_dir)
    with _opened(root) as store:
        found = _chosen(store, query)
    body = {"start_time": start, "end_time": end, "dry_run": dry_run}
    answer = _asked(root, f"/api/v1/continuous_queries/{found.id}/execute", body)
    if as_json:
        _print_json(answer)
    else:
        verb = "would be" if dry_run else "are"
        print(
            f"{found.spec.name}: {answer['records_written']} rows {verb} written to "
            f"{answer['destination_measurement']}, from {answer['start_time']} to "
            f"{answer['end_time']}, in {answer['execution_time_seconds']:.3f} s."
        )
        if answer["error"] is not None:
            print(f"    failed: {answer['error']}")
    sys.exit(0 if answer["error"] is None else EXIT_FAILED)


# --- where they are ------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[QueryStore]:
    """The definitions; what goes wrong there ends the process with a line."""
    from ingest.continuous_store import open_queries
    from ingest.errors import IngestError

    try:
        with contextlib.closing(open_queries(root)) as store:
            yield store
    except (IngestError, OSError) as error:
        fail(str(error))


def _chosen(store: QueryStore, given: str) -> Query:
    from ingest.continuous_store import chosen

    return chosen(store.queries(), given)


def _set_active(given: str, data_dir: str | None, *, is_active: bool) -> None:
    with _opened(data_root(data_dir)) as store:
        found = _chosen(store, given)
        store.update(found.id, is_active=is_active)
    verb = "executed by itself" if is_active else "paused"
    print(f"Continuous query {found.id}, {found.spec.name}, is {verb}.")


def _asked(root: Path, path: str, content: object) -> dict[str, Any]:
    """The answer of the daemon on a data directory; ends the process where there is none."""
    info = find_daemon(root).info
    if info is None:
        fail(f"no daemon is running on {root}, and it is the daemon that executes them")
    connection = http.client.HTTPConnection(info.host, info.port)
    try:
        with contextlib.closing(connection):
            connection.request("POST", path, msgspec.json.encode(content))
            response = connection.getresponse()
            body = response.read()
        answer: dict[str, Any] = msgspec.json.decode(body)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        fail(f"the daemon does not answer: {error!r}")
    if response.status != 200:
        fail(str(answer.get("error", f"status {response.status}")))
    return answer


# --- showing -------------------------------------------------------------------------------------


def _print_json(content: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(content)).decode())


def _row(query: Query) -> tuple[str, ...]:
    spec, last = query.spec, query.last
    shown = "" if last is None else f"{_moment(last.at_us)} {last.status}, {last.rows} rows"
    return (
        *(str(query.id), spec.name, spec.database, spec.source, spec.destination, spec.interval),
        "yes" if spec.is_active else "no",
        _moment(query.next_us),
        shown,
    )


def _run_line(run: Execution) -> str:
    error = "" if run.error is None else f": {run.error}"
    return (
        f"{_moment(run.at_us)}  {run.status}  {_moment(run.start_us)} to {_moment(run.end_us)}  "
        f"{run.rows} rows in {run.took_s:.3f} s{error}"
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _moment(time_us: int) -> str:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    moment = epoch + datetime.timedelta(microseconds=time_us)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
