"""What the threads of a producer log: the same for whoever has the seed.

In: a seed and the number of a client (here: of one thread of one producer). Out: its `Burst`s,
one after another without an end. The producer carries them out, and the program that started it
makes them again, to know every row that a killed producer can have begun. Nothing here sends.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.torture.load import (
    COLUMNS,
    HOUR_END_US,
    MEASUREMENTS,
    Ledger,
    Outcome,
    Part,
    Request,
    times_us,
    values_of,
)

#: Rows of a burst: share of all bursts, and the smallest and largest number.
CALL_ROWS = ((0.7, 1, 60), (0.3, 61, 800))
COLUMN_ROWS = ((0.6, 1, 200), (0.3, 201, 2_000), (0.1, 2_001, 6_000))


class Verb(enum.StrEnum):
    """How the rows of a burst are given to the client."""

    LOG = "log"  # one call of Client.log a row
    SERIES = "series"  # one call of a bound handle a row
    COLUMNAR = "columnar"  # one write_columnar
    FRAME = "frame"  # one write_dataframe, which always states times

    @property
    def is_by_row(self) -> bool:
        """Whether each row is taken by a call of its own."""
        return self in (Verb.LOG, Verb.SERIES)


@dataclass(frozen=True)
class Burst:
    """Some rows of one measurement, given by calls of one kind.

    Attributes:
        request: Which rows; its outcome, encoding, form and key mean nothing here.
        verb: By which calls.
        waits: The call returns after the acknowledgement (columns only).
    """

    request: Request
    verb: Verb
    waits: bool


def bursts(seed: int, client: int) -> Iterator[Burst]:
    """All that a client logs, from its first row on."""
    chance = random.Random(f"{seed}/{client}")
    first = 0
    while True:
        burst = _burst(chance, client, first)
        yield burst
        first += burst.request.count


def _burst(chance: random.Random, client: int, first: int) -> Burst:
    verb = chance.choices(list(Verb), (5, 5, 2, 2))[0]
    counts = CALL_ROWS if verb.is_by_row else COLUMN_ROWS
    _, low, high = chance.choices(counts, [share for share, _, _ in counts])[0]
    unit = chance.choice(("us", "ns", "ms"))
    base_us = HOUR_END_US + chance.randrange(-1_200_000, 1_200_000) * 1_000
    names = tuple(name for name in COLUMNS if chance.random() < 0.8)
    request = Request(
        client=client,
        first=first,
        parts=(Part(chance.choice(MEASUREMENTS), chance.randint(low, high)),),
        columns=names + (("w0",) if chance.random() < 0.1 else ()),
        floats=chance.random() < 0.3,
        base_us=None if verb is not Verb.FRAME and chance.random() < 0.3 else base_us,
        step_us=1_000 if unit == "ms" else 1,
        unit=unit,
    )
    return Burst(request, verb, waits=chance.random() < 0.5)


def columns_of(request: Request) -> dict[str, Any]:
    """Every column of a burst but its time: arrays, or lists where some values are missing."""
    sequence = _sequence(request)
    columns: dict[str, Any] = {
        "client": np.full(len(sequence), request.client),
        "sequence": sequence,
    }
    return columns | {name: values_of(request, name, sequence) for name in request.columns}


def rows_of(request: Request) -> list[dict[str, Any]]:
    """The same as one dictionary of Python values a row, missing values as None."""
    columns = columns_of(request)
    lists = [v if isinstance(v, list) else v.tolist() for v in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def stated_times(request: Request) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """The times of a burst in its unit, int64; None: it states none."""
    if request.base_us is None:
        return None
    times = times_us(request, _sequence(request))
    return {"us": times, "ns": times * 1_000, "ms": times // 1_000}[request.unit]


def _sequence(request: Request) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(request.first, request.first + request.count, dtype=np.int64)


@dataclass(frozen=True)
class Life:
    """One client from its first row to its last.

    Attributes:
        client: Its number.
        begun: Rows whose call had begun, columns counted as a whole: no other row can be stored.
        accepted: Of these, how many are wanted back; the others may be there or not.
        started_us: Wall clock before its first row.
        ended_us: Wall clock after its last one.
    """

    client: int
    begun: int
    accepted: int
    started_us: int
    ended_us: int


def enter(ledger: Ledger, seed: int, life: Life, done_us: int) -> None:
    """Put the rows of a client into a ledger.

    Rows that were given one by one and not accepted are requests of their own: each may be stored
    without its neighbours. Columns are stored as a whole or not at all.

    Args:
        ledger: Must have none of this client.
        seed: Of the plan.
        life: What became of the client.
        done_us: Wall clock when everything was delivered: what is written without a time gets
            that of its arrival, at the latest this.
    """
    for burst in bursts(seed, life.client):
        request, left = burst.request, life.begun - burst.request.first
        if left <= 0:
            return
        request.sent_us = life.started_us
        request.done_us = life.ended_us if burst.verb.is_by_row else done_us
        wanted = min(max(0, life.accepted - request.first), request.count)
        if burst.verb.is_by_row:
            _enter_rows(ledger, request, wanted, min(left, request.count))
        else:
            request.outcome = Outcome.ACKNOWLEDGED if wanted else Outcome.UNKNOWN
            ledger.add(request)


def _enter_rows(ledger: Ledger, request: Request, wanted: int, begun: int) -> None:
    if wanted:
        ledger.add(_part(request, 0, wanted, Outcome.ACKNOWLEDGED))
    for number in range(wanted, begun):
        ledger.add(_part(request, number, 1, Outcome.UNKNOWN))


def _part(request: Request, skipped: int, count: int, outcome: Outcome) -> Request:
    """Some rows of a request, as one of their own."""
    base_us = request.base_us
    return replace(
        request,
        first=request.first + skipped,
        parts=(Part(request.parts[0].measurement, count),),
        base_us=None if base_us is None else base_us + skipped * request.step_us,
        outcome=outcome,
    )
