"""Command line of the memory profiler: attach, load, soak.

In: arguments. Out: tables on the terminal, flame graphs of memray, a picture, JSON; an exit code:
0, 1 when memory leaks, rows are wrong or nothing was recorded, 2 when it could not take place,
3 when the soak is undecided, 130 when interrupted. It ends what it started and nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import launcher
from benchmarks.harness import environment
from benchmarks.load.cli import WORKLOAD_OF
from benchmarks.load.daemon import REPOSITORY, DaemonError, start
from benchmarks.load.generator import GeneratorError, LoadResult, run_load
from benchmarks.load.oracle import verify
from benchmarks.load.report import git_state
from benchmarks.load.spec import FORMATS, LoadSpec
from benchmarks.memory import report
from benchmarks.memory.allocations import Allocations, NotReadableError, read_all
from benchmarks.memory.attach import AttachError, attached
from benchmarks.memory.soak import Soak, SoakError, SoakPlan, soak
from benchmarks.memory.trend import Leak
from benchmarks.memory.worker import GLOB, TrackOptions
from benchmarks.profiling.daemon import NoDaemonError, find_daemon
from benchmarks.progress import Tell, progress

FAILED, CANNOT, UNDECIDED, INTERRUPTED = 1, 2, 3, 130

DEFAULT_S, DEFAULT_LOAD_S, DEFAULT_SOAK_S = 30.0, 10.0, 1800.0

#: Without a terminal: one line of progress this often.
PLAIN_PROGRESS_S = 15.0

#: Of a soak, in which memory is still to find its level, at the most.
SETTLE_SHARE, SETTLE_S = 0.25, 300.0

DESCRIPTION = """\
Where the memory of Arc's workers goes (memray), and whether it comes back (a soak). Without
--load or --soak it attaches to the workers of the running daemon for SECONDS."""
EPILOG = """\
Flags after -- go to the daemon that --load or --soak starts, e.g. `--load 10 -- --workers 1`.
docs/profiling/memory.md says how to read what comes out."""


def parser() -> argparse.ArgumentParser:
    """The options, for `--help` and for tests."""
    out = argparse.ArgumentParser(prog="profile_memory.py", description=DESCRIPTION, epilog=EPILOG)
    add = out.add_argument
    add("seconds", type=float, nargs="?", help=f"attach that long (default {DEFAULT_S:g})")
    kind = out.add_mutually_exclusive_group()
    kind.add_argument(
        "--load",
        type=float,
        nargs="?",
        const=DEFAULT_LOAD_S,
        metavar="SECONDS",
        help="start a daemon under memray and load it; ends both",
    )
    kind.add_argument(
        "--soak",
        type=float,
        nargs="?",
        const=DEFAULT_SOAK_S,
        metavar="SECONDS",
        help="start an ordinary daemon, load it for long, and tell whether its memory grows",
    )
    _add_memray(out.add_argument_group("memray"))
    _add_load(out.add_argument_group("load"))
    group = out.add_argument_group("output")
    group.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    group.add_argument("--output-dir", type=Path, default=Path("."), help="of the other files")
    group.add_argument("--top", type=int, default=15, help="lines to list (default %(default)s)")
    return out


def _add_memray(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--native", action="store_true", help="frames of C and C++ in the flame graph; slow")
    add(
        "--python-objects",
        action="store_true",
        help="every object of Python's own allocator, not only its arenas; much slower",
    )
    add("--no-flamegraph", action="store_true", help="tables only")
    add(
        "--data-dir",
        type=Path,
        help="of the daemon to attach to (default data); with --load and --soak, where to store "
        "(default a temporary folder)",
    )


def _add_load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--format", choices=FORMATS, default="columnar", help="(default %(default)s)")
    add("--workload", choices=["b", "c", "mixed", "agent", "logs"], help="see docs/benchmarking.md")
    add("--rows", type=int, help="a request; default 1000, of logs 10000")
    add("--connections", type=int, default=16, help="(default %(default)s)")
    add("--compression", choices=["none", "gzip", "zstd"], default="none")
    add("--rate", type=float, help="records/s; default: as many as go, for --soak see --share")
    add("--share", type=float, default=0.7, help="of the capacity, for --soak (default 0.7)")
    add(
        "--settle",
        type=float,
        metavar="SECONDS",
        help="at the start of --soak, left out of the trend; default: a quarter, 300 at the most",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    ours, flags = _split(list(sys.argv[1:] if argv is None else argv))
    args = parser().parse_args(ours)
    if flags and args.load is None and args.soak is None:
        parser().error("flags after -- are for the daemon that --load or --soak starts")
    if args.seconds is not None and (args.load or args.soak):
        parser().error("SECONDS is for a running daemon; write them after --load or --soak")
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        if args.soak is not None:
            return _soak(args, flags, console)
        return _allocations(args, flags, console)
    except (
        *(AttachError, DaemonError, NoDaemonError, NotReadableError, SoakError, GeneratorError),
        *(OSError, ValueError),
    ) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False)
        return CANNOT
    except KeyboardInterrupt:
        return INTERRUPTED


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and the flags for the daemon, which follow `--`."""
    if "--" not in argv:
        return argv, []
    cut = argv.index("--")
    return argv[:cut], argv[cut + 1 :]


def _spec(args: argparse.Namespace, seconds: float) -> LoadSpec:
    workload = args.workload or WORKLOAD_OF[args.format]
    spec = LoadSpec(workload=workload, format=args.format, columns=_columns(workload))
    return spec.with_changes(
        rows=args.rows or (10_000 if workload == "logs" else 1_000),
        connections=args.connections,
        compression=args.compression,
        seconds=seconds,
        warmup_s=min(1.0, seconds / 4),
        rate=args.rate if args.soak is None else None,
        database="profile_memory",
        declare_tags=spec.load.declares_tags,
    )


def _columns(workload: str) -> int:
    from benchmarks.data import WORKLOADS

    return WORKLOADS[workload].num_columns


# ---------------------------------------------------------------------------------- allocations


def _allocations(args: argparse.Namespace, flags: Sequence[str], console: Console) -> int:
    """Record, and show where memory went."""
    stem = _stem(args.output_dir)
    with tempfile.TemporaryDirectory(prefix="arc-memray-") as name, ExitStack() as stack:
        folder = Path(name)
        if args.load is not None:
            rows, problems = _record_load(args, flags, folder, console, stack)
        else:
            rows, problems = _record_running(args, folder, console)
        files = sorted(folder.glob(GLOB))
        if not files:
            raise NotReadableError("memray wrote no file: did every worker die at once?")
        with progress(console, "reading", PLAIN_PROGRESS_S) as tell:
            tell(f"{len(files)} files of memray", True)
            found = read_all(files)
        graphs = [] if args.no_flamegraph else _flame_graphs(files, stem, console)
    _show(found, rows, args.top, console)
    for path in graphs:
        console.print(f"flame graph  {path}", soft_wrap=True)
    for problem in problems:
        console.print(f"[bold red]FAILED[/]  {problem}")
    if args.json:
        figures = found.to_dict(rows, args.top) | {
            "problems": problems,
            "flame_graphs": [str(path) for path in graphs],
        }
        _write_json(args.json, figures)
    return FAILED if problems or not found.total.allocations else 0


def _record_load(
    args: argparse.Namespace,
    flags: Sequence[str],
    folder: Path,
    console: Console,
    stack: ExitStack,
) -> tuple[int, list[str]]:
    """A daemon with its workers under memray, loaded and ended; records stored, and faults."""
    data_dir = _data_dir(args, stack)
    options = TrackOptions(str(folder), args.native, args.python_objects)
    command = launcher.command("benchmarks.memory.worker", options.to_argument())
    spec = _spec(args, args.load)
    with progress(console, "load", PLAIN_PROGRESS_S) as tell:
        tell("starting a daemon with its workers under memray", True)
        daemon = start(data_dir, flags, set(), command)
        try:
            load = run_load(spec, daemon.address, _watch(tell, spec))
            tell("SIGTERM, waiting for the drain", True)
            exit_code, _ = daemon.stop()
        finally:
            daemon.abandon()
    return load.acknowledged_rows(), _faults(spec, load, data_dir, exit_code)


def _watch(tell: Tell, spec: LoadSpec) -> Callable[[float, dict[str, int]], None]:
    whole_s = spec.warmup_s + spec.seconds
    return lambda at, sums: tell(
        f"{min(at, whole_s):.1f} of {whole_s:g} s, {sums['acknowledged'] * spec.rows:,} records",
        False,
    )


def _faults(spec: LoadSpec, load: LoadResult, data_dir: Path, exit_code: int) -> list[str]:
    found = verify(spec, load.outcomes(), data_dir).faults()
    out = [f"{name.replace('_', ' ')}: {count:,}" for name, count in found.items()]
    if exit_code:
        out.append(f"the daemon ended with exit code {exit_code}")
    return out


def _record_running(
    args: argparse.Namespace, folder: Path, console: Console
) -> tuple[int, list[str]]:
    """The workers of the daemon that runs, for some seconds; records accepted meanwhile."""
    seconds = args.seconds or DEFAULT_S
    data_dir = args.data_dir or REPOSITORY / "data"
    workers = find_daemon(data_dir).workers
    options = TrackOptions(str(folder), args.native, args.python_objects)
    with progress(console, "attach", PLAIN_PROGRESS_S) as tell:
        tell(f"getting into {len(workers)} workers", True)
        with attached(workers, seconds, data_dir, options) as tracked:
            _sleep(seconds, tell)
            tell("leaving the workers", True)
    return tracked.rows, []


def _sleep(seconds: float, tell: Tell) -> None:
    """Wait; Ctrl-C ends it early and keeps what was recorded."""
    began_s = time.monotonic()
    try:
        while (passed_s := time.monotonic() - began_s) < seconds:
            tell(f"{passed_s:.0f} of {seconds:g} s", False)
            time.sleep(min(0.25, seconds - passed_s))
    except KeyboardInterrupt:
        tell("stopped early; keeping what was recorded", True)


def _flame_graphs(files: Sequence[Path], stem: Path, console: Console) -> list[Path]:
    """One page of memray's own for each worker: what it held at its peak."""
    out = []
    with progress(console, "flame graph", PLAIN_PROGRESS_S) as tell:
        for i, file in enumerate(files):
            tell(f"{i + 1} of {len(files)}", False)
            page = stem.with_name(f"{stem.name}_worker{i}.html")
            command = [sys.executable, "-m", "memray", "flamegraph", "--force"]
            done = subprocess.run(
                [*command, "--output", str(page), str(file)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                out.append(page)
            else:
                console.print(f"no flame graph of worker {i}: {done.stderr.strip()}", markup=False)
    return out


def _show(found: Allocations, rows: int | None, top: int, console: Console) -> None:
    console.print(report.stage_table(found, rows))
    console.print(report.place_table(found, top))
    console.print(report.summary(found, rows), soft_wrap=True, highlight=False)


# ----------------------------------------------------------------------------------------- soak


def _soak(args: argparse.Namespace, flags: Sequence[str], console: Console) -> int:
    """Load for long, and tell whether memory grows."""
    settle_s = min(SETTLE_S, SETTLE_SHARE * args.soak) if args.settle is None else args.settle
    with ExitStack() as stack:
        data_dir = _data_dir(args, stack)
        plan = SoakPlan(_spec(args, args.soak), data_dir, flags, args.rate, args.share, settle_s)
        with progress(console, "soak", PLAIN_PROGRESS_S) as tell:
            found = soak(plan, tell)
    picture = _stem(args.output_dir).with_suffix(".svg")
    picture.write_text(report.picture(found), encoding="utf-8")
    _show_soak(found, console)
    console.print(f"picture  {picture}", soft_wrap=True)
    if args.json:
        _write_json(args.json, found.to_dict())
    if found.problems() or found.leak is Leak.YES:
        return FAILED
    return UNDECIDED if found.leak is Leak.UNDECIDED else 0


def _show_soak(found: Soak, console: Console) -> None:
    reached = found.load.rows_per_s()
    of = f", {found.rate / found.capacity:.0%} of {found.capacity:,.0f}" if found.capacity else ""
    console.print(f"load      {reached:,.0f} records/s acknowledged of {found.rate:,.0f} due{of}")
    rows = found.verdict
    console.print(
        f"rows      {rows.acknowledged:,} acknowledged, {rows.stored:,} read back in {rows.files} "
        f"files, {rows.compared:,} compared by value"
    )
    console.print(report.trend_table(found))
    for line in report.verdict(found):
        console.print(line, soft_wrap=True, highlight=False)
    for problem in found.problems():
        console.print(f"[bold red]FAILED[/]  {problem}")
    for example in rows.examples:
        console.print(f"  {example}", markup=False)


# ---------------------------------------------------------------------------------------- parts


def _stem(folder: Path) -> Path:
    return folder / f"profile_memory_{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _data_dir(args: argparse.Namespace, stack: ExitStack) -> Path:
    if args.data_dir is not None:
        return Path(args.data_dir).resolve()
    temporary = Path(tempfile.mkdtemp(prefix="arc-memory-"))
    stack.callback(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _write_json(path: Path, figures: dict[str, object]) -> None:
    about = {"command": sys.argv, "git": git_state(), "environment": environment()}
    path.write_text(json.dumps(about | figures, indent=2, default=str), encoding="utf-8")
