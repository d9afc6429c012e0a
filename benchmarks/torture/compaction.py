"""`kill -9` of what merges files, alone or with the whole tree, while rows come for past hours.

In: a context. Out: a verdict on a data directory that outlived several lives of a daemon, in each
of which files of closed hours and days were merged all the time: by the daemon's own process or by
`arc compact`. Kills fall into the writing of a file, between its name and its commit, into the
removal of replaced files, and between. At the end one more run merges the rest and removes what was
replaced: then files and tables have to agree, and nothing may be left that no table names.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.torture.daemon import REPOSITORY, Daemon, DaemonError
from benchmarks.torture.load import Load, Options
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context

#: Many small files of hours that are over: the load sends rows for those around `HOUR_END_US`.
SMALL_FILES = ("--flush-age-s", "0.3", "--flush-rows", "5000", "--compact-older-than-s", "0")
#: The daemon's own process is there most of the time: each lasts longer than this.
OWN = ("--compact-interval-s", "0.1")
BY_HAND = ("--compact-interval-s", "0")
#: Of a compactor to begin a merge; beside others at work it takes seconds to start.
MERGE_TIMEOUT_S = 60.0
#: A look at what a compactor has staged, to hit steps that take a millisecond.
LOOK_S = 0.0005
STAGED = ".arc/staging/compact-*"
#: Of a new file, and of the note that is there from before its name is given until it is committed.
FILE_STEP, COMMIT_STEP = "compact-file", "compact-swap"
END_TIMEOUT_S = 60.0
#: The last run: at no low priority, since nobody else is at work.
_TO_THE_END = """
import pathlib, sys, structlog
from ingest.compaction import Limits, compact_directory
limits = Limits(older_than_s=0, grace_s=0)
outcome = compact_directory(pathlib.Path(sys.argv[1]), structlog.get_logger(), limits)
sys.exit(1 if outcome.failures else 0)
"""

Find = Callable[[], psutil.Process | None]


class Compaction:
    """`kill -9` of compactors, and of everything, under load.

    A round is one life of a daemon, in which one or two compactors are killed, and which ends by
    SIGKILL for the whole tree or, the last one of a data directory always, in order.
    """

    name = "compaction"
    description = "kill -9 of compactors, and of the whole tree, amid merges under load"
    default_rounds = 10
    record_rounds = 100
    group = 5

    def requirement(self) -> str | None:
        """It runs everywhere."""
        return None

    def round(self, context: Context) -> Verdict:
        """Some lives, one last run of a compactor, and the verdict."""
        names = ("kills of a compactor", "amid a file", "amid a commit", "kills of the tree")
        result = Verdict(tallies=dict.fromkeys((*names, "merges"), 0))
        with context.daemon(*SMALL_FILES) as daemon:
            for life in range(context.rounds):
                self._live(context, daemon, life, result)
        merges = result.tallies["merges"] = merges_of(context.data_dir)
        result.require(merges, "nothing was merged before the last run")
        compact_to_the_end(context)
        result.add(context.judge())
        judge_leftovers(context, result)
        return result

    def _live(self, context: Context, daemon: Daemon, life: int, result: Verdict) -> None:
        chance = context.chance
        is_last = life == context.rounds - 1
        by_hand = chance.random() < 0.3 and not (context.quick and is_last)
        daemon.start("--workers", str(chance.choice((1, 2))), *(BY_HAND if by_hand else OWN))
        daemon.wait_until_ready()
        options = Options(seed=chance.randrange(2**31), extra_columns=life + 1, rate=100.0)
        kills = 1 if context.quick else chance.choice((1, 2))
        with (
            _hand(context, by_hand) as hand,
            Load(daemon.address, context.ledger, options),
        ):
            find = hand or daemon.compactor
            for _ in range(kills):
                self._kill_compactor(context, find, result)
            ends_badly = not is_last and chance.random() < 0.7
            if ends_badly:
                self._kill_tree(context, daemon, find, result)
        if not ends_badly:
            status = daemon.stop()
            result.require(status == 0, f"exit status {status} after SIGTERM, wanted 0")
        context.say(
            f"round {context.first_round + life + 1}: {kills} killed "
            f"{'by hand' if by_hand else 'of the daemon'}, then "
            f"{'everything' if ends_badly else 'SIGTERM'}"
        )

    def _kill_compactor(self, context: Context, find: Find, result: Verdict) -> None:
        process, step = _await_step(context, find)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(END_TIMEOUT_S)
        result.tallies["kills of a compactor"] += 1
        _tally_step(context, step, result)

    def _kill_tree(self, context: Context, daemon: Daemon, find: Find, result: Verdict) -> None:
        _, step = _await_step(context, find)
        daemon.kill_tree()
        result.tallies["kills of the tree"] += 1
        _tally_step(context, step, result)


def _await_step(context: Context, find: Find) -> tuple[psutil.Process, str]:
    """Wait for a compactor at work, then for a step of it, then for a moment; it, and which step.

    Raises:
        DaemonError: none began to merge in time.
    """
    chance = context.chance
    step, file_number = chance.choice((FILE_STEP, COMMIT_STEP, COMMIT_STEP)), chance.choice((2, 4))
    seen: set[str] = set()
    deadline_s = time.monotonic() + MERGE_TIMEOUT_S
    process: psutil.Process | None = None
    while time.monotonic() < deadline_s:
        if process is None or not process.is_running():
            process = find()
        staged = {path.name for path in context.data_dir.glob(STAGED)}
        seen |= {name for name in staged if name.startswith(FILE_STEP)}
        is_there = len(seen) >= file_number and any(name.startswith(step) for name in staged)
        if process is not None and is_there:
            time.sleep(chance.choice((0.0, 0.001, 0.005, 0.05)) * chance.random())
            return process, step
        time.sleep(LOOK_S)
    raise DaemonError(f"no compactor was seen at work within {MERGE_TIMEOUT_S:g} s")


def _tally_step(context: Context, wanted: str, result: Verdict) -> None:
    """Count where a kill fell, by what it has left."""
    left = {path.name for path in context.data_dir.glob(STAGED)}
    if any(name.startswith(COMMIT_STEP) for name in left):
        result.tallies["amid a commit"] += 1
    elif any(name.startswith(FILE_STEP) for name in left):
        result.tallies["amid a file"] += 1


@contextlib.contextmanager
def _hand(context: Context, wanted: bool) -> Iterator[Find | None]:
    """`arc compact`, again and again while somebody asks for its process; None: not wanted."""
    started: list[subprocess.Popen[bytes]] = []

    def find() -> psutil.Process | None:
        if not started or started[-1].poll() is not None:
            arguments = ["compact", str(context.data_dir), "--older-than", "0"]
            with (context.folder / "compact.log").open("ab") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "arc", *arguments],
                        cwd=REPOSITORY,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
        return psutil.Process(started[-1].pid)

    try:
        yield find if wanted else None
    finally:
        for process in started:
            process.kill()
            process.wait()


def compact_to_the_end(context: Context) -> None:
    """Merge what is left, and remove what was replaced, without the time that readers are given.

    Raises:
        DaemonError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", _TO_THE_END, str(context.data_dir)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DaemonError(f"the last run failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def judge_leftovers(context: Context, result: Verdict) -> None:
    """Nothing may be staged any more, and `arc verify` must find nothing wrong."""
    staged = [path.name for path in (context.data_dir / ".arc/staging").iterdir()]
    result.require(not staged, f"left in the staging folder: {staged[:8]}")
    verified = subprocess.run(
        [sys.executable, "-m", "arc", "verify", str(context.data_dir)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"{verified.stdout[-1500:]}{verified.stderr[-500:]}"
    result.require(verified.returncode == 0, f"arc verify: {said}")


def merges_of(data_dir: Path) -> int:
    """Commits of compactors, as far back as the logs of the tables go."""
    commits = data_dir.glob("*/*/_delta_log/*.json")
    return sum(b'"operation":"OPTIMIZE"' in path.read_bytes() for path in commits)


PROGRAMS = (Compaction(),)
