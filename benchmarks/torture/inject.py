"""`faults`: system calls of a worker fail under load, once and then for a while.

In each round: one group of calls, one error, the n-th call of each thread. First only that call
fails, then that and all later ones, until strace has let go for the calls to work again. Wanted:
clients see 204 or 503 with Retry-After and no dying connection, `/metrics` answers all the time,
`/ready` says why nothing is taken, 204 comes back within `RESUME_S` without a restart, and
nothing that was acknowledged is lost and nothing that was refused is stored.

Forty rounds are the whole grid: write, fdatasync, rename and link, close · EIO and ENOSPC ·
call 1, 2, 3, 10, 100. Beyond them come `stream`, the bytes of a staged Parquet file, which is
written by the call that sockets use as well and so needs a file to lie in wait for, and
`allocate`.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks.torture import strace
from benchmarks.torture.daemon import Daemon
from benchmarks.torture.load import Ledger, Load, Options
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.power import judge_all
from benchmarks.torture.program import Context
from benchmarks.torture.watch import Watch

GROUPS = ("write", "sync", "name", "close")
ERRORS = ("EIO", "ENOSPC")
CALLS = (1, 2, 3, 10, 100)

#: After the fault has gone.
RESUME_S = 5.0
LASTING_S = 1.0
#: After the first thread was hit, others get their turn.
OTHER_THREADS_S = 0.5
#: How long the n-th call of a thread may take to come up: this and so much for each of the n.
HIT_TIMEOUT_S = (5.0, 0.25)
#: Small segments, so that files are opened and closed all the time; one thread for each kind of
#: work, since calls are counted by thread.
FLAGS = (
    *("--flush-age-s", "0.1", "--log-segment-bytes", "256KiB"),
    *("--workers", "1", "--flush-threads", "1"),
)
#: Log segments that may come up while a fault lasts: strace wants to know their names.
SEGMENTS_AHEAD = 400
STREAM_TRIES = 400


class Fault(NamedTuple):
    """What fails: calls of a group, with which error, at which call of each thread."""

    group: str
    error: str
    call: int


def grid() -> list[Fault]:
    """Every fault, the forty that are asked for first."""
    main = itertools.product(CALLS, ERRORS, GROUPS)
    more = itertools.product(CALLS[:3], ERRORS, ("allocate",))
    last = itertools.product(CALLS[:1], ERRORS, ("stream",))  # a small file is one write
    return [Fault(group, error, call) for call, error, group in (*main, *more, *last)]


class Faults:
    """The program; see the module."""

    name = "faults"
    description = "EIO and ENOSPC from write, fdatasync, rename, link and close, by strace"
    default_rounds = 8
    record_rounds = 40
    group = 1

    def requirement(self) -> str | None:
        """Why it cannot run here, None when it can."""
        return strace.requirement()

    def round(self, context: Context) -> Verdict:
        """One fault of the grid, once and then for a while."""
        faults = grid()
        fault = faults[context.first_round % len(faults)]
        ledger, verdict = context.ledger, Verdict()
        options = Options(seed=context.chance.randrange(1 << 30), rate=400.0)
        with context.daemon(*FLAGS) as daemon:
            daemon.start()
            daemon.wait_until_ready()
            with (
                Load(daemon.address, ledger, options) as load,
                Watch(daemon.address, ledger) as watch,
            ):
                load.wait_for(50)
                _break_once(context, daemon, fault, verdict)
                if fault.group != "stream":
                    _break_for_a_while(context, daemon, fault, watch, verdict)
                _expect_recovery(watch, fault, verdict)
            watch.judge(verdict)
            check_statuses(ledger, verdict)
            _end(context, daemon)
        return judge_all(context, context.data_dir, verdict)


def _break_once(context: Context, daemon: Daemon, fault: Fault, verdict: Verdict) -> None:
    """Let one call of each thread fail."""
    if fault.group == "stream":
        hits = _break_a_file(daemon, fault)
    else:
        pid, paths = daemon.workers[0], _paths(daemon.data_dir, fault.group)
        with strace.injected(pid, fault.group, fault.error, str(fault.call), paths) as injection:
            if injection.wait_for_hit(_patience_s(fault)):
                time.sleep(OTHER_THREADS_S)
            hits = injection.by_call()
    context.say(f"{fault.group} {fault.error} at call {fault.call}: {_in_words(hits)}")
    verdict.figures[f"hits {fault.group} {fault.error} {fault.call}"] = hits.total()
    verdict.require(hits, f"{fault}: no call failed, so the round proves nothing")


def _break_for_a_while(
    context: Context, daemon: Daemon, fault: Fault, watch: Watch, verdict: Verdict
) -> None:
    """Let every call from the n-th on fail, for a second from the first failure."""
    pid, paths = daemon.workers[0], _paths(daemon.data_dir, fault.group)
    with strace.injected(pid, fault.group, fault.error, f"{fault.call}+", paths) as injection:
        if injection.wait_for_hit(_patience_s(fault)):
            time.sleep(LASTING_S)
        hits = injection.by_call()
    refused = sum(answer.status == 503 for answer in watch.writes)
    reason = (watch.reasons() or ["none"])[-1]
    context.say(
        f"then for {LASTING_S:g} s: {_in_words(hits)}; {refused} refusals, /ready: {reason}"
    )
    name = f"hits {fault.group} {fault.error} {fault.call}+"
    verdict.figures[name] = hits.total()


def _patience_s(fault: Fault) -> float:
    base_s, each_s = HIT_TIMEOUT_S
    return base_s + each_s * fault.call


def _in_words(hits: Counter[str]) -> str:
    return ", ".join(f"{n} {call} failed" for call, n in sorted(hits.items())) or "no call failed"


def _expect_recovery(watch: Watch, fault: Fault, verdict: Verdict) -> None:
    took_s = watch.wait_for(watch.writes, 204, RESUME_S)
    verdict.require(took_s is not None, f"{fault}: no 204 within {RESUME_S:g} s after it")
    ready_s = watch.wait_for(watch.readiness, 200, RESUME_S)
    verdict.require(ready_s is not None, f"{fault}: not ready within {RESUME_S:g} s after it")
    verdict.figures["resume_s"] = took_s if took_s is not None else RESUME_S


def check_statuses(ledger: Ledger, verdict: Verdict) -> None:
    """A load that was never killed has seen nothing but 204 and 503."""
    odd = {status: n for status, n in ledger.statuses().items() if status not in (204, 503)}
    verdict.require(not odd, f"answers to the load by status (0: the connection died): {odd}")


def _end(context: Context, daemon: Daemon) -> None:
    """Kill or stop it; start it again; stop it."""
    if context.chance.random() < 0.5:
        daemon.kill_tree()
    else:
        daemon.stop()
    daemon.start()
    daemon.wait_until_ready()
    daemon.stop()


def _paths(data_dir: Path, group: str) -> list[Path]:
    """Files and directories that calls of a group are to fail on; empty: on any.

    Names of staged files and commits cannot be known before they are there; their directories
    can, and are opened to be synced.
    """
    if group not in strace.NEED_PATHS:
        return []
    folders = [Path(root) for root, _, _ in os.walk(data_dir) if "/run" not in root]
    log = data_dir / ".arc/shards/000/log"
    last = max((int(path.stem) for path in log.glob("[0-9]*.log")), default=0)
    first = max(1, last - 20)
    segments = [log / f"{number:012d}.log" for number in range(first, last + SEGMENTS_AHEAD)]
    return [data_dir, *folders, *segments]


def _break_a_file(daemon: Daemon, fault: Fault) -> Counter[str]:
    """Lie in wait for a staged Parquet file, and let the n-th write of it fail.

    The worker is held still between the sight of a file and the arrival of strace. A file that
    was complete by then cannot be hit; another one comes.
    """
    pid, staging = daemon.workers[0], daemon.data_dir / ".arc/staging"
    for _ in range(STREAM_TRIES):
        name = _sighted(staging)
        if name is None:
            continue
        os.kill(pid, signal.SIGSTOP)
        try:
            when, paths = str(fault.call), [staging / name]
            with strace.injected(pid, fault.group, fault.error, when, paths) as injection:
                os.kill(pid, signal.SIGCONT)
                injection.wait_for_hit(0.2)
                if injection.hits():
                    return injection.by_call()
        finally:
            os.kill(pid, signal.SIGCONT)
    return Counter()


def _sighted(staging: Path) -> str | None:
    """A staged file that is still empty; None: none came up within a moment."""
    deadline_s = time.monotonic() + 0.5
    while time.monotonic() < deadline_s:
        for entry in os.scandir(staging):
            try:
                if entry.stat().st_size == 0:
                    return entry.name
            except FileNotFoundError:
                continue
    return None


PROGRAMS = (Faults(),)
