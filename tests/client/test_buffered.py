"""The buffered writer against a scripted server: when it sends, and that it loses nothing."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from arc.client import AsyncClient, Client, ClosedError, QueueFullError, RefusedError, UsageError
from arc.client.buffered import BufferedWriter
from ingest.testing.batches import column_values
from tests.client.receiver import Receiver
from tests.support.daemon import eventually
from tests.support.scripted_server import ScriptedServer, answer, decided, hang_up

NOW_US = 1_790_000_000_123_456
SOON: dict[str, Any] = {"linger_s": 0.0, "close_timeout_s": 20.0}
NEVER_S = 3600.0


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as started:
        yield started


@pytest.fixture
def receiver(server: ScriptedServer) -> Receiver:
    return Receiver(server)


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    with Client(receiver.server.url, **SOON) as made:
        yield made


def record(n: int, measurement: str = "cpu", /, **fields: Any) -> dict[str, Any]:
    """Row n of a measurement, with the field n unless it is given."""
    return {
        "measurement": measurement,
        "timestamp": NOW_US + n,
        "fields": {"n": n} | fields,
        "tags": {"host": "a"},
    }


def numbers(receiver: Receiver, measurement: str = "cpu") -> list[int]:
    return sorted(row["n"] for row in receiver.rows(measurement))


# ------------------------------------------------------------------------------- when it sends


def test_a_measurement_is_sent_when_it_has_enough_rows(client: Client, receiver: Receiver) -> None:
    writer = client.buffered(batch_size=3, flush_interval=NEVER_S)
    for n in range(4):
        writer.write(record(n))
        writer.write(record(n, "mem")) if n < 2 else None
    (request,) = receiver.server.wait_for(1)
    assert request.headers["x-arc-time-unit"] == "ns"
    assert writer.pending_measurements == {"cpu": 1, "mem": 2}
    assert writer.pending_count == 3
    writer.close()
    assert numbers(receiver) == [0, 1, 2, 3]
    assert numbers(receiver, "mem") == [0, 1]
    assert len(receiver.keys) == 2
    assert writer.pending_count == 0


def test_rows_are_sent_by_themselves_when_they_are_old_enough(
    client: Client, receiver: Receiver
) -> None:
    with client.buffered(flush_interval=0.01) as writer:
        for n in range(3):
            writer.write(record(n))
            receiver.server.wait_for(n + 1)
    assert numbers(receiver) == [0, 1, 2]


def test_flush_returns_after_the_acknowledgement(client: Client, receiver: Receiver) -> None:
    with client.buffered(flush_interval=NEVER_S) as writer:
        writer.write(record(1))
        writer.write(record(2, "mem"))
        assert writer.flush() is True
        assert client.stats().acknowledged_rows == 2
        assert len(receiver.keys) == 1
        assert writer.flush() is True


def test_columns_and_records_go_together(client: Client, receiver: Receiver) -> None:
    with client.buffered(batch_size=6, flush_interval=NEVER_S) as writer:
        for n in (10, 20):
            columns = {"time": np.array([NOW_US, NOW_US + 1]), "n": np.array([n, n + 1])}
            writer.write_columnar("cpu", columns)
        writer.write_columnar("cpu", {})
        writer.write_columnar("mem", {"n": [7], "host": ["b"]}, tags=["host"])
        writer.write(record(1))
        assert writer.pending_measurements == {"cpu": 5, "mem": 1}
        writer.write(record(2))
        assert writer.pending_measurements == {"mem": 1}
    assert numbers(receiver) == [1, 2, 10, 11, 20, 21]
    assert receiver.rows("cpu")[0].keys() >= {"time", "n"}
    assert [row["host"] for row in receiver.rows("mem")] == ["b"]


def test_what_is_written_may_change_afterwards(client: Client, receiver: Receiver) -> None:
    with client.buffered() as writer:
        row, values = record(1), [2]
        writer.write(row)
        writer.write_columnar("cpu", {"n": values})
        row["fields"]["n"] = values[0] = 99
    assert numbers(receiver) == [1, 2]


def test_more_rows_than_a_batch_takes_are_several(client: Client, receiver: Receiver) -> None:
    with client.buffered(batch_size=3) as writer:
        for n in range(8):
            writer.write(record(n, f"m{n}"))
    assert len(receiver.keys) == 3
    assert len(receiver.rows()) == 8


@pytest.mark.parametrize("how", [{"batch_size": 0}, {"flush_interval": -1.0}])
def test_bounds_that_are_none_are_refused(client: Client, how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(how))):
        client.buffered(**how)


# ------------------------------------------------------------------------------ nothing is lost


def test_a_record_that_cannot_be_sent_is_refused_when_it_is_written(
    client: Client, receiver: Receiver
) -> None:
    with client.buffered() as writer:
        writer.write(record(1))
        with pytest.raises(ValueError, match="record 1: measurement 'cpu': column 'n': found list"):
            writer.write(record(2, n=[2]))
        with pytest.raises(UsageError, match="record 2: found no measurement"):
            writer.write({"fields": {"n": 3}})
        writer.write(record(4))
        assert writer.pending_count == 2
    assert numbers(receiver) == [1, 4]


def test_a_value_that_turns_out_not_to_encode_is_refused_alone(
    client: Client, receiver: Receiver
) -> None:
    writer = client.buffered()
    for n in range(9):
        writer.write(record(n, n=n if n != 5 else 2**64))
    with pytest.raises(
        RefusedError, match="record 5: measurement 'cpu': column 'n': can't"
    ) as found:
        writer.close()
    assert list(found.value.rows()) == [
        {"measurement": "cpu", "time": (NOW_US + 5) * 1000, "host": "a", "n": 2**64}
    ]
    assert numbers(receiver) == [0, 1, 2, 3, 4, 6, 7, 8]


def test_a_server_that_fails_for_a_while_gets_each_row_once(
    client: Client, receiver: Receiver
) -> None:
    receiver.server.will(
        answer(503, headers={"retry-after": "0"}), hang_up(), decided(receiver.take_and_hang_up)
    )
    with client.buffered(batch_size=5) as writer:
        for n in range(20):
            writer.write(record(n))
    assert numbers(receiver) == list(range(20))


def test_refused_rows_are_raised_by_the_next_call_which_has_taken_its_own(
    client: Client, receiver: Receiver
) -> None:
    receiver.refuse = lambda batches: "no" if batches[0].measurement == "bad" else None
    writer = client.buffered(batch_size=2, flush_interval=NEVER_S)
    writer.write(record(1, "bad"))
    writer.write(record(2, "bad"))
    client.flush()
    with pytest.raises(RefusedError, match=r"1 rows of .*bad.*: answered 400: no") as found:
        writer.write(record(3))
    assert found.value.status == 400
    errors = [found.value, *found.value.others]
    assert sorted(row["n"] for error in errors for row in error.rows()) == [1, 2]
    writer.write(record(4))
    assert writer.flush() is True
    assert numbers(receiver) == [3, 4]
    writer.close()


def test_a_bad_row_does_not_take_its_neighbours_with_it(client: Client, receiver: Receiver) -> None:
    receiver.refuse = lambda batches: (
        "no" if any(5 in column_values(batch.columns["n"]) for batch in batches) else None
    )
    writer = client.buffered()
    for n in range(20):
        writer.write(record(n))
    with pytest.raises(RefusedError, match="answered 400: no") as found:
        writer.close()
    assert [row["n"] for row in found.value.rows()] == [5]
    assert numbers(receiver) == [n for n in range(20) if n != 5]


@pytest.mark.parametrize("call", ["flush", "close"])
def test_flush_and_close_raise_what_was_refused(
    client: Client, receiver: Receiver, call: str
) -> None:
    receiver.refuse = lambda _: "no"
    writer = client.buffered()
    writer.write(record(1))
    with pytest.raises(RefusedError, match="answered 400: no"):
        getattr(writer, call)()
    assert getattr(writer, call)() is True
    writer.close()


def test_a_flush_that_runs_out_of_time_loses_nothing(client: Client, receiver: Receiver) -> None:
    gate = receiver.server.gate()
    receiver.server.will(answer(503, gate=gate, headers={"retry-after": "0"}))
    with client.buffered() as writer:
        writer.write(record(1))
        assert writer.flush(timeout=0.05) is False
        assert writer.pending_count == 0
        gate.set()
        assert writer.flush() is True
    assert numbers(receiver) == [1]


def test_what_close_did_not_wait_for_is_sent_by_the_client(
    client: Client, receiver: Receiver
) -> None:
    gate = receiver.server.gate()
    receiver.server.will(answer(503, gate=gate, headers={"retry-after": "0"}))
    writer = client.buffered()
    writer.write(record(1))
    assert writer.close(timeout=0.05) is False
    assert writer.close() is True
    gate.set()
    assert client.flush() is True
    assert numbers(receiver) == [1]


def test_what_is_refused_after_close_goes_to_the_client(receiver: Receiver) -> None:
    gate, errors = receiver.server.gate(), queue.SimpleQueue[RefusedError]()
    receiver.server.will(answer(400, body=b'{"error": "late"}', gate=gate))
    with Client(receiver.server.url, on_error=errors.put, **SOON) as client:
        writer = client.buffered()
        writer.write(record(1))
        assert writer.close(timeout=0.05) is False
        gate.set()
        assert errors.get().message == "late"


def test_a_client_without_room_has_the_writer_refuse_and_keep_what_it_took(
    receiver: Receiver,
) -> None:
    gate = receiver.server.gate()
    receiver.server.will(answer(503, gate=gate, headers={"retry-after": "0"}))
    full: dict[str, Any] = {"when_full": "raise", "max_queued_bytes": 1024, "batch_bytes": 1024}
    with Client(receiver.server.url, **SOON, **full) as client:
        writer = client.buffered(batch_size=2, flush_interval=NEVER_S)
        taken: list[int] = []

        def fill() -> None:
            for n in range(1_000):
                writer.write(record(n, n=n, pad="x" * 300))
                taken.append(n)

        with pytest.raises(QueueFullError):
            fill()
        assert writer.pending_count == 2
        gate.set()
        client.flush()
        writer.write(record(1_000))
        assert writer.flush() is True
        writer.close()
    assert numbers(receiver) == [*taken, 1_000]


@pytest.mark.parametrize("policy", ["raise", "block"])
def test_what_found_no_room_is_sent_without_a_further_call(receiver: Receiver, policy: str) -> None:
    gate = receiver.server.gate()
    receiver.server.will(answer(503, gate=gate, headers={"retry-after": "0"}))
    full: dict[str, Any] = {"when_full": policy, "max_queued_bytes": 1024, "batch_bytes": 1024}
    with Client(receiver.server.url, **SOON, **full) as client:
        writer = client.buffered(flush_interval=0.001)
        writer.write(record(0, pad="x" * 700))
        eventually(lambda: not writer.pending_count, "the first is with the client")
        writer.write(record(1, pad="x" * 700))
        assert writer.close(timeout=0.05) is False
        gate.set()
        eventually(lambda: numbers(receiver) == [0, 1], "all rows arrive")


def test_any_thread_may_write(client: Client, receiver: Receiver) -> None:
    with client.buffered(batch_size=50, flush_interval=0.001) as writer:

        def write(first: int) -> None:
            for n in range(first, first + 500):
                writer.write(record(n))

        threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 2_000, 500)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert numbers(receiver) == list(range(2_000))


# --------------------------------------------------------------------------------- its life


def test_a_client_that_is_closed_first_sends_what_its_writers_hold(receiver: Receiver) -> None:
    client = Client(receiver.server.url)
    writer = client.buffered(flush_interval=3600.0)
    writer.write({"measurement": "cpu", "fields": {"usage": 1.5}})
    assert client.close()
    assert [row["usage"] for row in receiver.rows()] == [1.5]
    with pytest.raises(ClosedError):
        writer.write({"measurement": "cpu", "fields": {"usage": 2.5}})
    assert writer.close()


def test_a_closed_writer_takes_nothing(client: Client, receiver: Receiver) -> None:
    with client.buffered() as writer:
        writer.write(record(1))
    writer.close()
    with pytest.raises(ClosedError):
        writer.write(record(2))
    with pytest.raises(ClosedError):
        writer.write_columnar("cpu", {"n": [3]})
    assert numbers(receiver) == [1]


def test_a_block_that_failed_still_sends_and_says_what_it_could_not(
    client: Client, receiver: Receiver
) -> None:
    receiver.refuse = lambda _: "no"

    def fail() -> None:
        with client.buffered() as writer:
            writer.write(record(1))
            raise KeyError

    with pytest.raises(KeyError) as found:
        fail()
    assert "answered 400: no" in found.value.__notes__[0]


def test_a_writer_without_rows_starts_no_thread(client: Client) -> None:
    before = threading.active_count()
    with client.buffered() as writer:
        assert writer.flush() is True
        assert writer.pending_measurements == {}
    assert threading.active_count() == before


AT_EXIT = """
import sys
from arc.client import Client
client = Client(sys.argv[1])
writer = client.buffered(flush_interval=3600.0)
for n in range(10):
    writer.write({"measurement": "cpu", "fields": {"n": n}})
"""

IN_CHILD = """
import os, sys
from arc.client import Client
client = Client(sys.argv[1])
writer = client.buffered(flush_interval=3600.0)
writer.write({"measurement": "cpu", "fields": {"n": 1}})
pid = os.fork()
writer.write({"measurement": "cpu", "fields": {"n": 3 if pid else 2}})
writer.close()
client.close()
if pid == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    ("code", "want"), [(AT_EXIT, list(range(10))), (IN_CHILD, [1, 2, 3])], ids=["exit", "fork"]
)
def test_the_end_of_the_process_sends_and_a_fork_sends_once(
    receiver: Receiver, code: str, want: list[int]
) -> None:
    command = [sys.executable, "-c", code, receiver.server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert numbers(receiver) == want


# ------------------------------------------------------------------------------ for asyncio


async def test_the_asynchronous_writer_does_the_same(receiver: Receiver) -> None:
    async with AsyncClient(receiver.server.url, **SOON) as client:
        async with client.buffered(batch_size=3, flush_interval=NEVER_S) as writer:
            for n in range(4):
                await writer.write(record(n))
            await writer.write_columnar("mem", {"n": [1, 2]})
            assert writer.pending_measurements == {"cpu": 1, "mem": 2}
            assert writer.pending_count == 3
            assert await writer.flush() is True
            with pytest.raises(UsageError):
                await writer.write({})
        assert await writer.close() is True
    assert numbers(receiver) == [0, 1, 2, 3]
    assert numbers(receiver, "mem") == [1, 2]


async def test_the_asynchronous_writer_raises_what_was_refused(receiver: Receiver) -> None:
    receiver.refuse = lambda _: "no"
    async with AsyncClient(receiver.server.url, **SOON) as client:
        with pytest.raises(RefusedError, match="answered 400: no"):
            async with client.buffered() as writer:
                await writer.write(record(1))


def test_its_parts_are_those_that_users_of_the_other_client_know() -> None:
    from arc_client.ingestion.async_buffered import AsyncBufferedWriter as TheirAsync
    from arc_client.ingestion.buffered import BufferedWriter as Theirs

    from arc.client.buffered import AsyncBufferedWriter

    for ours, theirs in ((BufferedWriter, Theirs), (AsyncBufferedWriter, TheirAsync)):
        assert {name for name in vars(theirs) if name[0] != "_"} <= set(vars(ours))
