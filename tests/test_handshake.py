"""What supervisor and worker say to each other, over real pipes."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable

import msgspec
import pytest
import uvloop

from arc.config import Config
from arc.handshake import (
    MAX_FORK_MESSAGE_BYTES,
    READY,
    Forked,
    WorkerStart,
    announce_ready,
    call_when_alone,
    read_start,
)

START = WorkerStart(Config(port=1234), shard=3, ready_fd=7, others_serving=True)


def test_the_start_line_arrives_as_it_was_sent() -> None:
    line = START.to_line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert read_start(io.BytesIO(line)) == START


@pytest.mark.parametrize("line", [b"", START.to_line()[:-1], START.to_line()[:10]])
def test_a_supervisor_that_is_gone_is_no_start(line: bytes) -> None:
    with pytest.raises(EOFError):
        read_start(io.BytesIO(line))


@pytest.mark.parametrize("line", [b"{}\n", b"\n", START.to_line().replace(b"port", b"pert")])
def test_a_line_of_another_version_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_start(io.BytesIO(line))


@pytest.mark.parametrize("answer", [Forked(2**22, 5), Forked(error="cannot fork: " + 200 * "x")])
def test_the_answer_of_the_template_arrives_as_it_was_sent(answer: Forked) -> None:
    message = answer.to_bytes()
    assert len(message) <= MAX_FORK_MESSAGE_BYTES
    assert Forked.from_bytes(message) == answer


def test_ready_is_one_word_and_the_end() -> None:
    reader, writer = os.pipe()
    announce_ready(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == READY


def test_ready_without_a_supervisor_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    announce_ready(writer)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(writer)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_end_of_standard_input_calls_back_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    reader, writer = os.pipe()
    calls: list[str] = []

    async def worker() -> None:
        loop = asyncio.get_running_loop()
        alone = asyncio.Event()

        def on_alone() -> None:
            calls.append("alone")
            alone.set()

        call_when_alone(loop, reader, on_alone)
        os.write(writer, b"what a later supervisor may say\n")
        await asyncio.sleep(0)
        assert not alone.is_set()
        os.close(writer)
        await alone.wait()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(worker())
    os.close(reader)
    assert calls == ["alone"]
