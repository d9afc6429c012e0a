"""`kill -9` of the whole process tree, and of one worker, under mixed load.

In: a context. Out: a verdict on a data directory that outlived several lives of a daemon. Lives
differ in their number of workers and in how often they flush, so that a kill falls before, in and
after every step of a flush, and into the replay of what the life before left.
"""

from __future__ import annotations

import json
import time
from datetime import datetime

from benchmarks.torture.daemon import POLL_S, Daemon
from benchmarks.torture.load import Ledger, Load, Options, Outcome, Request
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context

#: Files every 0.3 s: a good part of all moments lies between writing and committing one.
OFTEN = ("--flush-age-s", "0.3", "--flush-rows", "5000")
#: Of the life that ends in order: nothing is left in memory for long.
LAST = ("--flush-age-s", "0.3")
#: A worker that was killed must be back within this.
BACK_S = 2.0
#: A load before and after the kill of a worker is watched for this long.
AROUND_S = 0.5


class Kill:
    """`kill -9` of the supervisor and all workers at a random moment.

    A round is one life of a daemon and its end; five rounds share a data directory. In one round
    of five the next start is killed as well, while it reads its log.
    """

    name = "kill"
    description = "kill -9 of the whole process tree under mixed load, also during replay"
    default_rounds = 10
    record_rounds = 200
    group = 5

    def requirement(self) -> str | None:
        """It runs everywhere."""
        return None

    def round(self, context: Context) -> Verdict:
        """Some lives that end by SIGKILL, one that ends in order, and the verdict."""
        result = Verdict(tallies={"kills in replay": 0, "kills amid a flush": 0})
        with context.daemon() as daemon:
            lives = range(context.rounds)
            starts_s = [self._live_and_die(context, daemon, life, result) for life in lives]
            daemon.start("--workers", _workers(context), *LAST)
            starts_s.append(daemon.wait_until_ready())
            with Load(daemon.address, context.ledger, self._options(context, context.rounds)):
                time.sleep(0.2)
            status = daemon.stop()
        result.add(context.judge())
        result.require(status == 0, f"exit status {status} after SIGTERM, wanted 0")
        result.figures["slowest start s"] = max(starts_s)
        return result

    def _live_and_die(
        self, context: Context, daemon: Daemon, number: int, result: Verdict
    ) -> float:
        chance = context.chance
        often = OFTEN if chance.random() < 0.5 else ()
        workers = _workers(context)
        if self._kills_replay(context, number):
            _die_in_replay(context, daemon, workers)
            result.tallies["kills in replay"] += 1
        started_s = time.monotonic()
        daemon.start("--workers", workers, *often)
        daemon.wait_until_listening()
        with Load(daemon.address, context.ledger, self._options(context, number)):
            daemon.wait_until_ready()  # refused while it replays
            start_s = time.monotonic() - started_s
            after_s = chance.uniform(0.2, 1.0 if context.quick else 3.0)
            time.sleep(after_s)
            if often:
                _await_flush(context, daemon)
            daemon.kill_tree()
        result.tallies["kills amid a flush"] += _is_flushing(daemon)
        how = "small files" if often else "large files"
        context.say(
            f"round {context.first_round + number + 1}: killed after {after_s:.2f} s, "
            f"{workers} worker(s), {how}, ready in {start_s:.1f} s"
        )
        return start_s

    def _kills_replay(self, context: Context, number: int) -> bool:
        """In the fourth round of a group; of a shorter group, in its last one, if not its first."""
        return number == min(3, context.rounds - 1) and number > 0

    def _options(self, context: Context, number: int) -> Options:
        seed = context.chance.randrange(2**31)
        return Options(seed=seed, extra_columns=number + 1)


def _workers(context: Context) -> str:
    """Another number of workers than `Context.workers` half of the time."""
    return str(context.chance.choice((context.workers, 1, 2, 3)))


def _is_flushing(daemon: Daemon) -> bool:
    """Whether a file is, or was at the end, being written, linked or committed."""
    return any(daemon.data_dir.glob(".arc/staging/*"))


def _await_flush(context: Context, daemon: Daemon) -> None:
    """Wait for the first staged file, and then for a part of the time that a flush takes."""
    limit_s = time.monotonic() + 1.0
    while not _is_flushing(daemon) and time.monotonic() < limit_s:
        time.sleep(0.001)
    time.sleep(context.chance.choice((0.0, 0.005, 0.02)) * context.chance.random())


def _die_in_replay(context: Context, daemon: Daemon, workers: str) -> None:
    """Start and kill: at a random moment, or soon after the first shard began to recover."""
    chance = context.chance
    began = daemon.recovery_began()
    daemon.start("--workers", workers)
    limit_s = time.monotonic() + 20.0
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0.05, 0.5))
    else:
        while not began() and time.monotonic() < limit_s and daemon.info is None:
            time.sleep(POLL_S)
        time.sleep(chance.uniform(0.0, 0.4))
    daemon.kill_tree()
    context.say(f"killed again during the start, {workers} worker(s)")


class KillWorker:
    """`kill -9` of one worker of several; the supervisor replaces it, the others go on."""

    name = "kill-worker"
    description = "kill -9 of one worker under load; the others must not notice"
    default_rounds = 10
    record_rounds = 50
    group = 5

    def requirement(self) -> str | None:
        """It runs everywhere."""
        return None

    def round(self, context: Context) -> Verdict:
        """Some kills in one life of a daemon, the end of that life in order, and the verdict."""
        chance, backs_s = context.chance, []
        workers = max(2, context.workers) if chance.random() < 0.5 else 3
        flags = ("--workers", str(workers), *(OFTEN if chance.random() < 0.5 else ()))
        with context.daemon() as daemon:
            daemon.start(*flags)
            daemon.wait_until_ready()
            options = Options(
                seed=chance.randrange(2**31),
                connections=4 * workers,
                know_shards=True,
                find_shard=daemon.shard_of,
            )
            kills: list[tuple[int, int, int]] = []
            with Load(daemon.address, context.ledger, options):
                for number in range(context.rounds):
                    kills.append(self._kill_one(context, daemon, number))
                    backs_s.append((kills[-1][2] - kills[-1][1]) / 1e6)
                time.sleep(AROUND_S)
            status = daemon.stop()
        verdict = context.judge()
        verdict.require(status == 0, f"exit status {status} after SIGTERM, wanted 0")
        disturbed = _disturbed(context.ledger, kills)
        for request in disturbed[:3]:
            verdict.note(f"worker {request.shard} was not killed, and yet: {request}")
        verdict.require(not disturbed, f"{len(disturbed)} errors on connections to other workers")
        late = sum(back_s > BACK_S for back_s in backs_s)
        verdict.figures["slowest back s"] = max(backs_s)
        verdict.tallies |= {"kills": len(backs_s), f"back later than {BACK_S:g} s": late}
        return verdict

    def _kill_one(self, context: Context, daemon: Daemon, number: int) -> tuple[int, int, int]:
        """Kill one at a random moment; its shard, and when it was killed and back, wall clock."""
        time.sleep(context.chance.uniform(0.2, 1.0 if context.quick else 3.0))
        shard = context.chance.choice(sorted(daemon.workers))
        killed_us = time.time_ns() // 1000
        old_pid = daemon.kill_worker(shard)
        daemon.wait_for(lambda: daemon.workers.get(shard, old_pid) != old_pid, "whole again")
        daemon.wait_until_ready()
        # By the daemon's own clock: this process is busy with the load, and looks late.
        back_us = _ready_us(daemon, daemon.workers[shard])
        context.say(
            f"round {context.first_round + number + 1}: worker {shard} of {len(daemon.workers)} "
            f"killed, back after {(back_us - killed_us) / 1e6:.2f} s"
        )
        return shard, killed_us, back_us


def _ready_us(daemon: Daemon, pid: int) -> int:
    """When a worker took requests, as the supervisor logged it: µs of the wall clock."""
    for line in reversed(daemon.log_file.read_text().splitlines()):
        if line.startswith("{"):
            event = json.loads(line)
            if event.get("event") == "worker_ready" and event.get("pid") == pid:
                return round(datetime.fromisoformat(event["timestamp"]).timestamp() * 1e6)
    raise AssertionError(f"BUG: worker {pid} is announced and its start not logged")


def _disturbed(ledger: Ledger, kills: list[tuple[int, int, int]]) -> list[Request]:
    """Requests on a connection to a worker that lived, which were not acknowledged."""

    def is_excused(request: Request) -> bool:
        return any(
            shard == request.shard
            and request.sent_us <= back_us
            and (request.done_us >= killed_us or not request.done_us)
            for shard, killed_us, back_us in kills
        )

    refused = (request for request in ledger.requests if request.outcome != Outcome.ACKNOWLEDGED)
    return [one for one in refused if one.shard is not None and not is_excused(one)]


PROGRAMS = (Kill(), KillWorker())
