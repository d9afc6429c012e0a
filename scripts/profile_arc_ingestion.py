#!/usr/bin/env python3
"""Sample the workers of the running daemon and show where their time goes.

    python scripts/profile_arc_ingestion.py 60
    python scripts/profile_arc_ingestion.py 60 --load

In: a running daemon, found by its data directory. Out: a flame graph (SVG), a speedscope file and
tables in the terminal. It never changes the daemon, and with --load it stops only what it started.

Exit codes: 0 written, 1 nothing could be sampled, 2 not permitted (or a wrong
option), 3 no daemon is running.
docs/profiling/README.md says how to read what comes out.
"""

from __future__ import annotations

from _venv import reexec_in_venv

reexec_in_venv()

import json
import shlex
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from arc.profiler import flamegraph, speedscope, summary
from arc.profiler.samples import WorkerSamples
from benchmarks.profiling import advice, daemon, load, pyspy, report, tree

NOTHING_SAMPLED, NOT_PERMITTED, NO_DAEMON = 1, 2, 3
POLL_S = 0.1

console = Console()
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def main(
    seconds: Annotated[int, typer.Argument(min=1, help="How long to sample, in seconds.")] = 60,
    data_dir: Annotated[
        Path | None,
        typer.Option(envvar="ARC_DATA_DIR", help="Data directory of the daemon; else data/."),
    ] = None,
    rate: Annotated[int, typer.Option(min=1, max=1000, help="Samples a second.")] = 100,
    gil: Annotated[bool, typer.Option("--gil", help="Only threads that hold the GIL.")] = False,
    native: Annotated[
        bool, typer.Option("--native", help="Frames of C and C++ too; slows the daemon.")
    ] = False,
    subprocesses: Annotated[
        bool,
        typer.Option("--subprocesses", help="All processes of the daemon, also those to come."),
    ] = False,
    with_load: Annotated[
        bool,
        typer.Option("--load", help="Start the load generator, and a daemon where none runs."),
    ] = False,
    load_args: Annotated[
        str, typer.Option(help='More for the generator of --load, such as "--workload a".')
    ] = "",
    output_dir: Annotated[
        Path, typer.Option(file_okay=False, writable=True, help="Where the two files go.")
    ] = Path("."),
) -> None:
    """Sample every worker of the running daemon and show where their time goes.

    Ctrl-C ends the sampling early and keeps what was seen.
    """
    options = pyspy.Options(rate, seconds, gil, native, subprocesses)
    data_dir = data_dir or default_data_dir()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fail(NOTHING_SAMPLED, f"the files have no place: {error}") from None
    with ExitStack() as stack:
        if with_load:
            data_dir = begin_load(stack, data_dir, seconds, load_args)
        state, workers = profile(data_dir, output_dir, options)
        replaced = daemon.replaced_workers(state, data_dir)
    write(workers, options, output_dir)
    sampled = {worker.pid for worker in workers}
    for old, new in replaced:
        seen = "was sampled, too" if new and new.pid in sampled else "was not sampled"
        successor = f"pid {new.pid} took its place and {seen}" if new else "it is gone"
        errors.print(f"worker {old.shard} (pid {old.pid}) was replaced meanwhile: {successor}")


def begin_load(stack: ExitStack, data_dir: Path, seconds: int, arguments: str) -> Path:
    """Start what --load starts, to be ended with the stack; returns the daemon's data directory."""
    try:
        context = load.loaded(
            data_dir, seconds, shlex.split(arguments), lambda text: console.print(text)
        )
        return stack.enter_context(context)
    except (load.LoadError, load.DaemonError, ValueError) as error:
        raise fail(NOTHING_SAMPLED, f"no load: {error}") from None


def profile(
    data_dir: Path, output_dir: Path, options: pyspy.Options
) -> tuple[daemon.DaemonState, list[WorkerSamples]]:
    """Find the daemon and sample it; what stands in the way ends the program with advice."""
    try:
        state = daemon.find_daemon(data_dir)
        return state, sample(state, data_dir, options)
    except daemon.NoDaemonError as error:
        raise fail(NO_DAEMON, advice.no_daemon(str(error), data_dir, sys.argv[0])) from None
    except (pyspy.NotPermittedError, PermissionError) as error:
        command = command_for_root(data_dir, output_dir)
        text = advice.not_permitted(str(error), command, pyspy.is_root(), pyspy.ptrace_scope())
        raise fail(NOT_PERMITTED, text) from None
    except pyspy.SamplingError as error:
        raise fail(NOTHING_SAMPLED, str(error)) from None


def default_data_dir() -> Path:
    """data/ here, or else beside start.sh, which is where ./start.sh native makes it."""
    here = Path("data")
    return here if daemon.state_path(here).exists() else Path(__file__).resolve().parents[1] / here


def fail(code: int, message: str) -> typer.Exit:
    """Say what is wrong and make the exit to raise."""
    errors.print(message, markup=False)
    return typer.Exit(code)


class Interrupts:
    """Ctrl-C and SIGTERM while this is open: noted, and not raised.

    Raised, one that comes while a py-spy is being started would leave that one running, unknown to
    us, and nothing sampled.

    Attributes:
        came: Whether one came.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def sample(
    state: daemon.DaemonState, data_dir: Path, options: pyspy.Options
) -> list[WorkerSamples]:
    """Sample all workers at once; those that fail are reported while others succeed.

    Raises:
        pyspy.SamplingError: no worker could be sampled.
    """
    py_spy = pyspy.find_py_spy()
    before = tree.processes(state.pid) if options.subprocesses else {}
    targets = [tree.root_of(state)] if options.subprocesses else state.workers
    with tempfile.TemporaryDirectory(prefix="arc-profile-") as name, Interrupts() as interrupts:
        recordings: list[pyspy.Recording] = []
        try:
            # One by one, so that what was started is stopped also when the next does not start.
            recordings.extend(
                pyspy.start(target, options, Path(name), py_spy)
                for target in targets
                if not interrupts.came
            )
            wait(recordings, options, interrupts)
        finally:
            pyspy.stop(recordings)
        if interrupts.came:
            console.print("stopped early; writing what was sampled")
        if options.subprocesses and recordings:
            return tree.collect(recordings[0], options, shards(state, data_dir), before)
        return collect(recordings, options)


def shards(state: daemon.DaemonState, data_dir: Path) -> dict[int, int]:
    """Shards by process id, of the workers at the beginning and now."""
    found = {worker.pid: worker.shard for worker in state.workers}
    for _, new in daemon.replaced_workers(state, data_dir):
        if new is not None:
            found[new.pid] = new.shard
    return found


def wait(recordings: list[pyspy.Recording], options: pyspy.Options, interrupts: Interrupts) -> None:
    """Show progress until every py-spy has ended by itself, or is far over its time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    what = "the daemon" if options.subprocesses else f"{len(recordings)} workers"
    text = f"sampling {what} at {options.rate_hz} Hz"
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=options.duration_s)
        while pyspy.poll(recordings) and not interrupts.came:
            began = [r.started_at for r in recordings if r.started_at is not None]
            elapsed_s = time.monotonic() - min(began) if began else 0.0
            progress.update(task, completed=min(elapsed_s, options.duration_s))
            if elapsed_s > options.duration_s + pyspy.OVERTIME_S:
                return
            time.sleep(POLL_S)


def collect(recordings: list[pyspy.Recording], options: pyspy.Options) -> list[WorkerSamples]:
    """Read what was sampled.

    Raises:
        pyspy.SamplingError: nothing was, of any worker.
    """
    workers: list[WorkerSamples] = []
    failures: list[pyspy.SamplingError] = []
    for recording in recordings:
        try:
            workers.append(pyspy.collect(recording, options))
        except pyspy.SamplingError as error:
            failures.append(error)
    if not workers:
        raise failures[0] if failures else pyspy.SamplingError("the daemon has no workers")
    for failure in failures:
        errors.print(f"not sampled: {failure}", markup=False)
    return workers


def write(workers: list[WorkerSamples], options: pyspy.Options, output_dir: Path) -> None:
    """Write both files and print the tables."""
    now = datetime.now(UTC)
    stem = output_dir / f"profile_ingestion_{now:%Y%m%dT%H%M%SZ}"
    took_s = max(worker.rounds / worker.rate_hz for worker in workers)
    what = "time holding the GIL" if options.gil else "running time, idle left out"
    kind = "processes" if options.subprocesses else "workers"
    title = f"Arc ingestion, {len(workers)} {kind} merged: {what}"
    subtitle = f"{took_s:.0f} s at {options.rate_hz} Hz, {now:%Y-%m-%d %H:%M:%S} UTC"
    picture, scope = stem.with_suffix(".svg"), stem.with_suffix(".speedscope.json")
    picture.write_text(flamegraph.render(workers, title, subtitle), encoding="utf-8")
    scope.write_text(json.dumps(speedscope.speedscope_file(workers, stem.name)), encoding="utf-8")
    console.print(report.worker_table(workers))
    console.print(report.stage_table(summary.stage_times(workers), options.gil))
    if functions := summary.top_functions(workers):
        console.print(report.function_table(functions))
    for remark in report.remarks(workers, options.gil):
        errors.print(f"note: {remark}", markup=False)
    console.print(f"flame graph  {picture}", soft_wrap=True)
    console.print(f"speedscope   {scope}  (open it at https://www.speedscope.app)", soft_wrap=True)


def command_for_root(data_dir: Path, output_dir: Path) -> list[str]:
    """This call with absolute paths. Later options win, so what was given stays in it."""
    script = str(Path(__file__).resolve())
    places = ["--data-dir", str(data_dir.absolute()), "--output-dir", str(output_dir.absolute())]
    return [sys.executable, script, *sys.argv[1:], *places]


if __name__ == "__main__":
    # `timeout` and the like mean what Ctrl-C means: stop, and keep what was sampled.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    typer.run(main)
