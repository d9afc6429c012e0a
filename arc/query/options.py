"""What the query process is told at its start, as arguments of its command line and back.

In: options, and where the data and the socket are. Out: a command for the supervisor, and in the
process itself the options again. Imports nothing heavy, so that the supervisor stays light.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from arc.runtime import DataDir

#: In the folder `run` of the data directory.
SOCKET_NAME = "query.sock"


class QueryOptions(msgspec.Struct, frozen=True):
    """Limits of the query process.

    Attributes:
        memory_bytes: That all queries may take together; none is spilled to disk.
        threads: That all queries run on; 0: one for each core that they may use.
        concurrency: Queries that run at the same time; others wait.
        timeout_s: That a query may work, and that its client may leave the answer unread.
        max_rows: Of an answer in JSON or MessagePack.
        nice: Steps that it yields to others in the queue for a core, 0 to 19.
        spare_cores: Cores that no query runs on, if there are more than that.
        log_level: As `arc.logs.configure` has it.
        log_format: The same.
    """

    memory_bytes: int = 512 * 2**20
    threads: int = 0
    concurrency: int = 4
    timeout_s: float = 30.0
    max_rows: int = 1_000_000
    nice: int = 5
    spare_cores: int = 1
    log_level: str = "info"
    log_format: str = "auto"


class QueryStart(msgspec.Struct, frozen=True):
    """All that the query process is told.

    Attributes:
        data_dir: Whose tables it reads.
        socket: Where it listens.
        ready_fd: Inherited descriptor that it says `ready` to; None: nobody waits for it.
        options: Its limits.
    """

    data_dir: Path
    socket: Path
    ready_fd: int | None = None
    options: QueryOptions = QueryOptions()


def socket_path(data_dir: str | Path) -> Path:
    """Where the query process of a data directory listens."""
    return DataDir(data_dir).run / SOCKET_NAME


def command(start: QueryStart) -> list[str]:
    """The program and the arguments that start the query process."""
    words = [sys.executable, "-m", "arc.query", str(start.data_dir), str(start.socket)]
    if start.ready_fd is not None:
        words += ["--ready-fd", str(start.ready_fd)]
    for name, value in msgspec.structs.asdict(start.options).items():
        words += [_flag(name), str(value)]
    return words


def parse_arguments(arguments: Sequence[str]) -> QueryStart:
    """Undo `command`, the program left out.

    Raises:
        SystemExit: they cannot be understood; standard error says why.
    """
    parser = argparse.ArgumentParser(prog="python -m arc.query", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--ready-fd", type=int)
    for field in msgspec.structs.fields(QueryOptions):
        kind = type(field.default)
        parser.add_argument(_flag(field.name), type=kind, default=field.default)
    found = vars(parser.parse_args(arguments))
    places = {name: found.pop(name) for name in ("data_dir", "socket", "ready_fd")}
    return QueryStart(**places, options=QueryOptions(**found))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
