"""Flat lists of rows: who may add, who has to wait, and that none is lost between two threads."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from arc.client.errors import ClosedError, QueueFullError
from arc.client.intake import SHARES, Intake, Places, RowQueue
from arc.client.settings import Policy


def new_intake(
    max_rows: int = 100, batch_rows: int = 10, linger_s: float = 0.0, policy: Policy = "raise"
) -> Intake:
    return Intake(max_rows, batch_rows, linger_s, policy, start=lambda: None)


def log(queue: RowQueue, *values: object) -> None:
    """What a hot call does."""
    if len(queue.rows) >= queue.mark:
        queue.notice()
    queue.rows.extend(values)


def log_many(queue: RowQueue, num_rows: int) -> None:
    for number in range(num_rows):
        log(queue, *[number] * queue.stride)


def flat(rows: Places) -> list[object]:
    """The rows one after another, as they were logged."""
    return [value for row in zip(*rows, strict=True) for value in row]


def take_all(intake: Intake) -> list[list[object]]:
    drain, waiting = intake.begin_round()
    taken = [flat(intake.take(queue, num_rows)) for queue, num_rows in waiting]
    for queue, num_rows in waiting:
        assert num_rows * queue.stride <= sum(map(len, taken))
    intake.end_round(drain)
    return taken


def test_the_first_row_of_an_idle_queue_wakes_the_pump() -> None:
    intake = new_intake()
    queue = intake.add_queue(2)
    assert queue.mark == 0
    log(queue, 1, 2)
    assert intake.wait_for_work()
    assert take_all(intake) == [[1, 2]]
    assert queue.mark == 0


def test_the_oldest_rows_are_taken_by_place_and_the_others_stay() -> None:
    intake = new_intake()
    queue = intake.add_queue(2)
    for number in range(5):
        log(queue, number, -number)
    assert intake.take(queue, 3) == [[0, 1, 2], [0, -1, -2]]
    assert queue.rows == [3, -3, 4, -4]
    assert (intake.taken_rows, intake.waiting_rows()) == (3, 2)
    assert intake.take(queue, 9) == [[3, 4], [-3, -4]]


def test_a_value_that_dies_with_its_row_dies_without_the_lock() -> None:
    intake = new_intake()
    queue = intake.add_queue(1)
    found: list[bool] = []

    class Value:
        def __del__(self) -> None:
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()

    def look() -> None:
        found.append(intake.changed.acquire(blocking=False))
        if found[-1]:
            intake.changed.release()

    log(queue, Value())
    intake.take(queue, 1)
    assert found == [True]


def test_a_call_below_the_mark_asks_nobody() -> None:
    intake = new_intake(batch_rows=5)
    queue = intake.add_queue(1)
    asked = 0
    admit = queue.notice

    def notice() -> None:
        nonlocal asked
        asked += 1
        admit()

    queue.notice = notice
    for value in range(10):
        log(queue, value)
    assert asked == 2


def test_more_rows_than_may_wait_are_refused_under_raise() -> None:
    intake = new_intake(max_rows=7, batch_rows=3)
    queue = intake.add_queue(2)
    with pytest.raises(QueueFullError, match="7 rows wait to be sent, the limit is 7"):
        log_many(queue, 20)
    assert len(queue.rows) == 14
    take_all(intake)
    log(queue, 1, 1)


def test_what_one_queue_does_not_use_another_may() -> None:
    intake = new_intake(max_rows=8, batch_rows=8)
    queues = [intake.add_queue(1) for _ in range(8)]
    for queue in queues:
        log(queue, "row")
    assert intake.waiting_rows() == 8
    with pytest.raises(QueueFullError):
        log(queues[3], "one too many")


def test_rows_that_wait_never_pass_the_limit_whatever_the_queues() -> None:
    intake = new_intake(max_rows=50, batch_rows=20)
    queues = [intake.add_queue(1 + i % 3) for i in range(30)]
    taken = 0
    for step in range(500):
        queue = queues[step * 7 % 30]
        try:
            log(queue, *range(queue.stride))
        except QueueFullError:
            assert intake.waiting_rows() == 50
            taken += sum(n for _, n in intake.begin_round()[1])
            take_all(intake)
        assert intake.waiting_rows() <= 50
    assert taken > 0


def test_a_queue_that_no_row_came_to_takes_no_share() -> None:
    intake = new_intake(max_rows=1_000, batch_rows=1_000)
    queues = [intake.add_queue(1) for _ in range(500)]
    log(queues[7], "row")
    log(queues[5], "row")
    log(queues[7], "row")
    assert intake.queues == (queues[7], queues[5])
    assert queues[7].mark == 1_000 // SHARES


def test_large_rows_lower_the_number_that_may_wait() -> None:
    intake = new_intake(max_rows=1000)
    intake.learn_row_bytes(500.0, 5_000)
    queue = intake.add_queue(1)
    with pytest.raises(QueueFullError, match="10 rows wait"):
        log_many(queue, 11)


def test_a_full_queue_makes_callers_wait_under_block() -> None:
    intake = new_intake(max_rows=2, policy="block")
    queue = intake.add_queue(1)
    log(queue, 0)
    log(queue, 1)
    thread = threading.Thread(target=log, args=(queue, 2))
    thread.start()
    with intake.changed:
        while not intake._is_urgent:
            intake.changed.wait(1)
    assert take_all(intake) == [[0, 1]]
    thread.join()
    assert take_all(intake) == [[2]]


def test_an_overshooting_caller_is_told_and_never_waits() -> None:
    intake = new_intake(max_rows=1, policy="block")
    queue = intake.add_queue(1)
    assert intake.overshoot(queue)
    queue.rows.append(1)
    assert not intake.overshoot(queue)


def test_a_closed_intake_takes_no_row() -> None:
    intake = new_intake()
    queue = intake.add_queue(1)
    log(queue, 1)
    intake.close()
    with pytest.raises(ClosedError):
        log(queue, 2)
    assert intake.wait_for_work()
    assert take_all(intake) == [[1]]
    assert not intake.wait_for_work()


def test_a_caller_that_waits_hears_that_the_client_is_closed() -> None:
    intake = new_intake(max_rows=1, policy="block")
    queue = intake.add_queue(1)
    log(queue, 1)
    errors: list[Exception] = []

    def call() -> None:
        try:
            log(queue, 2)
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    intake.close()
    thread.join()
    assert len(errors) == 1


def test_a_drain_after_the_pump_has_ended_waits_for_nobody() -> None:
    intake = new_intake()
    intake.close()
    assert not intake.wait_for_work()  # the pump ends, before the client asks it for a last round
    assert intake.drain(None)


def test_a_drain_ends_with_the_round_that_began_after_it() -> None:
    intake = new_intake(linger_s=3600.0)
    queue = intake.add_queue(1)
    log(queue, 1)
    assert not intake.drain(time.monotonic())

    def pump() -> None:
        while intake.wait_for_work():
            take_all(intake)

    thread = threading.Thread(target=pump)
    thread.start()
    assert intake.drain(None)
    assert queue.rows == []
    intake.close()
    thread.join()


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as the interpreter lets them."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("eager_switching")
def test_rows_of_many_threads_arrive_whole_once_and_in_their_order() -> None:
    intake = new_intake(max_rows=200, batch_rows=20, policy="block")
    queue = intake.add_queue(3)
    num_threads, num_rows = 4, 5_000

    def produce(name: int) -> None:
        for i in range(num_rows):
            log(queue, name, i, -i)

    threads = [threading.Thread(target=produce, args=(name,)) for name in range(num_threads)]
    for thread in threads:
        thread.start()
    rows: list[object] = []
    while len(rows) < num_threads * num_rows * 3:
        assert intake.wait_for_work()
        rows.extend(value for taken in take_all(intake) for value in taken)
    for thread in threads:
        thread.join()
    seen: dict[object, list[object]] = {name: [] for name in range(num_threads)}
    for name, i, minus in zip(rows[0::3], rows[1::3], rows[2::3], strict=True):
        assert isinstance(i, int)
        assert minus == -i
        seen[name].append(i)
    assert all(order == list(range(num_rows)) for order in seen.values())
