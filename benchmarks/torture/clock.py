"""`clock`: the wall clock jumps an hour back and forth while rows come that have no time.

A shard runs without HTTP in a process of its own, with an injected clock that is set back or
forward by up to two hours between two requests, whose rows get the time of their arrival. The
process is killed at a random moment and the next one begins with another time, six times in a
round. Wanted: every row once, with the very time that the clock showed, also when it came back
from the log, and no file written over another.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import random
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from benchmarks.torture.load import Maker, Options, Outcome, Request, encode
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context
from ingest import instruments
from ingest.arrow_writer import WriterSettings
from ingest.clock import ManualClock
from ingest.decompress import decompress
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.msgpack_decoder import decode
from ingest.pipeline import Pipeline, PipelineSettings
from ingest.timestamps import TimeUnit

HOUR_S = 3600.0
#: Steps of a clock that someone sets: back, forward, a little, to a full hour.
JUMPS_S = (-HOUR_S, HOUR_S, -1.0, 0.000_001, 0.0, 2 * HOUR_S, -2 * HOUR_S)
LIVES = 6
REQUESTS = 120
END_TIMEOUT_S = 60.0
MEMORY_BYTES = 64 << 20
SEGMENT_BYTES = 1 << 20
#: Half past an hour, so that jumps go into other hours.
START_US = 1_768_473_000_000_000


class Clock:
    """The program; see the module."""

    name = "clock"
    description = "the clock jumps an hour back and forth, between and within lives of a shard"
    default_rounds = 3
    record_rounds = 20
    group = 1

    def requirement(self) -> str | None:
        """It runs everywhere."""
        return None

    def round(self, context: Context) -> Verdict:
        """Some lives of a shard, all but the last one killed."""
        chance = context.chance
        lives = 2 if context.quick else LIVES
        requests = REQUESTS // (4 if context.quick else 1)
        status: int | None = None
        for life in range(lives):
            kill_after = chance.randrange(requests) if life + 1 < lives else None
            status = _live(context, requests, kill_after)
        verdict = context.judge(arrival_slack_s=0.0)
        verdict.require(status == 0, f"the last life ended with status {status}")
        folders = {path.parent for path in context.data_dir.rglob("*.parquet")}
        verdict.figures["hours"] = len(folders)
        return verdict


def _live(context: Context, requests: int, kill_after: int | None) -> int | None:
    """One life in a process of its own.

    Args:
        context: Of the round.
        requests: That it is to store; then it stops in order.
        kill_after: As many were stored when it is killed; None: it is not.

    Returns:
        Its exit status.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    seed = context.chance.randrange(1 << 30)
    maker = Maker(context.ledger.new_client(), Options(seed=seed))
    rows = context.chance.choice((50, 400, 1_000_000))
    arguments = (context.data_dir, theirs, maker, requests, seed, rows)
    process = spawn.Process(target=_run_life, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        _follow(context, ours, process.kill, kill_after)
        process.join(END_TIMEOUT_S)
    finally:
        process.kill()
        process.join()
        ours.close()
    return process.exitcode


def _follow(
    context: Context, news: Connection, kill: Callable[[], None], kill_after: int | None
) -> None:
    """Keep the ledger by what a life says, until it says nothing more."""
    requests: dict[int, Request] = {}
    stored = 0
    while True:
        if stored == kill_after:
            kill()  # what it said before is still to be read
        try:
            told = news.recv()
        except (EOFError, ConnectionResetError):
            return
        if isinstance(told, Request):
            requests[told.first] = told
            context.ledger.add(told)
        else:
            requests[told].outcome = Outcome.ACKNOWLEDGED
            stored += 1


# ------------------------------------------------------------------------ in a process of its own


def _run_life(
    data_dir: Path, news: Connection, maker: Maker, requests: int, seed: int, flush_rows: int
) -> None:
    asyncio.run(_life(data_dir, news, maker, requests, random.Random(seed), flush_rows))


async def _life(
    data_dir: Path,
    news: Connection,
    maker: Maker,
    requests: int,
    chance: random.Random,
    flush_rows: int,
) -> None:
    clock = ManualClock(START_US + round(chance.choice(JUMPS_S) * 1e6))
    shard = Pipeline(_settings(data_dir, flush_rows), instruments.null(), clock, _silent())
    shard.start()
    await shard.recover()
    for _ in range(requests):
        clock.wall_us += round(chance.choice(JUMPS_S) * 1e6)
        clock.elapsed_s += chance.choice((0.0, 0.001, 0.6))
        request = maker.make()
        request.sent_us = request.done_us = clock.wall_us
        news.send(request)
        await _store(shard, clock, request)
        news.send(request.first)
        if chance.random() < 0.2:
            await asyncio.sleep(chance.choice((0.0, 0.005, 0.05)))  # flushes go on meanwhile
    await shard.drain()
    shard.close()


def _settings(data_dir: Path, flush_rows: int) -> PipelineSettings:
    return PipelineSettings(
        data_dir=data_dir,
        shard=0,
        memory_bytes=MEMORY_BYTES,
        min_free_disk_bytes=0,
        writer=WriterSettings(flush_rows=flush_rows, flush_age_s=0.5),
        limits=Limits(),
        log_segment_bytes=SEGMENT_BYTES,
    )


def _silent() -> FilteringBoundLogger:
    """A logger that says nothing: recoveries are expected here."""
    only_critical = structlog.make_filtering_bound_logger(logging.CRITICAL)
    logger: FilteringBoundLogger = structlog.wrap_logger(None, wrapper_class=only_critical)
    return logger


async def _store(shard: Pipeline, clock: ManualClock, request: Request) -> None:
    """Write a request as the door of the daemon does."""
    body, now_us = encode(request), clock.now_us()
    unit = TimeUnit(request.unit) if request.base_us is not None else None
    shard.admit(len(body))
    try:
        batches = decode(decompress(body, "", MEMORY_BYTES), now_us, shard.limits, unit)
        head = RecordHead(Format.MSGPACK, request.database, unit, now_us)
        stored = shard.write(head, body, batches)
        if not isinstance(stored, int):
            await stored
    finally:
        shard.budget.give_back(len(body))


PROGRAMS = (Clock(),)
