"""The client against a server that does what the test has written down: nothing lost or doubled."""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from arc.client import Client, ClosedError, QueueFullError, RefusedError, UsageError
from ingest.columns import ColumnBatch
from tests.client.receiver import Receiver
from tests.support.scripted_server import (
    Request,
    ScriptedServer,
    Step,
    answer,
    decided,
    hang_up,
    silence,
)

SOON: dict[str, Any] = {"linger_s": 0.0, "close_timeout_s": 20.0}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as started:
        yield started


@pytest.fixture
def receiver(server: ScriptedServer) -> Receiver:
    return Receiver(server)


def assert_conserved(client: Client) -> None:
    """Every row that was taken is in exactly one place."""
    stats = client.stats()
    settled = stats.acknowledged_rows + stats.refused_rows + stats.dropped_rows
    assert stats.taken_rows + stats.recovered_rows == stats.queued_rows + settled, stats


# ------------------------------------------------------------------------------------- rows


def test_rows_of_calls_arrive_with_their_types_tags_and_times(receiver: Receiver) -> None:
    with Client(receiver.server.url, **SOON) as client:
        client.log("cpu", host="a", usage=1.5, cores=4, busy=True)
        client.log("cpu", time=datetime(2026, 1, 1, tzinfo=UTC), host="b", usage=2.5)
        client.log("disk", time=1_700_000_000_123, free=7)
    cpu = receiver.rows("cpu")
    assert [{k: v for k, v in row.items() if k != "time"} for row in cpu] == [
        {"host": "a", "usage": 1.5, "cores": 4, "busy": True},
        {"host": "b", "usage": 2.5},
    ]
    assert cpu[1]["time"] == 1_767_225_600_000_000
    assert receiver.rows("disk") == [{"time": 1_700_000_000_123_000, "free": 7}]
    assert client.stats().acknowledged_rows == 3
    assert_conserved(client)


def test_a_handle_takes_values_by_place_by_name_and_at_a_time(receiver: Receiver) -> None:
    with Client(receiver.server.url, **SOON) as client:
        cpu = client.series("cpu", tags={"host": "a"}, fields=["user", "system"])
        cpu.log(1.5, 0.25)
        cpu.log(system=0.5, user=2.5)
        cpu.log_at(1_700_000_000, 3.5, None)
    rows = receiver.rows("cpu")
    assert [(r["user"], r.get("system"), r["host"]) for r in rows] == [
        (1.5, 0.25, "a"),
        (2.5, 0.5, "a"),
        (3.5, None, "a"),
    ]
    assert rows[2]["time"] == 1_700_000_000_000_000


def test_a_handle_refuses_another_number_of_values() -> None:
    client = Client("http://127.0.0.1:9")
    cpu = client.series("cpu", fields=["user", "system"])
    with pytest.raises(TypeError, match="system"):
        cpu.log(1.5)
    with pytest.raises(TypeError, match="found 3 values, wanted 2: user, system"):
        cpu.log_at(0, 1.5, 2.5, 3.5)
    assert client.close()


@pytest.mark.parametrize(
    ("tags", "fields", "words"),
    [
        ({}, [], "wanted a list of one name or more"),
        ({}, "usage", "wanted a list of one name or more"),
        ({"a": "x"}, ["a"], "'a' is there twice"),
        ({}, ["time"], "'time' is neither tag nor field"),
        ({}, ["a", ""], "found '' as a name"),
    ],
)
def test_a_series_of_bad_names_is_refused(tags: Any, fields: Any, words: str) -> None:
    client = Client("http://127.0.0.1:9")
    with pytest.raises(UsageError, match=words):
        client.series("cpu", tags=tags, fields=fields)
    assert client.close()


def test_what_was_declared_decides_between_tag_and_field(receiver: Receiver) -> None:
    seen: list[ColumnBatch] = []
    receiver.refuse = lambda batches: seen.extend(batches)
    with Client(receiver.server.url, **SOON) as client:
        client.declare("log", tags=["code"], fields=["message"])
        client.log("log", message="disk full", code=7, host="a")
    assert sorted(seen[0].tags) == ["code", "host"]
    assert receiver.rows("log")[0]["code"] == "7"
    with pytest.raises(UsageError, match="'code' is tag and field"):
        client.declare("log", fields=["code"])


def test_columns_records_and_lines_return_after_the_answer(receiver: Receiver) -> None:
    server = receiver.server
    with Client(server.url) as client:
        columns = {"time": [1_700_000_000, 1_700_000_001], "usage": [1.5, 2.5]}
        assert client.write_columnar("cpu", columns, tags={"host": "a"}) == 2
        assert [row["usage"] for row in receiver.rows("cpu")] == [1.5, 2.5]
        assert client.write_records([{"measurement": "m", "fields": {"v": 1}}]) == 1
        assert [row["v"] for row in receiver.rows("m")] == [1]
        server.will(answer(204))
        assert client.write_line_protocol("cpu,host=a usage=1 1700000000\n", "s") == 1
    assert server.requests[-1].target == "/api/v1/write/line-protocol?precision=s"
    assert server.requests[-1].body == b"cpu,host=a usage=1 1700000000\n"
    assert_conserved(client)


def test_a_bad_record_refuses_its_call_before_any_is_sent(receiver: Receiver) -> None:
    records: list[Any] = [{"measurement": "m", "fields": {"v": n}} for n in range(50)]
    with Client(receiver.server.url, batch_rows=10) as client:
        with pytest.raises(UsageError):
            client.write_records([*records, {"measurement": "m", "fields": {"v": object()}}])
        assert receiver.server.requests == []
        assert client.write_records(records) == 50
    assert len(receiver.rows()) == 50
    assert_conserved(client)


def test_every_request_says_who_it_is_and_where_it_goes(receiver: Receiver) -> None:
    with Client(receiver.server.url, "secret", "plant-1", **SOON) as client:
        client.log("cpu", usage=1.5)
        client.flush()
        client.write_columnar("cpu", {"usage": [2.5]})
    first, second = receiver.server.requests
    assert first.headers["authorization"] == "Bearer secret"
    assert first.headers["x-arc-database"] == second.headers["x-arc-database"] == "plant-1"
    assert first.headers["content-type"] == "application/msgpack"
    keys = [request.headers["idempotency-key"] for request in (first, second)]
    assert len(set(keys)) == 2
    assert all(1 <= len(key) <= 64 for key in keys)


def test_bodies_are_compressed_when_told_and_never_on_loopback_by_themselves(
    receiver: Receiver,
) -> None:
    values = {"usage": [1.5] * 10_000}
    for compress in ("auto", "always", "never"):
        with Client(receiver.server.url, compress=compress) as client:
            client.write_columnar("cpu", values)
    auto, always, never = receiver.server.requests
    assert "content-encoding" not in auto.headers.keys() | never.headers.keys()
    assert always.headers["content-encoding"] == "zstd"
    assert len(always.body) * 10 < len(auto.body)
    assert len(receiver.rows("cpu")) == 30_000


# ------------------------------------------------------------------------------ repetitions


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_may_take_it_later_is_asked_again_with_the_same_key(
    receiver: Receiver, status: int
) -> None:
    server = receiver.server
    server.will(answer(status, retry_after="0"), answer(status, b'{"error": "busy"}'))
    with Client(server.url, connections=1, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(20)
        assert client.stats().retried_batches == 2
        assert client.stats().last_error is not None
    requests = server.requests
    assert len(requests) == 3
    assert len({r.headers["idempotency-key"] for r in requests}) == 1
    assert len({r.body for r in requests}) == 1
    assert len(receiver.rows()) == 1


def test_an_answer_that_was_lost_does_not_double_rows(receiver: Receiver) -> None:
    receiver.server.will(*[decided(receiver.take_and_hang_up)] * 2)
    with Client(receiver.server.url, connections=1, **SOON) as client:
        for value in range(100):
            client.log("cpu", usage=value)
        assert client.flush(20)
    assert [row["usage"] for row in receiver.rows()] == list(range(100))
    assert_conserved(client)


def test_a_connection_that_breaks_before_amid_or_after_the_body_loses_nothing(
    receiver: Receiver,
) -> None:
    receiver.server.will(hang_up(after=-1), hang_up(after=10), hang_up(how="reset"))
    with Client(receiver.server.url, connections=1, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(20)
    assert len(receiver.rows()) == 1


def test_a_server_that_never_answers_is_asked_again_after_the_time_out(
    receiver: Receiver,
) -> None:
    receiver.server.will(silence())
    with Client(receiver.server.url, connections=1, timeout_s=0.2, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(20)
    assert len(receiver.rows()) == 1


def test_rows_wait_while_the_server_is_away(receiver: Receiver) -> None:
    server = receiver.server
    server.refuse()
    with Client(server.url, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert not client.flush(0.05)
        assert client.stats().queued_rows == 1
        server.listen()
        assert client.flush(20)
    assert len(receiver.rows()) == 1


def test_one_answer_ends_the_pauses_of_batches_that_found_no_server(receiver: Receiver) -> None:
    server = receiver.server
    server.refuse()
    small = dict(SOON, batch_rows=1, connections=8)
    with Client(server.url, **small) as client:
        for value in range(8):
            client.log("cpu", usage=value)
        while client.stats().retried_batches < 40:  # by now each pauses for seconds
            time.sleep(0.001)
        server.listen()
        assert client.flush(20)
    assert len(receiver.rows()) == 8


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", [401, 403, 404, 422, 301])
def test_other_answers_are_refusals_and_never_repeated(
    receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.server.will(answer(status, b'{"error": "not so"}'))
    client = Client(receiver.server.url, **SOON)
    client.log("cpu", host="a", usage=1.5)
    with pytest.raises(RefusedError, match="not so") as refusal:
        client.flush(20)
    assert refusal.value.status == status
    assert not refusal.value.retryable
    assert not refusal.value.in_doubt
    (row,) = refusal.value.rows()
    assert {k: v for k, v in row.items() if k != "time"} == {
        "measurement": "cpu",
        "host": "a",
        "usage": 1.5,
    }
    assert "not so" in caplog.text
    assert client.flush(20)
    assert client.close()
    assert len(receiver.server.requests) == 1
    assert client.stats().refused_rows == 1
    assert_conserved(client)


def test_refused_rows_go_to_the_callback(receiver: Receiver) -> None:
    receiver.refuse = lambda _: "no"
    errors: list[RefusedError] = []
    with Client(receiver.server.url, on_error=errors.append, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(20)
    assert [(error.status, error.message, error.num_rows) for error in errors] == [(400, "no", 1)]


def test_a_callback_that_fails_is_logged_and_stops_nothing(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.server.will(answer(401))

    def on_error(error: RefusedError) -> None:
        raise KeyError(error.status)

    with Client(receiver.server.url, on_error=on_error, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(20)
        client.log("cpu", usage=2.5)
        assert client.flush(20)
    assert "on_error failed" in caplog.text
    assert [row["usage"] for row in receiver.rows()] == [2.5]


def test_a_callback_may_log_but_not_wait_for_its_own_client(receiver: Receiver) -> None:
    receiver.server.will(answer(401))
    words: list[str] = []

    def on_error(error: RefusedError) -> None:
        for value in range(50):
            client.log("errors", value=value)
        with pytest.raises(UsageError, match="on_error must not wait") as refusal:
            client.flush()
        words.append(str(refusal.value))

    few: dict[str, Any] = {"max_queued_rows": 10, "batch_rows": 5}
    with Client(receiver.server.url, on_error=on_error, **SOON, **few) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(20)
        assert client.flush(20)
    assert len(words) == 1
    assert len(receiver.rows("errors")) == 50


def test_one_bad_row_does_not_take_its_neighbours_with_it(receiver: Receiver) -> None:
    def refuse(batches: list[ColumnBatch]) -> str | None:
        is_bad = any("bad" in batch.columns for batch in batches)
        return "column 'bad'" if is_bad else None

    receiver.refuse = refuse
    errors: list[RefusedError] = []
    with Client(receiver.server.url, on_error=errors.append) as client:
        for value in range(1_000):
            client.log("cpu", usage=float(value))
            if value == 417:
                client.log("cpu", usage=-1.0, bad=1)
        assert client.flush(20)
    assert sorted(row["usage"] for row in receiver.rows()) == list(range(1_000))
    refused = [row for error in errors for row in error.rows()]
    assert [row["usage"] for row in refused] == [-1.0]
    assert_conserved(client)


def test_one_bad_value_among_good_ones_of_its_type_is_found_by_halving(
    receiver: Receiver,
) -> None:
    def refuse(batches: list[ColumnBatch]) -> str | None:
        found = any(-1.0 in batch.columns["usage"].values for batch in batches)
        return "usage is negative" if found else None

    receiver.refuse = refuse
    errors: list[RefusedError] = []
    with Client(receiver.server.url, on_error=errors.append) as client:
        cpu = client.series("cpu", fields=["usage"])
        for value in range(1_000):
            cpu.log(-1.0 if value == 417 else float(value))
        assert client.flush(20)
    assert len(receiver.rows()) == 999
    assert [row["usage"] for error in errors for row in error.rows()] == [-1.0]


def test_a_batch_of_nothing_but_bad_rows_is_refused_in_a_bounded_number_of_requests(
    receiver: Receiver,
) -> None:
    receiver.refuse = lambda _: "no"
    errors: list[RefusedError] = []
    with Client(receiver.server.url, on_error=errors.append) as client:
        cpu = client.series("cpu", fields=["usage"])
        for value in range(1_000):
            cpu.log(float(value))
        assert client.flush(20)
    refused = [row["usage"] for error in errors for row in error.rows()]
    assert sorted(refused) == list(range(1_000))
    assert len(receiver.server.requests) < 1_000
    assert client.stats().refused_rows == 1_000


def test_a_row_that_cannot_be_encoded_comes_back_alone(receiver: Receiver) -> None:
    errors: list[RefusedError] = []
    with Client(receiver.server.url, on_error=errors.append, **SOON) as client:
        client.log("cpu", usage=1.5)
        client.log("cpu", usage=object())
        client.log("cpu", usage=2.5)
        assert client.flush(20)
    assert [row["usage"] for row in receiver.rows()] == [1.5, 2.5]
    (error,) = errors
    assert error.status is None
    assert next(error.rows()).keys() >= {"measurement", "usage"}
    assert_conserved(client)


def test_a_call_that_waits_raises_what_the_server_said(receiver: Receiver) -> None:
    receiver.refuse = lambda _: "no such type"
    with Client(receiver.server.url) as client:
        with pytest.raises(RefusedError, match="no such type"):
            client.write_columnar("cpu", {"usage": [1.5, 2.5]})
        assert len(receiver.server.requests) == 1
        assert client.flush(20)
    assert_conserved(client)


def test_a_call_that_waits_too_long_gets_its_rows_back(receiver: Receiver) -> None:
    receiver.server.refuse()
    with Client(receiver.server.url) as client:
        with pytest.raises(RefusedError, match=r"not acknowledged within 0\.05 s") as refusal:
            client.write_columnar("cpu", {"usage": [1.5]}, timeout=0.05)
        assert refusal.value.retryable
        assert [row["usage"] for row in refusal.value.rows()] == [1.5]
        receiver.server.listen()
        client.log("cpu", usage=2.5)
        assert client.flush(20)
    assert [row["usage"] for row in receiver.rows()] == [2.5]
    assert_conserved(client)


def test_a_batch_is_given_up_after_the_time_that_was_set(receiver: Receiver) -> None:
    receiver.server.refuse()
    errors: list[RefusedError] = []
    with Client(receiver.server.url, give_up_s=0.0, on_error=errors.append, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(20)
    (error,) = errors
    assert (error.status, error.retryable, error.in_doubt) == (None, True, False)
    assert "given up after" in error.message


def test_a_batch_that_was_sent_and_not_answered_is_given_back_in_doubt(
    receiver: Receiver,
) -> None:
    receiver.server.will(hang_up())
    errors: list[RefusedError] = []
    with Client(receiver.server.url, give_up_s=0.0, on_error=errors.append, **SOON) as client:
        client.log("cpu", usage=1.5)
        assert client.flush(20)
    assert [error.in_doubt for error in errors] == [True]


# ------------------------------------------------------------------------------ when it is full


def full_client(receiver: Receiver, **settings: Any) -> Client:
    """A client with room for little, whose server is away."""
    receiver.server.refuse()
    small = {"max_queued_rows": 50, "batch_rows": 10, "max_queued_bytes": 2048, "connections": 1}
    return Client(receiver.server.url, **(small | SOON | settings))


def test_calls_raise_when_it_is_full_and_what_was_taken_arrives(receiver: Receiver) -> None:
    client = full_client(receiver, when_full="raise")

    def fill() -> None:
        for value in range(100_000):
            client.log("cpu", usage=value)

    with pytest.raises(QueueFullError):
        fill()
    taken = client.stats().taken_rows
    receiver.server.listen()
    assert client.flush(20)
    assert sorted(row["usage"] for row in receiver.rows()) == list(range(taken))
    assert client.close()
    assert_conserved(client)


def test_calls_wait_when_it_is_full_and_nothing_is_lost(receiver: Receiver) -> None:
    client = full_client(receiver)

    def produce() -> None:
        for value in range(5_000):
            client.log("cpu", usage=value)

    thread = threading.Thread(target=produce)
    thread.start()
    while client.stats().last_error is None:
        time.sleep(0.001)
    assert client.stats().queued_rows < 5_000
    receiver.server.listen()
    thread.join()
    assert client.flush(20)
    assert sorted(row["usage"] for row in receiver.rows()) == list(range(5_000))
    assert client.close()
    assert_conserved(client)


def test_the_oldest_are_dropped_and_counted_under_that_policy(receiver: Receiver) -> None:
    client = full_client(receiver, when_full="drop_oldest")
    for value in range(5_000):
        client.log("cpu", usage=value)
    receiver.server.listen()
    assert client.flush(20)
    stats = client.stats()
    arrived = sorted(row["usage"] for row in receiver.rows())
    assert arrived[-1] == 4_999
    assert stats.dropped_rows == 5_000 - len(arrived) > 0
    assert client.close()
    assert_conserved(client)


def test_columns_find_no_room_in_time(receiver: Receiver) -> None:
    client = full_client(receiver)
    client.write_columnar("cpu", {"usage": [1.5] * 50}, wait=False)
    with pytest.raises(RefusedError, match="no room"):
        client.write_columnar("cpu", {"usage": [1.5] * 200}, timeout=0.05)
    receiver.server.listen()
    assert client.flush(20)
    assert len(receiver.rows()) == 50
    assert client.close()
    assert_conserved(client)


# -------------------------------------------------------------------------------------- ends


def test_close_sends_what_is_queued_and_takes_nothing_after(receiver: Receiver) -> None:
    client = Client(receiver.server.url, linger_s=3600.0)
    cpu = client.series("cpu", fields=["usage"])
    client.log("cpu", usage=1.5)
    cpu.log(2.5)
    assert client.close()
    assert client.close()
    assert len(receiver.rows()) == 2
    for call in (
        lambda: client.log("cpu", usage=3.5),
        lambda: cpu.log(3.5),
        lambda: client.write_columnar("cpu", {"usage": [3.5]}),
    ):
        with pytest.raises(ClosedError):
            call()
    receiver.server.wait_until_left()


def test_close_gives_back_what_it_could_not_send(receiver: Receiver) -> None:
    receiver.server.refuse()
    errors: list[RefusedError] = []
    client = Client(receiver.server.url, on_error=errors.append, **SOON)
    client.log("cpu", usage=1.5)
    assert not client.close(0.05)
    assert [(e.retryable, e.in_doubt, e.num_rows) for e in errors] == [(True, False, 1)]
    assert_conserved(client)


def test_a_block_that_fails_keeps_its_own_error(receiver: Receiver) -> None:
    receiver.refuse = lambda _: "no"

    def fail() -> None:
        with Client(receiver.server.url, **SOON) as client:
            client.log("cpu", usage=1.5)
            raise KeyError("mine")

    with pytest.raises(KeyError) as failure:
        fail()
    assert any("no" in note for note in failure.value.__notes__)


def test_a_client_that_took_no_row_starts_no_thread() -> None:
    before = threading.active_count()
    client = Client("http://127.0.0.1:9")
    client.series("cpu", fields=["usage"])
    assert client.flush()
    assert threading.active_count() == before
    assert client.close()


def test_no_thread_and_no_connection_is_left_after_close(receiver: Receiver) -> None:
    before = threading.active_count()
    client = Client(receiver.server.url, **SOON)
    for value in range(10):
        client.log("cpu", usage=value)
    assert client.close()
    receiver.server.wait_until_left()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("arc-client")]
    assert threading.active_count() >= before


def test_rows_of_all_threads_arrive(receiver: Receiver) -> None:
    with Client(receiver.server.url) as client:
        cpu = client.series("cpu", fields=["thread", "n"])

        def produce(name: int) -> None:
            for n in range(2_000):
                cpu.log(name, n)

        threads = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.flush(30)
    rows = {(row["thread"], row["n"]) for row in receiver.rows()}
    assert len(receiver.rows()) == len(rows) == 8_000


def test_calls_of_many_threads_and_numbers_of_values_stay_whole(receiver: Receiver) -> None:
    names = [f"v{i}" for i in range(7)]
    with Client(receiver.server.url, batch_rows=500) as client:

        def produce(thread: int) -> None:
            for n in range(1_500):
                own = thread * 10_000 + n
                client.log(f"m{n % 3}", **dict.fromkeys(names[: 1 + (n + thread) % 7], own))

        threads = [threading.Thread(target=produce, args=(thread,)) for thread in range(4)]
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(switch_s)
        assert client.flush(30)
        assert sorted(q.context for q in client._engine.intake.queues) == list(range(1, 8))
    found = set()
    for measurement in ("m0", "m1", "m2"):
        for row in receiver.rows(measurement):
            (own,) = {row[name] for name in names if name in row}
            thread, n = divmod(own, 10_000)
            assert measurement == f"m{n % 3}"
            assert sum(name in row for name in names) == 1 + (n + thread) % 7
            found.add(own)
    assert len(found) == len(receiver.rows()) == 6_000


def test_names_of_a_call_may_be_those_of_anything_else(receiver: Receiver) -> None:
    with Client(receiver.server.url, **SOON) as client:
        client.log("measurement", measurement="values", self="x", values=1.5, rows=2)
        client.log("host", host="host", n=1)
        client.log("host", host="n", n=2)
    (row,) = receiver.rows("measurement")
    del row["time"]
    assert row == {"measurement": "values", "self": "x", "values": 1.5, "rows": 2}
    assert [(row["host"], row["n"]) for row in receiver.rows("host")] == [("host", 1), ("n", 2)]


def test_a_call_without_values_is_refused_and_its_neighbours_arrive(receiver: Receiver) -> None:
    errors: list[RefusedError] = []
    with Client(receiver.server.url, on_error=errors.append, **SOON) as client:
        client.log("cpu")
        client.log("cpu", usage=1.5)
        assert client.flush(20)
    assert [row["usage"] for row in receiver.rows()] == [1.5]
    assert "found no values" in errors[0].message
    assert_conserved(client)


def test_the_counts_can_be_read_while_rows_are_on_their_way(receiver: Receiver) -> None:
    gate = receiver.server.gate()

    def later(request: Request) -> Step:
        gate.wait()
        return receiver.take(request)

    receiver.server.will(decided(later))
    with Client(receiver.server.url, connections=1, **SOON) as client:
        client.log("cpu", usage=1.5)
        receiver.server.wait_for(1)
        stats = client.stats()
        assert (stats.taken_rows, stats.queued_rows, stats.sent_rows) == (1, 1, 1)
        assert stats.queued_bytes > 0
        gate.set()
        assert client.flush(20)
        assert client.stats().queued_rows == 0
    json.dumps({name: getattr(stats, name) for name in stats.__struct_fields__})


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Errors that a test causes are for `caplog`; clients that it left are collected in it."""
    caplog.set_level(logging.WARNING)
    yield
    gc.collect()
