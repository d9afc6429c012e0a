"""Command line of the load generator, and the order of a run.

In: arguments. Out: a report on the terminal, JSON on request, an exit code: 0, 1 when rows are
missing, doubled, torn or foreign, 2 when the run could not take place, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.data import WORKLOADS
from benchmarks.harness import environment
from benchmarks.load.daemon import REPOSITORY, Daemon, DaemonError, find, start
from benchmarks.load.generator import GeneratorError, LoadResult, measure_ceiling, run_load
from benchmarks.load.oracle import verify
from benchmarks.load.report import DaemonUse, Report, load_figures, render
from benchmarks.load.spec import FORMATS, LoadSpec
from benchmarks.load.usage import UsageSampler
from benchmarks.progress import Tell, progress

#: A running daemon stores what it holds within its flush age, 5 s by default.
STORED_TIMEOUT_S = 60.0
#: Without a terminal: one line of progress this often.
PLAIN_PROGRESS_S = 5.0

#: What is sent in a format unless `--workload` says otherwise.
WORKLOAD_OF = {
    "columnar": "c",
    "rows": "agent",
    "line-protocol": "agent",
    "arrow": "c",
    "otlp-logs": "logs",
    "otlp-logs-json": "logs",
}

DESCRIPTION = """\
Send generated load to Arc, then read the Parquet files back and compare them, row by row, with
what was acknowledged. Without --start it uses the daemon that runs on --data-dir."""
EPILOG = """\
Flags after -- go to the daemon that --start starts, e.g. `--start -- --workers 1`; ARC_...
variables reach it as well. Nothing is deleted but the temporary directory of --start."""


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our arguments, and the flags for the daemon, which follow `--`."""
    ours, flags = list(argv), []
    if "--" in ours:
        cut = ours.index("--")
        ours, flags = ours[:cut], ours[cut + 1 :]
    args = _parser().parse_args(ours)
    if flags and not args.start:
        _parser().error("flags after -- are for the daemon that --start starts")
    if args.strings == "varied":
        if args.workload not in (None, "c", "mixed"):
            _parser().error("--strings varied is workload mixed; leave --workload out")
        args.workload = "mixed"
    if args.workload is None:
        args.workload = WORKLOAD_OF[args.format]
    if args.rows is None:
        args.rows = 10_000 if args.workload == "logs" else 1_000
    return args, flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark_ingestion.py", description=DESCRIPTION, epilog=EPILOG
    )
    _add_target(parser.add_argument_group("daemon"))
    _add_load(parser.add_argument_group("load"))
    _add_output(parser.add_argument_group("measurement"))
    return parser


def _add_target(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--url", help="of the running daemon; default: its run file in --data-dir has it")
    add("--start", action="store_true", help="start a daemon, stop it with SIGTERM at the end")
    add(
        "--data-dir",
        type=Path,
        default=None,
        help="of the daemon; default: ARC_DATA_DIR or data, with --start a temporary one",
    )
    add(
        "--command",
        type=shlex.split,
        default=(),
        help="what --start runs; default: python -m arc serve",
    )
    add("--keep", action="store_true", help="keep the temporary directory of --start")
    add("--daemon-cpus", type=_cpus, default=set(), metavar="N,N", help="cores for --start")
    add("--generator-cpus", type=_cpus, default=set(), metavar="N,N", help="cores for the load")


def _add_load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--format",
        choices=FORMATS,
        default="columnar",
        help="which door, and how bodies are encoded (default %(default)s)",
    )
    add(
        "--workload",
        choices=list(WORKLOADS),
        default=None,
        help="see docs/benchmarking.md; default: c, or what the format is for",
    )
    add(
        "--strings",
        choices=["fixed", "varied"],
        default="fixed",
        help="varied: strings of differing length, mixed integers, nils (workload mixed)",
    )
    add("--rows", type=int, default=None, help="a request; default 1000, of logs 10000")
    add("--columns", type=int, default=None, help="with the time; default: as the workload has")
    add("--connections", type=int, default=16, help="over all processes (default %(default)s)")
    add("--processes", type=int, default=1, help="generator processes (default %(default)s)")
    add("--seconds", type=float, default=10.0, help="of measurement (default %(default)s)")
    add("--warmup", type=float, default=1.0, help="seconds before it (default %(default)s)")
    add("--compression", choices=["none", "gzip", "zstd"], default="none")
    add("--rate", type=float, default=None, help="records/s, open loop; default: closed loop")
    add("--bodies", type=int, default=None, help="distinct ones; default: as the workload needs")
    add("--seed", type=int, default=0, help="of the values (default %(default)s)")
    add(
        "--tags",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether bodies declare their tags; default: as the workload has",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--json", type=Path, metavar="FILE", help="write everything to FILE")
    add("--no-ceiling", action="store_true", help="do not measure the generator's own ceiling")
    add("--ceiling-only", action="store_true", help="measure that and nothing else")
    add("--ceiling-seconds", type=float, default=3.0, help="(default %(default)s)")


def _cpus(text: str) -> set[int]:
    return {int(part) for part in text.split(",")}


def spec_of(args: argparse.Namespace) -> LoadSpec:
    """The run that the arguments ask for; raises ValueError for one that cannot be."""
    load = WORKLOADS[args.workload]
    return LoadSpec(
        format=args.format,
        workload=args.workload,
        rows=args.rows,
        columns=load.num_columns if args.columns is None else args.columns,
        connections=args.connections,
        processes=args.processes,
        seconds=args.seconds,
        warmup_s=args.warmup,
        compression=args.compression,
        rate=args.rate,
        bodies=args.bodies,
        seed=args.seed,
        database=f"bench_{secrets.token_hex(4)}",
        declare_tags=load.declares_tags if args.tags is None else args.tags,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    args, flags = parse(sys.argv[1:] if argv is None else argv)
    console = _console()
    try:
        if args.ceiling_only:
            return _ceiling_only(args, console)
        report = run(args, flags, console)
    except (DaemonError, GeneratorError, ValueError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130
    render(report, console)
    if args.json:
        args.json.write_text(json.dumps(report.to_dict(), indent=2, default=str))
    return 1 if report.problems() else 0


def _ceiling_only(args: argparse.Namespace, console: Console) -> int:
    figures = load_figures(measure_ceiling(spec_of(args), args.ceiling_seconds))
    console.print(
        f"ceiling  {figures['rows_per_s']:,.0f} records/s, "
        f"{figures['body_bytes_per_s'] / 1e6:,.0f} MB/s of bodies, "
        f"generator {figures['generator_busy']:.0%} of a core for each process "
        f"({figures['rows_per_generator_cpu_s'] / 1e6:,.1f} M records per CPU-second), "
        f"p50 {figures['latency_ms']['p50']:.2f} ms",
        highlight=False,
    )
    if args.json:
        args.json.write_text(
            json.dumps({"ceiling": figures, "environment": environment()}, indent=2)
        )
    return 0


def _console() -> Console:
    """As wide as the terminal; 120 columns where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def run(args: argparse.Namespace, flags: Sequence[str], console: Console) -> Report:
    """Ceiling, load, drain, verdict.

    Raises:
        ValueError: the arguments do not fit each other.
        DaemonError: there is no daemon, or it fails.
        GeneratorError: the generator fails.
    """
    spec = spec_of(args)
    ceiling = None
    if not args.no_ceiling:
        with progress(console, "ceiling", PLAIN_PROGRESS_S) as tell:
            tell(f"{args.ceiling_seconds:g} s against a sink", True)
            ceiling = measure_ceiling(spec, args.ceiling_seconds)
    with ExitStack() as stack:
        data_dir = _data_dir(args, stack)
        if args.start:
            daemon = start(data_dir, flags, args.daemon_cpus, args.command)
            stack.callback(daemon.abandon)
        else:
            daemon = find(data_dir, args.url)
        load, use = _drive(spec, daemon, args.generator_cpus, console)
        with progress(console, "verify", PLAIN_PROGRESS_S) as tell:
            verdict = verify(
                spec,
                load.outcomes(),
                data_dir,
                lambda done, of: tell(f"{done} of {of} files", False),
            )
        return Report(load, use, verdict, ceiling, data_dir)


def _data_dir(args: argparse.Namespace, stack: ExitStack) -> Path:
    if args.data_dir is not None:
        return Path(args.data_dir).resolve()
    if not args.start:  # start.sh runs the daemon in the repository's folder
        return REPOSITORY / os.environ.get("ARC_DATA_DIR", "data")
    temporary = Path(tempfile.mkdtemp(prefix="arc-benchmark-"))
    if not args.keep:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _drive(
    spec: LoadSpec, daemon: Daemon, cpus: set[int], console: Console
) -> tuple[LoadResult, DaemonUse]:
    """Send the load, let the daemon store it, and account for what it used."""
    use = DaemonUse(info=daemon.info)
    with ExitStack() as stack:
        if daemon.pid:
            use.usage = stack.enter_context(UsageSampler(daemon.pid)).usage
        daemon.mark()
        tell = stack.enter_context(progress(console, "load", PLAIN_PROGRESS_S))
        watch = _Watch(spec, daemon, use, tell)
        load = run_load(spec, daemon.address, watch, cpus)
        if daemon.process is None:
            tell("waiting until everything is stored", True)
            use.drained = daemon.wait_until_stored(STORED_TIMEOUT_S)
            use.cpu_s = daemon.cpu_since_mark_s()
        else:
            tell("SIGTERM, waiting for the drain", True)
            use.exit_code, use.cpu_s = daemon.stop()
            use.last_words = daemon.last_words() if use.exit_code else ""
    return load, use


class _Watch:
    """Live progress of the load, and one look at the connections in the middle of it."""

    def __init__(self, spec: LoadSpec, daemon: Daemon, use: DaemonUse, tell: Tell) -> None:
        self._spec = spec
        self._daemon = daemon
        self._use = use
        self._tell = tell
        self._last = (0.0, 0)

    def __call__(self, elapsed_s: float, sums: dict[str, int]) -> None:
        last_s, last_requests = self._last
        if elapsed_s <= last_s:
            return
        rate = (sums["acknowledged"] - last_requests) * self._spec.rows / (elapsed_s - last_s)
        self._last = (elapsed_s, sums["acknowledged"])
        whole_s = self._spec.warmup_s + self._spec.seconds
        self._tell(
            f"{min(elapsed_s, whole_s):5.1f} of {whole_s:g} s  {rate / 1e6:7.2f} M records/s  "
            f"rejected {sums['refused']:,}  failed {sums['failed']:,}",
            False,
        )
        if not self._use.connections and elapsed_s > whole_s / 2:
            self._use.connections = self._daemon.connections_by_worker()
