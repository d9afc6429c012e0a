"""What a second reading of the client found: races at its ends, and who still holds the rows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import arc.client.client as client_module
import arc.client.pump as pump_module
from arc.client import AsyncClient, Client, ClosedError, QueueFullError, RefusedError
from arc.client.batch import WRITE_MSGPACK, Batch, Kind
from arc.client.engine import Engine
from arc.client.intake import Intake
from arc.client.outbox import Outbox
from arc.client.reports import Reports
from arc.client.sender import Sender
from arc.client.stats import Stats
from arc.client.ticket import Ticket
from ingest.columns import ColumnBatch
from tests.client.receiver import Receiver
from tests.support.scripted_server import (
    Request,
    ScriptedServer,
    Step,
    answer,
    decided,
    hang_up,
)

SOON: dict[str, Any] = {"linger_s": 0.0, "close_timeout_s": 20.0}
AWAY = "http://127.0.0.1:9"
PATIENCE_S = 30.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with ScriptedServer() as server:
        yield Receiver(server)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Errors that a test causes are for `caplog`; clients that it left are collected in it."""
    caplog.set_level(logging.WARNING)
    yield
    gc.collect()


def is_conserved(stats: Stats) -> bool:
    settled = stats.acknowledged_rows + stats.refused_rows + stats.dropped_rows
    return stats.taken_rows + stats.recovered_rows == stats.queued_rows + settled


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """A thread that keeps what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def new_batch(body: bytes = b"x" * 100, rows: int = 1, key: str = "k") -> Batch:
    return Batch(Kind.MSGPACK, WRITE_MSGPACK, (), body, rows, "cpu", key=key)


def new_outbox(policy: Any = "block", max_bytes: int = 1000) -> Outbox:
    return Outbox(max_bytes, policy, None, Reports(lambda _: None))


# ----------------------------------------------------------------------------------- intake


def test_a_full_queue_does_not_wait_for_the_linger_to_end() -> None:
    intake = Intake(10, 1_000, 3600.0, "block", start=lambda: None)
    queue = intake.add_queue(1)

    def pump() -> None:
        while intake.wait_for_work():
            drain, waiting = intake.begin_round()
            for each, num_rows in waiting:
                intake.take(each, num_rows)
            intake.end_round(drain)

    def produce() -> None:
        for value in range(10):
            if len(queue.rows) >= queue.mark:
                queue.notice()
            queue.rows.append(value)

    def wait_for_the_pump_to_wait() -> None:
        while not intake.changed._waiters:  # type: ignore[attr-defined]
            time.sleep(0.001)

    pump_thread, _ = in_thread(pump)
    wait_for_the_pump_to_wait()
    produce()
    wait_for_the_pump_to_wait()  # by now for the end of the linger
    producer, _ = in_thread(produce)
    producer.join(PATIENCE_S)
    assert not producer.is_alive()
    intake.close()
    pump_thread.join(PATIENCE_S)
    assert intake.taken_rows == 20


def test_a_thousand_queues_do_not_take_back_from_each_other_at_every_row() -> None:
    intake = Intake(100_000, 10_000, 0.0, "raise", start=lambda: None)
    queues = [intake.add_queue(1) for _ in range(1_000)]
    steps, set_mark = 0, intake._set_mark

    def counted(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        set_mark(*arguments)

    intake._set_mark = counted  # type: ignore[assignment, method-assign]
    for _ in range(20):
        for queue in queues:
            if len(queue.rows) >= queue.mark:
                queue.notice()
            queue.rows.append(0)
    assert steps < 20_000  # one a row


def test_an_account_that_a_signal_handler_has_disturbed_is_put_right() -> None:
    intake = Intake(100, 10, 0.0, "raise", start=lambda: None)
    queue = intake.add_queue(1)
    intake._granted = 10**6  # as after a handler that logged between two lines of `_set_mark`
    for value in range(100):
        if len(queue.rows) >= queue.mark:
            queue.notice()
        queue.rows.append(value)
    assert intake.waiting_rows() == 100


def test_a_row_whose_call_was_under_way_while_the_client_closed_is_not_forgotten(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the mark and its row, a thread may stand still for a while."""
    receiver.server.refuse()
    errors: list[RefusedError] = []
    client = Client(receiver.server.url, on_error=errors.append, **SOON)
    client.log("cpu", usage=1)
    arrived, go_on = threading.Event(), threading.Event()

    def now() -> int:
        arrived.set()
        assert go_on.wait(PATIENCE_S)
        return time.time_ns()

    monkeypatch.setattr(client_module, "time_ns", now)
    thread, _ = in_thread(lambda: client.log("cpu", usage=2))
    assert arrived.wait(PATIENCE_S)
    engine = client._engine
    assert engine._pump is not None
    join = engine._pump.thread.join

    def join_then_go_on(*arguments: Any) -> None:
        join(*arguments)
        go_on.set()
        thread.join(PATIENCE_S)

    monkeypatch.setattr(engine._pump.thread, "join", join_then_go_on)
    assert not client.close(0.05)
    assert sorted(row["usage"] for error in errors for row in error.rows()) == [1, 2]
    assert is_conserved(client.stats())
    assert client.stats().queued_rows == 0


# ------------------------------------------------------------------------- outbox and sender


def test_a_batch_is_settled_once_whoever_settles_it() -> None:
    outbox = new_outbox()
    outbox.put(new_batch())
    found = outbox.next()
    assert found is not None
    entry, batch = found
    outbox.sending(entry, batch)
    outbox.stop()
    assert not outbox.give_back()  # the sender did not end in time
    outbox.acknowledged(entry)
    outbox.refused(entry, RefusedError("late", batch))
    assert outbox.queued() == (0, 0, 0)
    assert (outbox.counts.refused_rows, outbox.counts.acknowledged_rows) == (1, 0)


def test_a_batch_that_was_withdrawn_just_before_it_goes_out_stays_here() -> None:
    outbox, ticket = new_outbox(), Ticket()
    outbox.put(new_batch(), ticket=ticket)
    ticket.seal()
    found = outbox.next()
    assert found is not None
    ((_, in_doubt),) = outbox.withdraw(ticket)
    assert not in_doubt

    def connect() -> Any:
        raise AssertionError("sent all the same")

    Sender(outbox, connect, None)._deliver(*found)
    assert outbox.queued() == (0, 0, 0)
    assert outbox.counts.sent_rows == 0


def test_who_waits_for_a_dropped_batch_is_told_outside_the_lock() -> None:
    outbox, ticket = new_outbox("drop_oldest", 150), Ticket()
    is_held: list[bool] = []
    ticket.future.add_done_callback(lambda _: is_held.append(outbox.changed._is_owned()))  # type: ignore[attr-defined]
    outbox.put(new_batch(), ticket=ticket)
    ticket.seal()
    outbox.put(new_batch())
    assert [error.retryable for error in ticket.future.result(0)] == [True]
    assert is_held == [False]
    assert outbox.queued() == (1, 1, 100)


def test_a_writer_hears_of_a_dropped_batch_though_there_is_still_no_room() -> None:
    outbox, ticket = new_outbox("drop_oldest", 250), Ticket()
    outbox.put(new_batch())
    assert outbox.next() is not None  # under way: it cannot be dropped
    outbox.put(new_batch(), ticket=ticket)
    ticket.seal()
    with pytest.raises(TimeoutError):
        outbox.put(new_batch(b"x" * 200), deadline_s=time.monotonic())
    assert len(ticket.future.result(0)) == 1


def test_no_batch_is_taken_after_the_last_look(receiver: Receiver) -> None:
    client = Client(receiver.server.url, **SOON)
    engine, prepare = client._engine, client._engine.prepare

    def close_then_prepare(batch: Batch) -> Batch:
        assert client.close()
        return prepare(batch)

    engine.prepare = close_then_prepare  # type: ignore[method-assign]
    with pytest.raises(ClosedError):
        client.write_columnar("cpu", {"usage": [1.5]}, wait=False)
    assert client.stats().queued_rows == 0


def test_a_write_that_is_cancelled_while_it_waits_for_room_gives_up_waiting() -> None:
    outbox, ticket = new_outbox(max_bytes=150), Ticket()
    outbox.put(new_batch())
    thread, errors = in_thread(lambda: outbox.put(new_batch(), ticket=ticket))
    outbox.withdraw(ticket)
    thread.join(PATIENCE_S)
    assert [type(error) for error in errors] == [TimeoutError]
    assert outbox.queued()[0] == 1


# ------------------------------------------------------------------------------ write_* verbs


def small_batches(receiver: Receiver, **settings: Any) -> Client:
    """Requests of one row, one after another."""
    more = {"batch_rows": 1, "connections": 1, **SOON, **settings}
    return Client(receiver.server.url, **more)


def test_an_answer_that_comes_with_the_time_out_is_no_error() -> None:
    engine = Client(AWAY)._engine
    ticket = Ticket()
    ticket.seal()
    assert engine.overdue(ticket, 1.0) is None


def test_a_time_out_does_not_hide_what_was_refused_before(receiver: Receiver) -> None:
    gate = receiver.server.gate()

    def later(request: Request) -> Step:
        gate.wait()
        return receiver.take(request)

    receiver.server.will(answer(400, b'{"error": "no"}'), decided(later))
    client = small_batches(receiver)
    with pytest.raises(RefusedError) as refusal:
        client.write_columnar("cpu", {"usage": [1.0, 2.0, 3.0]}, timeout=0.5)
    gate.set()
    errors = [refusal.value, *refusal.value.others]
    assert sorted(row["usage"] for error in errors for row in error.rows()) == [1.0, 2.0, 3.0]
    assert [error.in_doubt for error in errors] == [False, True, False]
    assert client.close()
    assert is_conserved(client.stats())


def test_a_call_that_found_no_room_gives_back_what_it_had_queued(receiver: Receiver) -> None:
    receiver.server.refuse()
    client = small_batches(receiver, max_queued_bytes=1024)
    values = [float(value) for value in range(100)]
    with pytest.raises(RefusedError, match="no room") as refusal:
        client.write_columnar("cpu", {"usage": values}, timeout=0.2)
    errors = [refusal.value, *refusal.value.others]
    rows = sorted(row["usage"] for error in errors for row in error.rows())
    assert len(rows) > 1
    assert rows == values[: len(rows)]
    receiver.server.listen()
    assert client.close()
    assert receiver.rows() == []
    assert is_conserved(client.stats())


@pytest.mark.parametrize("wait", [True, False])
def test_a_call_that_raises_for_a_full_queue_has_taken_nothing(
    receiver: Receiver, wait: bool
) -> None:
    """A call of several requests that has begun waits for room for the others."""
    client = small_batches(receiver, max_queued_bytes=1024, when_full="raise")
    columns = {"usage": [float(value) for value in range(200)]}
    assert client.write_columnar("cpu", columns, wait=wait) == 200
    assert client.flush(20)
    receiver.server.refuse()
    receiver.server.hang_up_idle()

    def fill() -> None:
        for _ in range(1_000):
            client.write_columnar("mem", {"free": [1]}, wait=False)

    with pytest.raises(QueueFullError):
        fill()
    taken = client.stats().taken_rows
    with pytest.raises(QueueFullError):
        client.write_columnar("cpu", columns, wait=wait)
    assert client.stats().taken_rows == taken
    receiver.server.listen()
    assert client.close()
    assert len(receiver.rows()) == taken


def test_a_write_hears_that_another_thread_closed_the_client(
    receiver: Receiver, tmp_path: Path
) -> None:
    """Its rows are its own again: the spill does not send them, too."""
    receiver.server.refuse()
    spill: dict[str, Any] = {"when_full": "spill", "spill_dir": tmp_path}
    client = Client(receiver.server.url, **spill, **SOON)
    columns = {"usage": [1.5]}
    thread, errors = in_thread(lambda: client.write_columnar("cpu", columns, timeout=None))
    while client.stats().last_error is None:
        time.sleep(0.001)
    client.log("mem", free=1)
    assert not client.close(0.05)
    thread.join(PATIENCE_S)
    (error,) = errors
    assert isinstance(error, RefusedError)
    assert [row["usage"] for row in error.rows()] == [1.5]
    receiver.server.listen()
    with Client(receiver.server.url, **spill, **SOON) as successor:
        assert successor.flush(20)
    assert [row.get("free") for row in receiver.rows()] == [1]


def test_a_flush_of_a_buffered_writer_ends_when_its_client_closes(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.server.refuse()
    spill: dict[str, Any] = {"when_full": "spill", "spill_dir": tmp_path}
    client = Client(receiver.server.url, **spill, **SOON)
    writer = client.buffered()
    writer.write({"measurement": "cpu", "fields": {"usage": 1.5}})
    results: list[bool] = []
    thread, _ = in_thread(lambda: results.append(writer.flush()))
    while client.stats().last_error is None:
        time.sleep(0.001)
    assert not client.close(0.05)
    thread.join(PATIENCE_S)
    assert results == [False]
    assert not writer.close()
    receiver.server.listen()
    with Client(receiver.server.url, **spill, **SOON) as successor:
        assert successor.flush(20)
    assert [row["usage"] for row in receiver.rows()] == [1.5]


def test_for_ever_may_be_said_as_infinity(receiver: Receiver) -> None:
    client = Client(receiver.server.url, **SOON)
    client.log("cpu", usage=1.5)
    assert client.flush(math.inf)
    assert client.write_columnar("cpu", {"usage": [1.5]}, timeout=math.inf) == 1
    assert client.close(math.inf)


# -------------------------------------------------------------------------- threads that fail


@pytest.mark.parametrize("failure", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_callback_that_wants_to_end_the_program_ends_no_thread(
    receiver: Receiver, failure: type[BaseException]
) -> None:
    receiver.server.will(answer(401))

    def on_error(error: RefusedError) -> None:
        raise failure(error.status)

    with Client(receiver.server.url, on_error=on_error, connections=1, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(PATIENCE_S)
        client.log("cpu", usage=float("nan"), host=object())  # in the pump this time
        client.log("cpu", usage=2.5)
        assert client.flush(PATIENCE_S)
    assert [row["usage"] for row in receiver.rows()] == [2.5]


def test_a_logging_handler_that_fails_ends_no_thread(receiver: Receiver) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyError(record.name)

    receiver.server.will(answer(401))
    logger, handler = logging.getLogger("arc.client"), Failing()
    logger.addHandler(handler)
    try:
        client = Client(receiver.server.url, connections=1, **SOON)
        client.log("cpu", usage=1.5)
        with pytest.raises(RefusedError):
            client.flush(PATIENCE_S)
        client.log("cpu", usage=2.5)
        assert client.close()
    finally:
        logger.removeHandler(handler)
    assert [row["usage"] for row in receiver.rows()] == [2.5]


def test_a_defect_between_encoding_and_sending_gives_the_rows_back(receiver: Receiver) -> None:
    errors: list[RefusedError] = []
    client = Client(receiver.server.url, on_error=errors.append, **SOON)
    engine, prepare = client._engine, client._engine.prepare
    failures = [MemoryError("no")]

    def failing(batch: Batch) -> Batch:
        if failures:
            raise failures.pop()
        return prepare(batch)

    engine.prepare = failing  # type: ignore[method-assign]
    client.log("cpu", usage=1.5)
    assert client.flush(PATIENCE_S)
    client.log("cpu", usage=2.5)
    assert client.close()
    assert [row["usage"] for error in errors for row in error.rows()] == [1.5]
    assert [row["usage"] for row in receiver.rows()] == [2.5]
    assert is_conserved(client.stats())


def test_a_defect_of_encoding_gives_the_rows_back_as_they_were_logged(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[RefusedError] = []
    client = Client(receiver.server.url, on_error=errors.append, linger_s=3600.0)
    cpu = client.series("cpu", {"host": "a"}, ["usage"])
    with monkeypatch.context() as patched:
        for name in ("encode_calls", "encode_series"):
            patched.setattr(pump_module, name, lambda *_: 1 / 0)
        client.log("mem", host="a", free=7)
        client.log("disk", path="/", free=8, time=5)
        client.log("net")
        cpu.log(1.5)
        assert client.flush(PATIENCE_S)
    client.log("mem", host="a", free=9)
    assert client.close()
    rows = {row["measurement"]: row for error in errors for row in error.rows()}
    times = {name: row.pop("time") for name, row in rows.items()}
    assert times["disk"] == 5
    assert all(times[name] > 10**18 for name in ("mem", "net", "cpu"))
    assert rows == {
        "mem": {"measurement": "mem", "host": "a", "free": 7},
        "disk": {"measurement": "disk", "path": "/", "free": 8},
        "net": {"measurement": "net"},
        "cpu": {"measurement": "cpu", "host": "a", "usage": 1.5},
    }
    assert [row["free"] for row in receiver.rows()] == [9]
    assert is_conserved(client.stats())


def test_the_size_of_rows_is_that_of_all_queues_together(receiver: Receiver) -> None:
    client = Client(
        receiver.server.url, linger_s=3600.0, max_queued_bytes=100_000, max_queued_rows=10_000
    )
    for _ in range(10):
        client.log("text", value="x" * 1_000)
    for value in range(90):
        client.log("number", value=value, n=1)
    assert client.flush(PATIENCE_S)
    assert 500 < client._engine.intake._row_cap < 1_000  # 100 rows of 11 kB, not 90 of 2
    assert client.close()


def test_threads_that_could_not_start_are_started_by_the_next_row(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, failures = threading.Thread.start, [3, 1]

    def rarely(thread: threading.Thread) -> None:
        if thread.name.startswith("arc-client") and failures:
            failures[-1] -= 1
            if failures[-1] <= 0:
                failures.pop()
                raise RuntimeError("can't start new thread")
        start(thread)

    client = Client(receiver.server.url, connections=2, **SOON)
    monkeypatch.setattr(threading.Thread, "start", rarely)
    taken = 0
    for value in range(3):
        with contextlib.suppress(RuntimeError):
            client.log("cpu", usage=value)
            taken += 1
    assert client.close()
    assert len(receiver.rows()) == taken > 0
    assert not [t for t in threading.enumerate() if t.name.startswith("arc-client")]


# --------------------------------------------------------------------------------- refusals


def test_refusals_that_nobody_asks_for_are_kept_within_the_memory_that_was_set(
    receiver: Receiver,
) -> None:
    receiver.server.default = answer(401)
    client = small_batches(receiver, max_queued_bytes=4096)
    for value in range(100):
        client.log("cpu", usage=value, text="x" * 500)
    assert client._engine.flush(time.monotonic() + PATIENCE_S)
    with pytest.raises(RefusedError) as refusal:
        client.flush()
    kept = [refusal.value, *refusal.value.others]
    assert 0 < sum(len(error.batch.body) for error in kept) <= 4096
    assert any(f"and {100 - len(kept)} more" in note for note in refusal.value.__notes__)
    assert client.close()


def test_a_callback_that_flushes_while_the_client_closes_does_not_wait(receiver: Receiver) -> None:
    receiver.server.refuse()
    results: list[bool] = []

    def on_error(_: RefusedError) -> None:
        results.append(client.flush())
        results.append(client.close())

    client = Client(receiver.server.url, on_error=on_error, **SOON)
    client.log("cpu", usage=1.5)
    thread, errors = in_thread(lambda: client.close(0.05))
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert (results, errors) == ([False, False], [])


# ------------------------------------------------------------------------------ the process


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


CLOSE_IN_HANDLER = """
import os, signal, sys, threading
from arc.client import Client
client = Client(sys.argv[1], linger_s=0.0, on_error=lambda _: None)
client.log("cpu", usage=1.5)
calls = []
signal.signal(signal.SIGTERM, lambda *_: calls.append(client.close(0.1)))
def terminate():
    while not client._engine.intake.is_closed:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=terminate).start()
print(client.close(20), calls)
"""


def test_a_signal_handler_may_close_what_is_closing() -> None:
    done = run(CLOSE_IN_HANDLER, AWAY)
    assert done.stdout == "False [False]\n", done.stderr


FIRST_ROW_AT_EXIT = """
import atexit, sys
from arc.client import Client
client = Client(sys.argv[1])
atexit.register(lambda: client.log("cpu", usage=1.5))
"""


def test_the_first_row_may_come_at_the_end_of_the_process(receiver: Receiver) -> None:
    done = run(FIRST_ROW_AT_EXIT, receiver.server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(receiver.rows()) == 1


def test_thread_numbers_that_are_used_again_are_not_taken_for_the_clients_own(
    receiver: Receiver,
) -> None:
    client = Client(receiver.server.url, **SOON)
    client.log("cpu", usage=1.5)
    assert client.close()
    assert client._engine.intake.own_threads == frozenset()
    other = Intake(10, 10, 0.0, "block", start=lambda: None)
    other.own_threads = frozenset({threading.get_ident()})
    other.forget()
    assert other.own_threads == frozenset()


def test_many_clients_leave_nothing_behind_that_a_fork_has_to_go_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: registered.append(hooks))
    engines = []
    for _ in range(10):
        client = Client(AWAY)
        client.buffered().close()
        engines.append(client._engine)
        assert client.close()
    assert registered == []
    assert isinstance(engines[0], Engine)


def test_a_signal_handler_that_logs_loses_nothing(receiver: Receiver) -> None:
    client = Client(receiver.server.url, max_queued_rows=1_000, batch_rows=100, linger_s=0.0)
    from_handler = 0

    def handle(*_: Any) -> None:
        nonlocal from_handler
        client.log("signal", n=from_handler)
        from_handler += 1

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for value in range(30_000):
            client.log("cpu", usage=value)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert client.close()
    assert from_handler > 0
    assert len(receiver.rows("cpu")) == 30_000
    assert len(receiver.rows("signal")) == from_handler


# ------------------------------------------------------------------------------------ asyncio


async def test_a_second_close_of_an_async_client_does_nothing(receiver: Receiver) -> None:
    async with AsyncClient(receiver.server.url, **SOON) as client:
        writer = client.buffered()
        await client.log("cpu", usage=1.5)
        assert await client.close()
        assert await client.flush()
        with pytest.raises(ClosedError):
            await client.write_columnar("cpu", {"usage": [1.5]})
        assert await writer.close()
    assert len(receiver.rows()) == 1


async def test_an_async_client_closes_though_all_its_threads_wait_for_room(
    receiver: Receiver,
) -> None:
    receiver.server.refuse()
    small: dict[str, Any] = {"max_queued_rows": 10, "batch_rows": 5, "max_queued_bytes": 1024}
    client = AsyncClient(receiver.server.url, on_error=lambda _: None, **small, **SOON)

    async def produce() -> None:
        while True:
            await client.log("cpu", usage=1.5)

    async def write() -> None:
        await client.write_columnar("cpu", {"usage": [1.5] * 500}, timeout=None)

    tasks = [asyncio.create_task(call()) for call in (produce, write) for _ in range(20)]
    while client.stats().last_error is None:
        await asyncio.sleep(0.001)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not await asyncio.wait_for(client.flush(0.01), PATIENCE_S)
    assert not await asyncio.wait_for(client.close(0.05), PATIENCE_S)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE_S)
    assert {type(result) for result in results} <= {ClosedError, RefusedError}
    assert is_conserved(client.stats())


ASYNC_FORK = """
import asyncio, os, sys
from arc.client import AsyncClient
client = AsyncClient(sys.argv[1], linger_s=0.0)
async def write(value):
    await client.write_columnar("cpu", {"usage": [value]}, timeout=20)
asyncio.run(write(1.5))
pid = os.fork()
asyncio.run(write(2.5 if pid else 3.5))
asyncio.run(client.close())
if pid == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_an_async_client_may_be_used_in_a_forked_child(receiver: Receiver) -> None:
    done = run(ASYNC_FORK, receiver.server.url)
    assert done.returncode == 0, done.stderr
    assert sorted(row["usage"] for row in receiver.rows()) == [1.5, 2.5, 3.5]


ABANDONED_AWAIT = """
import asyncio, sys
from arc.client import AsyncClient
client = AsyncClient(sys.argv[1], max_queued_rows=10, batch_rows=5, max_queued_bytes=1024,
                     linger_s=0.0, close_timeout_s=0.2)
async def produce():
    while True:
        await client.log("cpu", usage=1.5)
async def main():
    try:
        await asyncio.wait_for(produce(), 0.5)
    except TimeoutError:
        print("cancelled", flush=True)
asyncio.run(main())
"""


def test_a_process_ends_though_an_await_for_room_was_cancelled() -> None:
    done = run(ABANDONED_AWAIT, AWAY)
    assert (done.returncode, done.stdout) == (0, "cancelled\n"), done.stderr


# ------------------------------------------------------------------------------- conservation


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "spill"])
def test_every_row_is_in_one_place_at_every_moment(
    receiver: Receiver, tmp_path: Path, policy: str
) -> None:
    """Rows of calls, handles, columns and buffers; a server that fails in every way it knows."""
    steps = [
        answer(503, retry_after="0"),
        hang_up(),
        answer(401),
        decided(receiver.take_and_hang_up),
    ]
    receiver.refuse = lambda batches: "bad" if any(map(has_bad, batches)) else None
    receiver.server.will(*(step for step in steps * 8 for _ in range(2)))
    spill: dict[str, Any] = {"spill_dir": tmp_path} if policy == "spill" else {}
    sizes: dict[str, Any] = {"max_queued_bytes": 16_384, "max_queued_rows": 500, "batch_rows": 50}
    errors: list[RefusedError] = []
    client = Client(
        receiver.server.url, when_full=policy, on_error=errors.append, **spill, **sizes, **SOON
    )
    wrong: list[Stats] = []
    samples = 0
    is_over = threading.Event()

    def sample() -> None:
        nonlocal samples
        while not is_over.is_set():
            samples += 1
            stats = client.stats()
            if not is_conserved(stats) or min(stats.queued_rows, stats.queued_bytes) < 0:
                wrong.append(stats)

    def produce(name: int) -> None:
        series = client.series("handle", {"name": str(name)}, ["n"])
        for n in range(1_000):
            client.log("call", n=n, **({"bad": 1} if n % 331 == 0 else {}))
            series.log(n)
            if n % 100 == 0:
                client.write_columnar("columns", {"n": [n] * 20}, wait=False)
                with contextlib.suppress(RefusedError):
                    client.write_columnar("columns", {"n": [n] * 20}, timeout=0.001)

    sampler, _ = in_thread(sample)
    threads = [in_thread(lambda name=name: produce(name)) for name in range(3)]  # type: ignore[misc]
    for thread, failures in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        assert failures == []
    assert client.close()
    is_over.set()
    sampler.join(PATIENCE_S)
    assert wrong == []
    assert samples > 100
    stats = client.stats()
    assert (stats.queued_rows, stats.queued_batches, stats.queued_bytes) == (0, 0, 0)
    assert stats.taken_rows >= 3 * 2_200
    # Refused rows are those of 401, of the callback, and of time-outs; the latter may be stored.
    assert len(receiver.rows()) >= stats.acknowledged_rows
    kinds = [row for row in receiver.rows() if "bad" not in row]
    assert len(kinds) == len(receiver.rows())


def has_bad(batch: ColumnBatch) -> bool:
    return "bad" in batch.columns
