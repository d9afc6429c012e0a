"""From a configuration to a running daemon: claims what no two may share, then supervises.

The data directory by its lock, the port by a bound socket, both held until the end. Whatever
stands in the way is a `StartError` of one line. Nothing here looks after workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from structlog.typing import FilteringBoundLogger

from arc import logs
from arc.config import Config, resolve
from arc.metrics import all_paths, row_balance
from arc.ports import PortTakenError, hold_port, url_of
from arc.query.options import socket_path
from arc.runtime import DaemonLock, DataDir, DataDirError, LockHeldError, is_alive
from arc.supervisor import Supervisor

#: Connections need descriptors; systems commonly allow 1 024 until a program asks for more.
OPEN_FILES = 65_536


class StartError(Exception):
    """The daemon cannot start; the message is one line for its user."""


def serve(config: Config, command: Sequence[str] | None = None) -> int:
    """Run the daemon in this process until it is told to stop.

    Args:
        config: As loaded.
        command: Program and arguments of the template, instead of `template_command()`.

    Returns:
        Exit status of the process, as `Supervisor.run`.

    Raises:
        StartError: the data directory or the port cannot be had.
    """
    os.umask(0o077)
    log = logs.configure(config.log_level, config.log_format)
    resolved = resolve(config)
    _report_cut_limits(config, resolved, log)
    where = DataDir(resolved.data_dir)
    with contextlib.ExitStack() as stack:
        lock = _claim_data_dir(where, resolved, log)
        stack.callback(lock.release)
        port = stack.enter_context(_claim_port("port", resolved.host, resolved.port))
        resolved = msgspec.structs.replace(resolved, port=port.getsockname()[1])
        if resolved.otlp_port:
            stack.enter_context(_claim_port("otlp_port", resolved.host, resolved.otlp_port))
        _clear_run_dir(where, log)
        _allow_open_files()
        template = template_command() if command is None else command
        return asyncio.run(_run(resolved, where, lock, template, log))


async def _run(
    config: Config,
    where: DataDir,
    lock: DaemonLock,
    command: Sequence[str],
    log: FilteringBoundLogger,
) -> int:
    return await Supervisor(config, where, lock, command, log).run()


def template_command() -> list[str]:
    """How to start the template of the workers with this Python and this copy of Arc.

    `-m` puts the working directory on the path. That is right when Arc itself was found there;
    otherwise `-P` keeps it off, or a user's folder named `ingest` would be imported for ours.
    """
    found_here = Path(__file__).resolve().parent.parent == Path.cwd().resolve()
    return [sys.executable, *([] if found_here else ["-P"]), "-m", "arc.template", "arc.worker"]


def _claim_data_dir(where: DataDir, config: Config, log: FilteringBoundLogger) -> DaemonLock:
    """Take the lock; wait for the workers of a supervisor that was killed."""
    try:
        where.prepare()
    except DataDirError as error:
        raise StartError(f"data_dir: {error}") from error
    deadline_s = time.monotonic() + config.shutdown_timeout_s
    told = False
    while True:
        try:
            return DaemonLock(where.lock)
        except LockHeldError as error:
            if error.pid is not None and is_alive(error.pid):
                raise StartError(
                    f"data_dir: {where.root} is in use by the daemon with process id {error.pid}"
                ) from error
            if time.monotonic() >= deadline_s:
                raise StartError(
                    f"data_dir: {where.root} is in use by workers of a daemon that died "
                    f"(see {where.daemon_json} for their process ids)"
                ) from error
        if not told:
            log.warning("waiting_for_workers_of_a_daemon_that_died", data_dir=str(where.root))
            told = True
        time.sleep(0.05)


def _claim_port(setting: str, host: str, port: int) -> socket.socket:
    try:
        return hold_port(host, port)
    except PortTakenError as error:
        hint = "choose another, or 0 for any free one" if setting == "port" else "choose another"
        raise StartError(f"{setting}: {error}; {hint}") from error
    except OSError as error:
        raise StartError(
            f"host, {setting}: cannot listen on {url_of(host, port)}: {error.strerror}"
        ) from error


def _clear_run_dir(where: DataDir, log: FilteringBoundLogger) -> None:
    """Remove what a former daemon left, and say what became of its rows."""
    rows = row_balance(where.run)
    if (rows.gone or rows.in_log) and where.daemon_json.exists():
        log.warning("former_daemon_was_killed", rows_lost=rows.gone, rows_in_log=rows.in_log)
    where.forget_keys()
    for path in (where.daemon_json, socket_path(where.root), *all_paths(where.run)):
        path.unlink(missing_ok=True)


def _report_cut_limits(config: Config, resolved: Config, log: FilteringBoundLogger) -> None:
    for name in ("max_body_bytes", "max_decompressed_bytes"):
        asked, used = getattr(config, name), getattr(resolved, name)
        if used < asked:
            log.warning("limit_cut_to_memory_of_a_worker", setting=name, asked=asked, used=used)


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
