"""The producer client under kills, cuts and full disks: every accepted row is stored once.

`client`: in each round one of four things happens to producers at work, in turn, at moments
given by the seed: the daemon is killed with SIGKILL and comes back on its port; the network
between the two is cut; the spill, or the memory, of the client is filled up while nothing can be
sent; a producer is killed with SIGKILL. The policies `block` and `spill` take turns as well.

A row is accepted when its call has returned and its producer was not killed. Of a killed one it
is accepted when a later checkpoint() (under `spill`; the next producer with the directory has to
deliver it) or flush() (under `block`) returned True. What was not accepted may be stored, once.

`client-control` breaks the promise on purpose, and must see rows lost and rows twice.

In: a context. Out: a verdict from the files of the daemon, after all have ended in order.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import random
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.torture import mounts
from benchmarks.torture.cut_proxy import Cut, CutProxy
from benchmarks.torture.daemon import Daemon
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.producer import Settings
from benchmarks.torture.producer_handle import Producer, producing
from benchmarks.torture.program import Context

_T = TypeVar("_T")

DATABASE = "torture"
#: Files early, so that the end of a round is short.
DAEMON_FLAGS = ("--flush-age-s", "0.3")
THREADS = 3
#: Of each thread, about. The encoders are proved elsewhere at full speed; two cores are shared
#: here by the daemon, the producers and the proxy.
ROWS_PER_S = 12_000.0
#: A round begins when so many rows have been logged.
WARM_ROWS = 1_000
#: Of a client whose network is cut: silence has to become a time-out within the round.
SHORT_TIMEOUTS: dict[str, Any] = {"timeout_s": 0.4, "connect_timeout_s": 0.4}
#: Small enough to be filled up within a second.
SMALL_MEMORY: dict[str, Any] = {
    "max_queued_rows": 4_000,
    "max_queued_bytes": 256 * 1024,
    "batch_rows": 1_000,
}
SPILL_BYTES = 2 * mounts.MIB
DISK_BYTES = 3 * mounts.MIB
FULL_TIMEOUT_S = 20.0
CUT_TIMEOUT_S = 2.0
#: More than SMALL_MEMORY holds.
DROPPED_AFTER_ROWS = 30_000
#: The size of a request, about: an armed cut falls within the first or the second.
REQUEST_BYTES = 60_000
#: The size of the head of an answer, about.
ANSWER_BYTES = 150


class Stage:
    """A daemon, a proxy before it, and the producers of a round, all gone afterwards.

    Args:
        context: Of the round.
        policy: Of every client: `when_full`.
        blank_keys: The daemon sees no key of any request: for a control.

    Attributes:
        chance: Of the round.
        verdict: What was found so far.
        daemon: Takes writes when the context is entered.
        proxy: Leads to it.
        producers: In the order of their start.
        spill_dir: Of every client under the policy `spill`.
    """

    def __init__(self, context: Context, policy: str, *, blank_keys: bool = False) -> None:
        self.context, self.policy = context, policy
        self.chance: random.Random = context.chance
        self.verdict = Verdict()
        self.producers: list[Producer] = []
        self.spill_dir = context.folder / "spill"
        self._blank_keys = blank_keys
        self._stack = contextlib.ExitStack()
        self._seed = self.chance.randrange(2**31)

    def __enter__(self) -> Stage:
        with self._stack as stack:
            level = self.chance.choice(("page", "disk"))
            chosen = () if self.context.durability else ("--durability", level)
            flags = ("--workers", str(self.chance.choice((1, self.context.workers))))
            self.daemon: Daemon = stack.enter_context(
                self.context.daemon(*flags, *chosen, *DAEMON_FLAGS)
            )
            self.daemon.start()
            self.daemon.wait_until_ready()
            proxy = CutProxy(self.daemon.address, blank_keys=self._blank_keys)
            self.proxy: CutProxy = stack.enter_context(proxy)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def hold(self, something: AbstractContextManager[_T]) -> _T:
        """Enter a context that lasts as long as this one."""
        return self._stack.enter_context(something)

    def add_producer(
        self, *, direct: bool = False, safe_by: str = "", may_wait: bool = True, **client: Any
    ) -> Producer:
        """Start one more.

        Args:
            direct: Past the proxy.
            safe_by: See `Settings.safe_by`.
            may_wait: See `Settings.may_wait`.
            client: More arguments of its client.
        """
        host, port = self.daemon.address if direct else self.proxy.address
        arguments: dict[str, Any] = {"url": f"http://{host}:{port}", "database": DATABASE}
        arguments |= {"when_full": self.policy, "linger_s": self.chance.choice((0.01, 0.05))}
        if self.policy == "spill":
            arguments["spill_dir"] = str(self.spill_dir)
        folder, number = self.context.folder, len(self.producers) + 1
        settings = Settings(
            clients=[self.context.ledger.new_client() for _ in range(THREADS)],
            seed=self._seed,
            counters=str(folder / f"producer-{number}.counters"),
            client=arguments | client,
            rows_per_s=ROWS_PER_S,
            safe_by=safe_by,
            may_wait=may_wait,
        )
        log_file = folder / f"producer-{number}.log"
        producer = self.hold(producing(settings, log_file))
        self.producers.append(producer)
        return producer

    def add_producers(self, *, direct: bool = False, **client: Any) -> list[Producer]:
        """Start one, or two that share a spill directory; wait until they are at work."""
        count, safe_by = self.chance.choice((1, 1, 2)), self.chance.choice(("", "", "flush"))
        out = [self.add_producer(direct=direct, safe_by=safe_by, **client) for _ in range(count)]
        for producer in out:
            producer.wait_for_rows(WARM_ROWS)
        return out

    def pause(self, low_s: float, high_s: float) -> None:
        """Let things run for a random time."""
        time.sleep(self.chance.uniform(low_s, high_s))

    def restart_daemon(self) -> None:
        """Kill every process of the daemon and start it on the same port and directory."""
        port = self.daemon.address[1]
        self.daemon.kill_tree()
        self.proxy.reset_connections()
        self.pause(0.0, 0.3)
        self.daemon.start("--port", str(port))
        self.daemon.wait_until_ready()
        self.tally("daemon kills")

    def tally(self, what: str, count: int = 1) -> None:
        """Count what was done."""
        self.verdict.tallies[what] = self.verdict.tallies.get(what, 0) + count

    def end(self, accepted: Callable[[Producer], list[int] | None] = lambda _: None) -> Verdict:
        """End producers and daemon in order; the verdict on the files alone.

        Args:
            accepted: Rows of each thread of a producer that are wanted back; None: by the rule.
        """
        self.proxy.heal()
        healed_s = time.monotonic()
        for producer in self.producers:
            if not producer.killed:
                producer.finish()
        self.verdict.figures["slowest end of producers s"] = time.monotonic() - healed_s
        left = [path.name for path in _files_below(self.spill_dir) if path.name != "lock"]
        self.verdict.require(not left, f"left in the spill after the end: {left[:3]}")
        repeated = self.daemon.metric("arc_keys_repeated_total")
        status = self.daemon.stop()
        self.verdict.require(status == 0, f"exit status {status} after SIGTERM, wanted 0")
        done_us = time.time_ns() // 1000
        for producer in self.producers:
            producer.enter(self.context.ledger, done_us, accepted(producer))
        self.tally("repeats that the daemon knew", int(repeated))
        self.tally("requests sent again", self._told("retried_batches"))
        self.tally("rows taken over from a spill", self._told("recovered_rows"))
        for kind, count in self.proxy.cuts.items():
            if kind != "end":
                self.tally(f"cuts: {kind}", count)
        return self.context.judge()

    def _told(self, name: str) -> int:
        return sum(producer.told(name) for producer in self.producers)


# ---------------------------------------------------------------------------------- the events


def kill_daemon(stage: Stage) -> None:
    """The daemon is killed with SIGKILL and comes back on its port, once or twice.

    Producers that reach it through the proxy get no answer to their last requests before it.
    """
    is_direct = stage.chance.random() < 0.5
    stage.add_producers(direct=is_direct)
    for _ in range(stage.chance.choice((1, 1, 1, 2))):
        stage.pause(0.05, 0.6)
        if not is_direct:
            stage.proxy.mute()
            stage.pause(0.02, 0.3)
        stage.restart_daemon()
        stage.proxy.heal()
    stage.pause(0.0, 0.3)


def cut_network(stage: Stage) -> None:
    """Every kind of cut, in random order, then the network heals."""
    stage.add_producers(**SHORT_TIMEOUTS)
    acts = [_reset, _cut_request, _cut_answer, _cut_before_answer, _silence, _refuse]
    for act in stage.chance.sample(acts, len(acts)):
        act(stage)
        stage.proxy.heal()
        stage.pause(0.0, 0.15)


def _reset(stage: Stage) -> None:
    stage.pause(0.0, 0.1)
    stage.proxy.reset_connections()


def _cut_request(stage: Stage) -> None:
    _cut_one(stage, Cut.REQUEST, stage.chance.randrange(1, REQUEST_BYTES))


def _cut_answer(stage: Stage) -> None:
    _cut_one(stage, Cut.ANSWER, stage.chance.randrange(1, ANSWER_BYTES))


def _cut_before_answer(stage: Stage) -> None:
    for _ in range(3):  # the doubtful case: the request has arrived, and the answer has not
        _cut_one(stage, Cut.ANSWER, 0)


def _cut_one(stage: Stage, cut: Cut, after_bytes: int) -> None:
    stage.proxy.arm(cut, after_bytes)
    if not stage.proxy.wait_for_cut(CUT_TIMEOUT_S):
        stage.tally("cuts that found nothing to cut")


def _silence(stage: Stage) -> None:
    stage.proxy.black_hole()
    stage.pause(0.2, 0.9)


def _refuse(stage: Stage) -> None:
    stage.proxy.refuse()
    stage.pause(0.1, 0.4)


class Full(enum.StrEnum):
    """What is filled up."""

    DISK = "a disk"
    BOUND = "the bound of the spill"
    MEMORY = "memory"


def fill_up(stage: Stage, what: Full) -> None:
    """Nothing can be sent until memory, and the spill if there is one, are full; then it can."""
    if what is Full.DISK:
        stage.spill_dir = stage.hold(mounts.tmpfs(stage.context.folder, DISK_BYTES))
    bound: dict[str, Any] = {"spill_bytes": SPILL_BYTES} if what is Full.BOUND else {}
    producer = stage.add_producer(may_wait=False, **SMALL_MEMORY, **bound)
    producer.wait_for_rows(WARM_ROWS)
    stage.pause(0.0, 0.2)
    stage.proxy.refuse()
    is_blocked = producer.wait_until_blocked(FULL_TIMEOUT_S)
    stage.verdict.require(is_blocked, f"log() never waited, and {what} should be full")
    if what is not Full.MEMORY:
        wanted = DISK_BYTES if what is Full.DISK else SPILL_BYTES
        held = _bytes_below(stage.spill_dir)
        stage.verdict.require(held > wanted / 2, f"{held} bytes in the spill, room for {wanted}")
    stage.tally(f"full: {what}", is_blocked)
    stage.pause(0.0, 0.3)
    if stage.chance.random() < 0.3:
        stage.restart_daemon()
    stage.proxy.heal()
    producer.wait_for_rows(producer.returned + WARM_ROWS)


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in _files_below(folder))


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def kill_producer(stage: Stage) -> None:
    """Producers are killed with SIGKILL at random moments; one comes after them."""
    for number in range(stage.chance.choice((1, 2))):
        is_cut_off = number > 0 and stage.policy == "spill" and stage.chance.random() < 0.5
        _live_and_die(stage, is_cut_off)
    stage.proxy.heal()
    last = stage.add_producer(**SHORT_TIMEOUTS)
    last.wait_for_rows(WARM_ROWS)


def _live_and_die(stage: Stage, is_cut_off: bool) -> None:
    """One life and its end.

    Args:
        stage: Of the round.
        is_cut_off: It finds the network as its predecessor left it, and can only spill.
    """
    proxy = stage.proxy
    if not is_cut_off:
        proxy.heal()
    safe_by = "checkpoint" if stage.policy == "spill" else "flush"
    producer = stage.add_producer(safe_by=safe_by, may_wait=not is_cut_off, **SHORT_TIMEOUTS)
    producer.wait_for_rows(WARM_ROWS)
    producer.wait_for(lambda: sum(producer.safe) > 0, FULL_TIMEOUT_S)
    stage.pause(0.0, 0.4)
    trouble = stage.chance.choice((None, proxy.refuse, proxy.black_hole, proxy.mute))
    if trouble is not None:
        trouble()
        stage.pause(0.0, 0.4)
    producer.kill()
    if stage.chance.random() < 0.5:
        proxy.reset_connections()  # what was held back never arrives
    stage.tally("producers killed")
    stage.tally("rows safe before a kill", sum(producer.safe))


# -------------------------------------------------------------------------------- the programs

#: What is filled up, in turn. A program of which this is one event in four gets to each of them.
FULLS = (Full.DISK, Full.BOUND, Full.DISK, Full.MEMORY)
POLICIES = ("block", "spill")


class ClientRounds:
    """Kills, cuts and full disks; see the module."""

    name = "client"
    description = "the producer client through kills, network cuts and a full spill"
    default_rounds = 8
    record_rounds = 50
    group = 1

    def requirement(self) -> str | None:
        """It runs everywhere; without the right to mount, a bound stands for the disk."""
        return None

    def round(self, context: Context) -> Verdict:
        """One event, the end of all in order, and the verdict."""
        policy, event, told = self._chosen(context.first_round)
        with Stage(context, policy) as stage:
            event(stage)
            stage.verdict.add(stage.end())
            for producer in stage.producers:
                producer.check(stage.verdict)
        rows = stage.verdict.acknowledged_rows
        retried = stage.verdict.tallies["requests sent again"]
        context.say(f"{told}, {policy}: {rows:,} rows accepted, {retried} requests sent again")
        return stage.verdict

    def _chosen(self, number: int) -> tuple[str, Callable[[Stage], None], str]:
        """Policy, event and its name for a round with this number, from 0."""
        turn, which = divmod(number, 4)
        policy = POLICIES[turn % len(POLICIES)]
        if which == 0:
            return policy, kill_daemon, "daemon killed"
        if which == 1:
            return policy, cut_network, "network cut"
        if which == 3:
            return policy, kill_producer, "producer killed"
        what = FULLS[turn % len(FULLS)]
        if what is Full.DISK and mounts.tmpfs_requirement():
            what = Full.BOUND
        policy = "block" if what is Full.MEMORY else "spill"
        return policy, functools.partial(fill_up, what=what), f"{what} filled up"


class ClientControl:
    """The same means on clients that promise less; clean when the oracle finds what that costs."""

    name = "client-control"
    description = "that the client's rounds can fail: rows lost and doubled on purpose are seen"
    default_rounds = 4
    record_rounds = 4
    group = 1

    def requirement(self) -> str | None:
        """It runs everywhere."""
        return None

    def round(self, context: Context) -> Verdict:
        """One kind of damage, and whether it was seen."""
        acts = (self._count_all_returned, self._drop_oldest, self._blank_keys, self._lose_spill)
        verdict = acts[context.first_round % len(acts)](context)
        verdict.tallies = {k: v for k, v in verdict.tallies.items() if k.startswith("seen")}
        return verdict

    def _count_all_returned(self, context: Context) -> Verdict:
        """A producer is killed under `block`, and every row whose call returned is wanted back."""
        with Stage(context, "block") as stage:
            producer = stage.add_producer(may_wait=False)
            producer.wait_for_rows(WARM_ROWS)
            stage.proxy.refuse()
            producer.wait_for_rows(producer.returned + WARM_ROWS)
            producer.kill()
            found = stage.end(lambda producer: producer.all_returned)
        return _seen(stage, found, "lost", found.lost)

    def _drop_oldest(self, context: Context) -> Verdict:
        """Memory is filled up under `drop_oldest`: what the client says it dropped is lost."""
        with Stage(context, "drop_oldest") as stage:
            producer = stage.add_producer(may_wait=False, **SMALL_MEMORY)
            producer.wait_for_rows(WARM_ROWS)
            stage.proxy.refuse()
            producer.wait_for_rows(producer.returned + DROPPED_AFTER_ROWS)
            stage.proxy.heal()
            found = stage.end()
        dropped = producer.reports[-1].stats["dropped_rows"]
        out = _seen(stage, found, "lost", found.lost)
        out.require(found.lost == dropped, f"{found.lost} rows lost, stats say {dropped}")
        return out

    def _blank_keys(self, context: Context) -> Verdict:
        """Answers are cut off, and the daemon sees no key of the repetition."""
        with Stage(context, "block", blank_keys=True) as stage:
            stage.add_producer(**SHORT_TIMEOUTS).wait_for_rows(WARM_ROWS)
            _cut_before_answer(stage)
            found = stage.end()
        out = _seen(stage, found, "doubled", found.duplicated)
        out.require(not found.lost, f"{found.lost} rows lost")
        return out

    def _lose_spill(self, context: Context) -> Verdict:
        """A producer is killed under `spill`, and its directory is gone before the next one."""
        with Stage(context, "spill") as stage:
            producer = stage.add_producer(safe_by="checkpoint", may_wait=False)
            producer.wait_for_rows(WARM_ROWS)
            stage.proxy.refuse()
            wanted = producer.returned + WARM_ROWS
            producer.wait_for(lambda: sum(producer.safe) >= wanted, FULL_TIMEOUT_S)
            producer.kill()
            shutil.rmtree(stage.spill_dir)
            stage.proxy.heal()
            stage.add_producer().wait_for_rows(WARM_ROWS)
            found = stage.end()
        return _seen(stage, found, "lost", found.lost)


def _seen(stage: Stage, found: Verdict, what: str, rows: int) -> Verdict:
    """Clean when rows of the wanted fault were found."""
    stage.verdict.acknowledged_rows = found.acknowledged_rows
    stage.verdict.stored_rows, stage.verdict.files = found.stored_rows, found.files
    stage.verdict.require(rows, f"no row was {what}, and some should have been")
    stage.tally(f"seen {what}", rows)
    return stage.verdict


PROGRAMS = (ClientRounds(), ClientControl())
