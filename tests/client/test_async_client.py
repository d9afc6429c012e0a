"""The asynchronous client: the same verbs, and an event loop that is never held up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from arc.client import AsyncClient, ClosedError, QueueFullError, RefusedError
from tests.client.receiver import Receiver
from tests.support.scripted_server import Request, ScriptedServer, Step, decided


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with ScriptedServer() as server:
        yield Receiver(server)


async def test_every_verb_of_the_plain_client_is_there(receiver: Receiver) -> None:
    async with AsyncClient(receiver.server.url, linger_s=0.0) as client:
        client.declare("log", fields=["message"])
        client.log("log", message="started", host="a")
        await client.log("cpu", host="a", usage=1.5)
        cpu = client.series("cpu", {"host": "a"}, ["usage"])
        cpu.log(2.5)
        await cpu.log_at(1_700_000_000, 3.5)
        assert await cpu.write_columnar({"usage": [4.5]}) == 1
        assert await client.write_columnar("cpu", {"usage": [5.5]}, wait=False) == 1
        assert await client.write_records([{"measurement": "m", "fields": {"v": 1}}]) == 1
        assert await client.checkpoint(20)
        assert await client.flush(20)
        assert client.stats().acknowledged_rows == 7
    assert sorted(row["usage"] for row in receiver.rows("cpu")) == [1.5, 2.5, 3.5, 4.5, 5.5]
    with pytest.raises(ClosedError):
        client.log("cpu", usage=1.5)


async def test_calls_of_any_number_of_values_share_their_queues(receiver: Receiver) -> None:
    async with AsyncClient(receiver.server.url, linger_s=3600.0) as client:
        for n in range(6):
            client.log("cpu", **{f"v{i}": n for i in range(1 + n % 3)})
            client._client.log("cpu", **{f"v{i}": -n for i in range(1 + n % 3)})
        assert [q.context for q in client._engine.intake.queues] == [1, 2, 3]
        assert client.stats().queued_rows == 12
    assert sorted(row["v0"] for row in receiver.rows()) == [-5, -4, -3, -2, -1, 0, 0, *range(1, 6)]


async def test_a_full_queue_is_awaited_and_the_loop_goes_on(receiver: Receiver) -> None:
    receiver.server.refuse()
    client = AsyncClient(
        receiver.server.url,
        linger_s=0.0,
        max_queued_rows=20,
        batch_rows=5,
        max_queued_bytes=1024,
        connections=1,
    )
    steps = 0

    async def produce() -> None:
        nonlocal steps
        for value in range(2_000):
            await client.log("cpu", usage=value)
            steps += 1

    task = asyncio.create_task(produce())
    before = -1
    while steps != before or client.stats().last_error is None:
        before = steps
        await asyncio.sleep(0.05)
    assert 0 < steps < 2_000
    receiver.server.listen()
    await task
    assert await client.close()
    assert sorted(row["usage"] for row in receiver.rows()) == list(range(2_000))


async def test_a_row_is_taken_whether_it_is_awaited_or_not(receiver: Receiver) -> None:
    async with AsyncClient(receiver.server.url, max_queued_rows=10, batch_rows=5) as client:
        cpu = client.series("cpu", fields=["usage"])
        for value in range(100):
            client.log("cpu", usage=value)
            cpu.log(value)
    assert len(receiver.rows()) == 200


async def test_a_full_queue_raises_under_that_policy_before_the_row_is_taken(
    receiver: Receiver,
) -> None:
    receiver.server.refuse()
    settings: dict[str, Any] = {"max_queued_rows": 10, "when_full": "raise", "linger_s": 3600.0}
    client = AsyncClient(receiver.server.url, **settings)

    def fill() -> None:
        for value in range(1_000):
            client.log("cpu", usage=value)

    with pytest.raises(QueueFullError):
        fill()
    taken = client.stats().taken_rows
    receiver.server.listen()
    assert await client.close()
    assert [row["usage"] for row in receiver.rows()] == list(range(taken))


async def test_refusals_and_time_outs_are_raised_where_they_are_awaited(
    receiver: Receiver,
) -> None:
    receiver.refuse = lambda _: "no such type"
    client = AsyncClient(receiver.server.url)
    with pytest.raises(RefusedError, match="no such type"):
        await client.write_columnar("cpu", {"usage": [1.5]})
    receiver.server.refuse()
    receiver.server.hang_up_idle()
    with pytest.raises(RefusedError, match=r"not acknowledged within 0\.05 s"):
        await client.write_columnar("cpu", {"usage": [1.5]}, timeout=0.05)
    assert await client.close()


async def test_a_cancelled_write_is_not_sent_any_more(receiver: Receiver) -> None:
    receiver.server.refuse()
    client = AsyncClient(receiver.server.url)
    task = asyncio.create_task(client.write_columnar("cpu", {"usage": [1.5]}))
    while client.stats().last_error is None:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    receiver.server.listen()
    assert await client.close()
    assert receiver.rows() == []


async def test_the_loop_turns_while_a_write_waits(receiver: Receiver) -> None:
    gate = receiver.server.gate()

    def later(request: Request) -> Step:
        gate.wait()
        return receiver.take(request)

    receiver.server.will(decided(later))
    async with AsyncClient(receiver.server.url) as client:
        task = asyncio.create_task(client.write_columnar("cpu", {"usage": [1.5]}))
        await asyncio.to_thread(receiver.server.wait_for, 1)
        assert not task.done()
        gate.set()
        assert await task == 1
