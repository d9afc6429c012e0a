"""The command line: `arc serve`, `arc status`, `arc stop`, `arc config`.

Options follow the table of settings in `arc.config`. Whatever is the user's to mend comes out
as one line each on standard error, without a traceback. What only one command needs is imported
by that command, since every call pays for the imports of this module.
"""

from __future__ import annotations

import datetime
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from arc.compactor import register as register_compactor
from arc.config import ConfigError, Field, Loaded, fields, load
from arc.continuous_cli import register as register_continuous
from arc.delete import register as register_delete
from arc.importer import register as register_import
from arc.inspect import register as register_inspection
from arc.quarantine import register as register_quarantine
from arc.query_cli import register as register_queries
from arc.retention import register as register_retention
from arc.runtime import (
    EXIT_IN_LOG,
    DaemonInfo,
    DataDir,
    Sighting,
    State,
    find_daemon,
    is_locked,
)
from arc.version import VERSION

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_RUNNING, EXIT_UNKNOWN = 1, 2, 3, 4

#: For a daemon that is alive, any answer comes within milliseconds.
HTTP_TIMEOUT_S = 5.0
#: `arc stop` waits this much longer than the daemon lets its workers take.
STOP_MARGIN_S = 5.0

_STATUS_ROWS = (
    ("rows accepted", "arc_rows_accepted_total"),
    ("rows stored", "arc_rows_stored_total"),
    ("rows buffered", "arc_rows_buffered"),
    ("rows quarantined", "arc_rows_quarantined_total"),
    ("rows lost", "arc_rows_lost_total"),
    ("log bytes", "arc_log_bytes"),
    ("workers restarted", "arc_worker_restarts_total"),
)


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        build_app()(prog_name="arc")
    except ConfigError as error:
        _fail(error.problems, EXIT_USAGE)
    except PermissionError as error:
        _fail([f"{error.filename}: {error.strerror}"], EXIT_FAILED)
    sys.exit(0)


def build_app() -> typer.Typer:
    """The commands and their options."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(help="Arc takes time series over HTTP and writes them to Parquet files.")(
        _options_of_all
    )
    app.command()(_with_settings(serve, [field.name for field in fields()]))
    app.command()(_with_settings(status, ["data_dir"]))
    app.command()(_with_settings(stop, ["data_dir"]))
    app.command("config")(_with_settings(show_config, [field.name for field in fields()]))
    register_import(app)
    register_inspection(app)
    register_quarantine(app)
    register_retention(app)
    register_delete(app)
    register_continuous(app)
    register_compactor(app)
    register_queries(app)
    return app


def serve(loaded: Loaded) -> int:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    A stop writes out everything that was accepted; a second signal ends it at once, and what was
    not written is in the log for the next start.

    Exits with 0 if everything is stored, 3 if some of it is in the log, 1 if it failed or rows
    are lost, 2 for bad settings.

    Every setting may also stand in the environment and in a TOML file, under the names that
    `arc config` shows. Flags win over the environment, the environment over the file.
    """
    from arc.launch import StartError
    from arc.launch import serve as run_daemon

    try:
        return run_daemon(loaded.config)
    except StartError as error:
        _fail([str(error)], EXIT_FAILED)


def status(loaded: Loaded) -> int:
    """Show whether a daemon is running, whether it takes writes, and what it has counted.

    Exits with 0 if it runs, 3 if it does not, 4 if it is starting, stopping or not answering.
    """
    where = DataDir(loaded.config.data_dir)
    seen = find_daemon(where.root)
    if seen.info is None:
        print(_in_a_sentence(seen, where))
        return EXIT_NOT_RUNNING if seen.state is State.STOPPED else EXIT_UNKNOWN
    try:
        counted, refusal = _scrape(seen.info), _refusal(seen.info)
    except OSError as error:
        print(_in_a_sentence(seen, where))
        _say([f"{seen.info.url} does not answer: {error}"])
        return EXIT_UNKNOWN
    print("\n".join(_status_lines(seen.info, counted, refusal)))
    return 0


def stop(loaded: Loaded) -> int:
    """Stop the daemon, once it has written what it holds.

    Exits with 0 if everything is stored, 3 if some of it is in the log for the next start, 1 if
    rows are lost or the daemon does not end.
    """
    where = DataDir(loaded.config.data_dir)
    seen = find_daemon(where.root)
    print(_in_a_sentence(seen, where))
    if seen.state is State.STOPPED:
        return 0
    if seen.state in (State.RUNNING, State.STARTING) and seen.pid is not None:
        # Not to one that is stopping: a second signal would end it at once.
        os.kill(seen.pid, signal.SIGTERM)
        print("Asked it to stop; waiting until it has written what it holds.", flush=True)
    deadline_s = time.monotonic() + loaded.config.shutdown_timeout_s + STOP_MARGIN_S
    while is_locked(where.lock):
        if time.monotonic() >= deadline_s:
            _fail([f"process {seen.pid} is still running; see its log"], EXIT_FAILED)
        time.sleep(0.05)
    return _report_stop(where)


def show_config(loaded: Loaded) -> int:
    """Print the settings in force, as TOML."""
    for field in fields():
        value = getattr(loaded.config, field.name)
        if field.is_size or field.type is str:
            value = msgspec.json.encode(field.format(value)).decode()
        entry = f"{field.name} = {value}"
        print(f"{entry:<36} # {loaded.sources[field.name]}")
    return 0


def _report_stop(where: DataDir) -> int:
    from arc.metrics import row_balance

    rows = row_balance(where.run)
    parts = [f"{rows.accepted} rows were accepted", f"{rows.stored} stored"]
    if rows.quarantined:
        parts.append(f"{rows.quarantined} set aside as damaged")
    if rows.in_log:
        parts.append(f"{rows.in_log} are in the log for the next start")
    print(f"Stopped. {', '.join(parts)}, {rows.gone} lost.")
    # Those that a killed worker lost before are no fault of this stop.
    if rows.gone > rows.lost:
        return EXIT_FAILED
    return EXIT_IN_LOG if rows.in_log or where.has_log() else 0


def _in_a_sentence(seen: Sighting, where: DataDir) -> str:
    if seen.state is State.STOPPED:
        return f"No daemon is running on {where.root}."
    doing = _replay_progress(where) if seen.state is State.STARTING else ""
    return f"Daemon of process {seen.pid} on {where.root}: {seen.state.value}{doing}."


def _replay_progress(where: DataDir) -> str:
    """How far the workers of a daemon that starts are with their logs; empty if there are none."""
    from arc.metrics import summary

    counted = summary(where.run)
    done, total = counted["arc_replay_bytes_done"], counted["arc_replay_bytes"]
    return f", replaying the log: {done // 10**6} of {total // 10**6} MB" if done < total else ""


def _status_lines(info: DaemonInfo, counted: Mapping[str, float], refusal: str | None) -> list[str]:
    started = datetime.datetime.fromisoformat(info.started_at)
    up = datetime.datetime.now(datetime.UTC) - started
    pids = ", ".join(str(worker.pid) for worker in info.workers)
    rows = [
        ("state", f"running since {info.started_at} ({datetime.timedelta(seconds=up.seconds)})"),
        ("listening on", info.url),
        ("data directory", info.data_dir),
        ("durability", info.durability),
        ("takes writes", "yes" if refusal is None else f"no: {refusal}"),
        ("supervisor", f"process {info.pid}, version {info.version}"),
        (
            "workers",
            f"{counted['arc_workers_up']:.0f} of {counted['arc_workers_wanted']:.0f} ready "
            f"(processes {pids})",
        ),
        *((title, f"{counted[name]:.0f}") for title, name in _STATUS_ROWS),
    ]
    return [f"{title:<18} {text}" for title, text in rows]


def _scrape(info: DaemonInfo) -> dict[str, float]:
    """The unlabelled samples of `/metrics`, by name.

    Raises:
        OSError: as `_get`, or a status other than 200.
    """
    from prometheus_client.parser import text_string_to_metric_families

    status, body = _get(info, "/metrics")
    if status != 200:
        raise OSError(f"/metrics: status {status}")
    families = text_string_to_metric_families(body.decode())
    return {s.name: s.value for family in families for s in family.samples if not s.labels}


def _refusal(info: DaemonInfo) -> str | None:
    """Why the worker that is asked takes no writes; None when it does.

    Raises:
        OSError: as `_get`, or an answer that is not of this program.
    """
    status, body = _get(info, "/ready")
    if status == 200:
        return None
    try:
        return str(msgspec.json.decode(body, type=dict[str, str])["error"])
    except (msgspec.DecodeError, KeyError):
        raise OSError(f"/ready: status {status}") from None


def _get(info: DaemonInfo, path: str) -> tuple[int, bytes]:
    """Status and body of an answer.

    Raises:
        OSError: no connection, no answer in time, or none that is HTTP.
    """
    import http.client

    # Not urllib: it would ask the proxy that the environment names.
    connection = http.client.HTTPConnection(info.host, info.port, timeout=HTTP_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(f"not HTTP: {error!r}") from error
    finally:
        connection.close()


def _options_of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            is_eager=True,
            callback=lambda wanted: _show_version() if wanted else None,
        ),
    ] = False,
) -> None:
    """What `arc` takes without a command."""


def _show_version() -> NoReturn:
    print(f"arc {VERSION}")
    raise typer.Exit


def _with_settings(command: Callable[[Loaded], int], names: list[str]) -> Callable[..., None]:
    """A typer command that loads the settings and runs `command` with them.

    Args:
        command: Returns the exit status of the process. Its docstring is the help.
        names: Settings that it takes as options, beside `--config`.
    """

    def run(config: str | None = None, **flags: str | None) -> None:
        sys.exit(command(load(flags, config)))

    parameters = [_config_option(), *(_option(f) for f in fields() if f.name in names)]
    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _config_option() -> inspect.Parameter:
    help_text = "TOML file with settings. Environment: ARC_CONFIG."
    return _parameter("config", typer.Option("--config", metavar="FILE", help=help_text))


def _option(field: Field) -> inspect.Parameter:
    help_text = (
        f"{field.setting.reason} Allowed: {field.allowed}. "
        f"Default: {field.format(field.default)}. Environment: {field.env_name}."
    )
    metavar = "SIZE" if field.is_size else "TEXT" if field.type is str else "NUMBER"
    return _parameter(field.name, typer.Option(field.flag, metavar=metavar, help=help_text))


def _parameter(name: str, option: Any) -> inspect.Parameter:
    # Text, whatever the setting: arc.config checks it, with one wording for all sources.
    annotation = Annotated[str | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _say(lines: list[str]) -> None:
    for line in lines:
        print(f"arc: {line}", file=sys.stderr)


def _fail(lines: list[str], status: int) -> NoReturn:
    _say(lines)
    sys.exit(status)
