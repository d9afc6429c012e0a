"""`arc delete`: rows out of a table, by time and by text columns. A dry run without `--yes`.

In: a data directory, whether a daemon runs on it or not. Out: how many rows and files it
concerns, or how many are gone, as lines or JSON. The work is done in `ingest.upkeep`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer

from arc.config import load
from arc.runtime import State, find_daemon

if TYPE_CHECKING:
    from ingest.upkeep import DeleteOrder, DeleteResult, Upkeep

EXIT_UNABLE = 2

DataDirOption = Annotated[
    str | None, typer.Option("--data-dir", help="Data directory. Default: that of the settings.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Do it. Without this, only what would go is counted.")
]
Database = Annotated[str, typer.Argument(metavar="DATABASE")]
Measurement = Annotated[str, typer.Argument(metavar="MEASUREMENT")]
Where = Annotated[
    str,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Which rows: \"time < '2026-01-31' AND host IN ('a', 'b')\"; 1=1: all of them.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(delete)


def delete(
    database: Database,
    measurement: Measurement,
    where: Where,
    yes: YesOption = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete rows of a measurement: whole files go, files that hold other rows are rewritten.

    May run beside a daemon. Rows that it still holds in memory are not touched: they are in the
    table some seconds after they came. Exits with 0, or 2 if it could not be done.
    """
    from ingest.paths import TableId
    from ingest.upkeep import DeleteOrder

    order = DeleteOrder(TableId(database, measurement), where, dry_run=not yes, confirmed=yes)
    root = data_root(data_dir)
    with opened(root) as upkeep:
        result = upkeep.delete(order)
    if as_json:
        answer = msgspec.to_builtins(result.done) | {
            "dry_run": order.dry_run,
            "table_version": result.version,
        }
        print(msgspec.json.format(msgspec.json.encode(answer)).decode())
        return
    print("\n".join(_lines(order, result, root)))


def _lines(order: DeleteOrder, result: DeleteResult, root: Path) -> list[str]:
    done = result.done
    verb = "would be" if order.dry_run else "are"
    lines = [
        f"{done.rows} rows {verb} deleted from {order.table.database}.{order.table.measurement}.",
        f"{done.files_removed} files {verb} removed, {done.files_rewritten} rewritten.",
    ]
    if find_daemon(root).state is not State.STOPPED:
        lines.append("Rows that the daemon still holds in memory are not among them.")
    if order.dry_run and done.rows:
        lines.append("Nothing was changed; --yes deletes them.")
    return lines


# ------------------------------------------------------------------- shared with arc.retention


def data_root(data_dir: str | None) -> Path:
    """The data directory that is meant."""
    return Path(data_dir or load({}, None).config.data_dir).absolute()


@contextmanager
def opened(root: Path) -> Iterator[Upkeep]:
    """A data directory for upkeep; what goes wrong there ends the process with a line."""
    import structlog

    from ingest.errors import IngestError
    from ingest.upkeep import upkeep

    # What it does is told on standard output; what it warns of belongs on standard error.
    log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(30)
    )
    try:
        with upkeep(root, log) as found:
            yield found
    except (IngestError, OSError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the process: it could not be done."""
    print(f"arc: {message}", file=sys.stderr)
    sys.exit(EXIT_UNABLE)
