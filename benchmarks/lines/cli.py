"""Command line of the line profiler: bodies in this process, or a load on a whole daemon.

In: arguments. Out: tables of lines on the terminal, JSON on request; an exit code: 0, 1 when none
of the functions was called or rows are wrong, 2 when it could not take place, 130 when
interrupted. It ends what it started and nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import launcher
from benchmarks.data import WORKLOADS
from benchmarks.harness import environment
from benchmarks.lines import drive, functions
from benchmarks.lines.stats import Lines
from benchmarks.lines.worker import GLOB, LineOptions
from benchmarks.load.cli import WORKLOAD_OF
from benchmarks.load.daemon import DaemonError, start
from benchmarks.load.generator import GeneratorError, run_load
from benchmarks.load.oracle import verify
from benchmarks.load.report import git_state
from benchmarks.load.spec import FORMATS, LoadSpec
from ingest.timestamps import TimeUnit

FAILED, CANNOT, INTERRUPTED = 1, 2, 130

DEFAULT_LOAD_S, DEFAULT_REPEATS, DEFAULT_BODIES = 10.0, 20, 32

DESCRIPTION = """\
How often each line of the named functions runs, and for how long: over generated or recorded
bodies in this process (all of the pipeline but HTTP), or with --daemon in every worker of a daemon
under load. FUNCTION is module:function, module:Class.method, or module:* for all of a module."""
EPILOG = """\
Flags after -- go to the daemon, e.g. `--daemon --load 10 -- --workers 1`. Functions that Numba has
compiled have no lines; docs/profiling/lines.md says what to do then."""


def parser() -> argparse.ArgumentParser:
    """The options, for `--help` and for tests."""
    out = argparse.ArgumentParser(prog="profile_lines.py", description=DESCRIPTION, epilog=EPILOG)
    add = out.add_argument
    add("functions", nargs="+", metavar="FUNCTION", help="such as ingest.table_build:build_tables")
    add("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    add("--plain", action="store_true", help="have the plain twins decode, not the fast paths")
    _add_bodies(out.add_argument_group("bodies"))
    _add_daemon(out.add_argument_group("daemon"))
    return out


def _add_bodies(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--payload",
        action="append",
        metavar="KIND|FILE",
        help=f"generated: {', '.join(FORMATS)}; or a recorded body; may be given more than once "
        "(default columnar)",
    )
    add("--format", choices=drive.FORMATS, default="columnar", help="of recorded bodies")
    add("--measurement", default="m", help="of recorded bodies of arrow (default %(default)s)")
    add("--unit", type=TimeUnit, help="of the times of recorded bodies; default: as the door has")
    add("--workload", choices=list(WORKLOADS), help="of generated ones, see docs/benchmarking.md")
    add("--rows", type=int, help="a generated body; default 1000, of logs 10000")
    add("--bodies", type=int, default=DEFAULT_BODIES, help="generated (default %(default)s)")
    add("--compression", choices=["none", "gzip", "zstd"], default="none")
    add("--repeats", type=int, default=DEFAULT_REPEATS, help="of all bodies (default %(default)s)")
    add(
        "--durability", choices=["memory", "page", "disk"], default="memory", help="of the pipeline"
    )


def _add_daemon(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--daemon", action="store_true", help="time the workers of a whole daemon, and end it")
    add("--load", type=float, metavar="SECONDS", help=f"of the daemon (default {DEFAULT_LOAD_S:g})")
    add("--connections", type=int, default=16, help="(default %(default)s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    ours, flags = list(sys.argv[1:] if argv is None else argv), []
    if "--" in ours:
        cut = ours.index("--")
        ours, flags = ours[:cut], ours[cut + 1 :]
    args = parser().parse_args(ours)
    if (flags or args.load is not None) and not args.daemon:
        parser().error("--load, and flags after --, are for --daemon")
    if args.daemon and args.plain:
        parser().error("--plain is for bodies in this process: a daemon decides for itself")
    console = Console(soft_wrap=True, highlight=False)
    try:
        return _daemon(args, flags, console) if args.daemon else _bodies(args, console)
    except (
        *(functions.NoLinesError, drive.BodyError, DaemonError, GeneratorError),
        *(OSError, ValueError),
    ) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False)
        return CANNOT
    except KeyboardInterrupt:
        return INTERRUPTED


def _spec(args: argparse.Namespace, form: str, seconds: float = 1.0) -> LoadSpec:
    workload = args.workload or WORKLOAD_OF[form]
    load = WORKLOADS[workload]
    return LoadSpec(
        format=form,
        workload=workload,
        rows=args.rows or (10_000 if workload == "logs" else 1_000),
        columns=load.num_columns,
        connections=args.connections,
        seconds=seconds,
        warmup_s=min(1.0, seconds / 4),
        compression=args.compression,
        database="profile_lines",
        declare_tags=load.declares_tags,
    )


# --------------------------------------------------------------------------------------- bodies


def _bodies(args: argparse.Namespace, console: Console) -> int:
    requests = [
        request for payload in args.payload or ["columnar"] for request in _of(args, payload)
    ]
    if args.plain:
        drive.prefer_twins()
    profiler = functions.profile(args.functions)
    began_s, before = 0.0, Lines([])

    def began() -> None:
        nonlocal began_s, before
        before = Lines.of(profiler)
        began_s = time.perf_counter()

    rows = drive.run(requests, args.repeats, args.durability, began)
    took_s = time.perf_counter() - began_s
    lines = Lines.of(profiler).less(before)
    what = f"{len(requests) * args.repeats:,} requests, {rows:,} rows in {took_s:.2f} s"
    return _show(args, lines, rows, f"{what}, with the timing of lines in it", [], console)


def _of(args: argparse.Namespace, payload: str) -> list[drive.Request]:
    """The bodies of one `--payload`."""
    if payload in FORMATS:
        return drive.generated(_spec(args, payload).with_changes(bodies=args.bodies), args.bodies)
    path = Path(payload)
    if not path.is_file():
        kinds = ", ".join(FORMATS)
        raise drive.BodyError(f"--payload {payload}: no such file, and no kind ({kinds})")
    return [drive.recorded(path, args.format, args.measurement, args.unit)]


# --------------------------------------------------------------------------------------- daemon


def _daemon(args: argparse.Namespace, flags: Sequence[str], console: Console) -> int:
    for name in args.functions:
        functions.named(name)  # so that a wrong name is told here, and not by every worker
    kinds = args.payload or ["columnar"]
    if len(kinds) > 1 or kinds[0] not in FORMATS:
        raise ValueError(f"a daemon is loaded with one kind of payload: {', '.join(FORMATS)}")
    spec = _spec(args, kinds[0], args.load or DEFAULT_LOAD_S)
    with tempfile.TemporaryDirectory(prefix="arc-lines-") as name:
        folder = Path(name)
        options = LineOptions(name, tuple(args.functions)).to_argument()
        command = launcher.command("benchmarks.lines.worker", options)
        console.print(f"a daemon with its functions timed, {spec.seconds:g} s of load")
        daemon = start(folder / "data", flags, set(), command)
        try:
            load = run_load(spec, daemon.address)
            exit_code, _ = daemon.stop()
        finally:
            daemon.abandon()
        faults = verify(spec, load.outcomes(), folder / "data").faults()
        parts = [Lines.from_bytes(path.read_bytes()) for path in sorted(folder.glob(GLOB))]
    problems = [f"{fault.replace('_', ' ')}: {count:,}" for fault, count in faults.items()]
    if exit_code:
        problems.append(f"the daemon ended with exit code {exit_code}")
    rows = load.acknowledged_rows()
    what = f"{len(parts)} workers, {rows:,} rows, {load.rows_per_s():,.0f} rows/s while timed"
    return _show(args, Lines.merged(parts), rows, what, problems, console)


# ---------------------------------------------------------------------------------------- parts


def _show(
    args: argparse.Namespace,
    lines: Lines,
    rows: int,
    what: str,
    problems: Sequence[str],
    console: Console,
) -> int:
    called = [timed for timed in lines.functions if timed.was_called]
    console.print(Lines(called).text(), markup=False)
    console.print(what)
    for timed in lines.functions:
        if not timed.was_called:
            place = f"{timed.file}:{timed.first_line}"
            console.print(f"never called by this load: {timed.name} ({place})", markup=False)
    for problem in problems:
        console.print(f"[bold red]FAILED[/]  {problem}")
    if args.json:
        about = {"command": sys.argv, "git": git_state(), "environment": environment()}
        figures = lines.to_dict() | {"rows": rows, "what": what, "problems": list(problems)}
        args.json.write_text(json.dumps(about | figures, indent=2, default=str), encoding="utf-8")
    return 0 if called and not problems else FAILED
