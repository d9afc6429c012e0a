"""The verdict on a data directory, from its Parquet files alone.

In: a folder, and a ledger of what was sent and answered. Out: a `Verdict`. Every row is read
twice, by a plain glob of the hour folders and through the table with `deltalake`, and counted in
the place of its (client, sequence). It asks the daemon nothing, changes nothing, and shares no
code with it.
"""

from __future__ import annotations

import calendar
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from benchmarks.torture.load import Ledger, Outcome, Request, times_us, values_of

#: database / measurement / year / month / day / hour / file. Never `**`. Files of a whole day lie
#: beside the folders of its hours.
HOUR_GLOB = "*/*/[0-9]*/[0-9]*/[0-9]*/[0-9]*/*.parquet"
DAY_DIR = "day"
DAY_GLOB = f"*/*/[0-9]*/[0-9]*/[0-9]*/{DAY_DIR}/*.parquet"
EXAMPLES_KEPT = 8
#: Files of which some rows are compared value by value, and how many rows of each.
SAMPLED_FILES = 200
SAMPLED_ROWS = 16
#: By how much a clock may seem to differ between the client and the daemon: same machine.
ARRIVAL_SLACK_S = 0.5
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
_ROW_COLUMNS = ["time", "client", "sequence"]
#: Columns of `DeltaTable.get_add_actions` that are held against the file.
_CLAIMS = ("num_records", "size_bytes", "min.time", "max.time")


@dataclass
class Verdict:
    """What the files say. Counts are rows unless named otherwise.

    Attributes:
        lost: Acknowledged and not in the files.
        duplicated: In the files once more than sent, each further copy counted.
        ghost: In the files and never sent.
        torn: Requests of which a part is stored and a part is not, over all measurements.
        refused_stored: Of requests that were answered with an error, and stored all the same.
        misplaced: Under another measurement, hour or day than theirs.
        wrong_values: Compared, and not what was sent.
        unreadable: Files that are no Parquet, lack a column, or that a table names in vain.
        empty: Files without a byte or a row.
        not_in_table: In a file, but not in the snapshot of its table.
        only_in_table: In the snapshot, but in no file of the folders.
        wrong_stats: Files whose size, rows or times differ from what the table says.
        broken: What a program found wrong beside the files, in words.
        acknowledged_rows: Of requests that were answered with 204.
        stored_rows: In the files.
        unknown_stored: Of requests without an answer, and stored: allowed.
        requests: That were sent.
        refused: Requests that were answered with an error.
        unknown: Requests without an answer.
        files: Number of files.
        tables: Number of tables.
        compared: Rows whose values were compared.
        figures: What a program measured, by name; of several verdicts the largest is kept.
        tallies: What it counted, by name; of several verdicts the sum is kept.
        examples: The first few faults, in words.
    """

    lost: int = 0
    duplicated: int = 0
    ghost: int = 0
    torn: int = 0
    refused_stored: int = 0
    misplaced: int = 0
    wrong_values: int = 0
    unreadable: int = 0
    empty: int = 0
    not_in_table: int = 0
    only_in_table: int = 0
    wrong_stats: int = 0
    broken: list[str] = field(default_factory=list)
    acknowledged_rows: int = 0
    stored_rows: int = 0
    unknown_stored: int = 0
    requests: int = 0
    refused: int = 0
    unknown: int = 0
    files: int = 0
    tables: int = 0
    compared: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    tallies: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    #: What must be zero, in the order of a report.
    FAULTS = (
        *("lost", "duplicated", "ghost", "torn", "refused_stored", "misplaced", "wrong_values"),
        *("unreadable", "empty", "not_in_table", "only_in_table", "wrong_stats"),
    )

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults() and not self.broken

    def faults(self) -> dict[str, int]:
        """The counts that must be zero and are not."""
        return {name: getattr(self, name) for name in self.FAULTS if getattr(self, name)}

    def note(self, example: str) -> None:
        """Keep the first few faults in words."""
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append(example)

    def require(self, holds: object, what: str) -> None:
        """A program's own finding: when it does not hold, the verdict is bad and says `what`."""
        if not holds:
            self.broken.append(what)

    def add(self, other: Verdict) -> None:
        """Take in another verdict."""
        for name, value in other.figures.items():
            self.figures[name] = max(self.figures.get(name, value), value)
        for name, count in other.tallies.items():
            self.tallies[name] = self.tallies.get(name, 0) + count
        for item in fields(self):
            if item.name not in ("figures", "tallies"):
                setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


class _File(NamedTuple):
    """One file, and what its path says about it."""

    path: Path
    database: str
    measurement: str
    start_us: int
    span_us: int

    @classmethod
    def at(cls, path: Path) -> _File:
        database, measurement, year, month, day, hour = path.parts[-7:-1]
        span_us = _DAY_US if hour == DAY_DIR else _HOUR_US
        start = (int(year), int(month), int(day), 0 if hour == DAY_DIR else int(hour), 0, 0)
        names = _name(database), _name(measurement)
        return cls(path, *names, calendar.timegm(start) * 1_000_000, span_us)


def _name(folder: str) -> str:
    """Undo the escaping of a name in a path: `@` and two hexadecimal digits a byte."""
    return unquote(folder.replace("@", "%"))


class _Slots:
    """A place in one array for each row of a ledger, and the request of each place."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = sorted(requests, key=lambda request: (request.client, request.first))
        sizes = np.array([request.count for request in self.requests], dtype=np.int64)
        ends = np.cumsum(sizes)
        #: First place of each request; those of one client follow each other without a gap.
        self.starts: NDArray[np.int64] = ends - sizes
        self.sizes = sizes
        self.total = int(ends[-1]) if len(ends) else 0
        last = max((request.client for request in self.requests), default=0)
        self._first = np.zeros(last + 1, dtype=np.int64)  # place of sequence 0, by client
        self._length = np.zeros(last + 1, dtype=np.int64)  # rows, by client
        for request, size, end in zip(self.requests, sizes.tolist(), ends.tolist(), strict=True):
            if request.first != self._length[request.client]:
                raise ValueError(f"BUG: client {request.client} skips to row {request.first}")
            self._first[request.client] = end - size - request.first
            self._length[request.client] = request.first + size
        self.place = np.repeat(self._place_codes(), self._part_sizes())

    def _place_codes(self) -> NDArray[np.int32]:
        """A number for (database, measurement) of each part of each request."""
        self.places: dict[tuple[str, str], int] = {}
        codes = [
            self.places.setdefault((request.database, part.measurement), len(self.places))
            for request in self.requests
            for part in request.parts
        ]
        return np.array(codes, dtype=np.int32)

    def _part_sizes(self) -> NDArray[np.int64]:
        sizes = [part.rows for request in self.requests for part in request.parts]
        return np.array(sizes, dtype=np.int64)

    def of(self, client: NDArray[np.int64], sequence: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each row, -1 for one that was never sent."""
        inside = (client >= 0) & (client < len(self._first)) & (sequence >= 0)
        known = np.where(inside, client, 0)
        inside &= sequence < self._length[known]
        return np.where(inside, self._first[known] + sequence, -1)

    def request_at(self, slot: int) -> Request:
        """Whose row has this place."""
        return self.requests[int(np.searchsorted(self.starts, slot, "right")) - 1]


def judge(
    data_dir: Path,
    ledger: Ledger,
    *,
    arrival_slack_s: float | None = ARRIVAL_SLACK_S,
    tables: bool = True,
) -> Verdict:
    """Compare all files below a data directory with a ledger.

    Args:
        data_dir: Of a daemon that has stopped, or has stored everything and is sent nothing.
        ledger: Everything that was ever sent to it.
        arrival_slack_s: A row without a time of its own must have the moment between its first
            byte and its answer, give or take this; None: its time is not looked at.
        tables: Every row must be in the table of its measurement too. False: there are none.
    """
    slots = _Slots(ledger.requests)
    verdict = Verdict(requests=len(slots.requests))
    paths = sorted([*data_dir.glob(HOUR_GLOB), *data_dir.glob(DAY_GLOB)])
    files = [_File.at(path) for path in paths if _is_ours(path)]
    verdict.files = len(files)
    reader = _Reader(slots, verdict, arrival_slack_s)
    for file, is_sampled in zip(files, _sample(len(files)), strict=True):
        reader.read(file, is_sampled)
    _judge_requests(slots, reader.counts, verdict)
    if tables:
        _judge_tables(data_dir, slots, reader, verdict)
    return verdict


def _is_ours(path: Path) -> bool:
    return not path.parts[-7].startswith(".")


def _sample(count: int) -> list[bool]:
    """Which of so many files are looked at more closely."""
    chosen = set(random.Random(count).sample(range(count), min(count, SAMPLED_FILES)))
    return [number in chosen for number in range(count)]


class _Reader:
    """Reads files by their paths.

    Attributes:
        counts: Copies of each row, by its place; int32, shape (rows sent,).
        claims: What is true of each file: see `_CLAIMS`.
    """

    def __init__(self, slots: _Slots, verdict: Verdict, arrival_slack_s: float | None) -> None:
        self._slots = slots
        self._verdict = verdict
        self._arrival_slack_s = arrival_slack_s
        self.counts = np.zeros(slots.total, dtype=np.int32)
        self.ghosts = 0
        self.claims: dict[Path, tuple[int, ...]] = {}

    def read(self, file: _File, is_sampled: bool) -> None:
        """Count the rows of a file, and compare some of them."""
        size_bytes = file.path.stat().st_size
        if size_bytes == 0:
            self._verdict.empty += 1
            self._verdict.note(f"{file.path}: 0 bytes")
            return
        try:
            with pq.ParquetFile(file.path) as parquet:
                rows = parquet.read(None if is_sampled else _ROW_COLUMNS)
            self._count(file, size_bytes, rows)
            if is_sampled and rows.num_rows:
                self._compare(file, rows)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            self._verdict.unreadable += 1
            self._verdict.note(f"{file.path} ({size_bytes} bytes): {error}")

    def _count(self, file: _File, size_bytes: int, rows: pa.Table) -> None:
        if not rows.num_rows:
            self._verdict.empty += 1
            self._verdict.note(f"{file.path}: no rows")
            return
        time_us = rows["time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        found = _places(self._slots, rows)
        known = found[found >= 0]
        self._verdict.stored_rows += len(found)
        self._verdict.ghost += len(found) - len(known)
        np.add.at(self.counts, known, 1)
        if len(known) < len(found):
            self._verdict.note(f"{file.path}: {len(found) - len(known)} rows were never sent")
        self._check_place(file, time_us, known)
        times = int(time_us.min()), int(time_us.max())
        self.claims[file.path] = (rows.num_rows, size_bytes, *times)

    def _check_place(
        self, file: _File, time_us: NDArray[np.int64], known: NDArray[np.int64]
    ) -> None:
        place = self._slots.places.get((file.database, file.measurement), -1)
        misplaced = int((self._slots.place[known] != place).sum())
        misplaced += int((time_us // file.span_us * file.span_us != file.start_us).sum())
        self._verdict.misplaced += misplaced
        if misplaced:
            self._verdict.note(f"{file.path}: {misplaced} rows of another measurement, hour or day")

    def _compare(self, file: _File, rows: pa.Table) -> None:
        count = min(rows.num_rows, SAMPLED_ROWS)
        chosen = sorted(random.Random(rows.num_rows).sample(range(rows.num_rows), count))
        sample = rows.take(pa.array(chosen))
        slots = _places(self._slots, sample).tolist()
        for slot, row in zip(slots, sample.to_pylist(), strict=True):
            if slot < 0:
                continue
            self._verdict.compared += 1
            fault = self._fault(self._slots.request_at(slot), row)
            if fault:
                self._verdict.wrong_values += 1
                self._verdict.note(f"{file.path}: client {row['client']}, row {slot}: {fault}")

    def _fault(self, request: Request, row: dict[str, Any]) -> str:
        """What is wrong with the values of a row; empty when nothing is."""
        sequence = np.array([row["sequence"]], dtype=np.int64)
        for name, value in row.items():
            if name in _ROW_COLUMNS:
                continue
            has = name in request.columns
            sent = _value(request, name, sequence) if has else None
            if value != sent:
                return f"{name} is {value!r}, sent was {sent!r}"
        missing = set(request.columns) - row.keys()
        wanted = [n for n in missing if _value(request, n, sequence) is not None]
        return f"no column {wanted[0]}" if wanted else self._time_fault(request, row, sequence)

    def _time_fault(
        self, request: Request, row: dict[str, Any], sequence: NDArray[np.int64]
    ) -> str:
        got_us = round(row["time"].timestamp() * 1e6)
        if request.base_us is not None:
            sent_us = int(times_us(request, sequence)[0])
            return f"time is {got_us} µs, sent was {sent_us}" if got_us != sent_us else ""
        if self._arrival_slack_s is None:
            return ""
        slack_us = int(self._arrival_slack_s * 1e6)
        early = got_us < request.sent_us - slack_us
        late = request.outcome == Outcome.ACKNOWLEDGED and got_us > request.done_us + slack_us
        told = f"sent at {request.sent_us} and answered at {request.done_us}"
        return f"arrival is {got_us} µs, {told}" if early or late else ""


def _value(request: Request, name: str, sequence: NDArray[np.int64]) -> Any:
    """What was sent in a column of one row."""
    return next(iter(values_of(request, name, sequence)))


def _places(slots: _Slots, rows: pa.Table) -> NDArray[np.int64]:
    names = [rows[name].cast(pa.int64()).fill_null(-1).to_numpy() for name in _ROW_COLUMNS[1:]]
    return slots.of(names[0], names[1])


def _judge_requests(slots: _Slots, counts: NDArray[np.int32], verdict: Verdict) -> None:
    if not len(slots.requests):
        return
    copies = np.add.reduceat(counts, slots.starts, dtype=np.int64)
    found = np.add.reduceat(counts > 0, slots.starts, dtype=np.int64)
    outcome = np.array([request.outcome for request in slots.requests])
    acknowledged, refused = outcome == Outcome.ACKNOWLEDGED, outcome == Outcome.REFUSED
    unknown, torn = outcome == Outcome.UNKNOWN, (found > 0) & (found < slots.sizes)
    verdict.acknowledged_rows = int(slots.sizes[acknowledged].sum())
    verdict.lost = int((slots.sizes - found)[acknowledged].sum())
    verdict.duplicated = int((copies - found).sum())
    verdict.torn = int(torn.sum())
    verdict.refused_stored = int(found[refused].sum())
    verdict.unknown_stored = int(found[unknown].sum())
    verdict.refused, verdict.unknown = int(refused.sum()), int(unknown.sum())
    bad = torn | (copies > found) | (acknowledged & (found < slots.sizes)) | (refused & (found > 0))
    for number in np.flatnonzero(bad)[:EXAMPLES_KEPT].tolist():
        verdict.note(_in_words(slots.requests[number], int(found[number]), int(copies[number])))


def _in_words(request: Request, found: int, copies: int) -> str:
    """What a request was and what is left of it."""
    parts = ", ".join(f"{part.rows} of {part.measurement}" for part in request.parts)
    return (
        f"client {request.client}, rows {request.first} to {request.first + request.count - 1} "
        f"({parts}; {request.outcome.name.lower()}, answers {request.statuses}, sent at "
        f"{request.sent_us} µs): {found} of {request.count} found, {copies} copies"
    )


# --------------------------------------------------------------------------------------- tables


def _judge_tables(data_dir: Path, slots: _Slots, reader: _Reader, verdict: Verdict) -> None:
    counts = np.zeros(slots.total, dtype=np.int32)
    ghosts = 0
    named: set[Path] = set()
    for folder in sorted(data_dir.glob("*/*/_delta_log")):
        try:
            table = DeltaTable(str(folder.parent), without_files=False)
            verdict.tables += 1
            named |= _check_claims(folder.parent, table, reader, verdict)
            for rows in _snapshot(table):
                found = _places(slots, rows)
                np.add.at(counts, found[found >= 0], 1)
                ghosts += int((found < 0).sum())
        except (DeltaError, pa.ArrowException, OSError, KeyError, ValueError) as error:
            verdict.unreadable += 1
            verdict.note(f"table {folder.parent}: {type(error).__name__}: {error}")
    difference = reader.counts - counts
    verdict.not_in_table += int(difference[difference > 0].sum())
    verdict.only_in_table += int(-difference[difference < 0].sum())
    verdict.only_in_table += max(0, ghosts - verdict.ghost)
    for path in sorted(reader.claims.keys() - named):
        verdict.note(f"{path}: {reader.claims[path][0]} rows, in no table")


def _snapshot(table: DeltaTable) -> Iterator[pa.Table]:
    """The rows of a table, as `deltalake` reads them."""
    names = {item.name for item in table.schema().fields}
    if not names.issuperset(_ROW_COLUMNS):
        raise KeyError(f"columns of the table: {sorted(names)}")
    dataset = table.to_pyarrow_dataset()
    for batch in dataset.to_batches(columns=_ROW_COLUMNS):
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


def _check_claims(folder: Path, table: DeltaTable, reader: _Reader, verdict: Verdict) -> set[Path]:
    """Hold what a table says of its files against the files; the paths that it names."""
    actions = pa.table(table.get_add_actions(flatten=True))
    named = [folder / unquote(path) for path in actions["path"].to_pylist()]
    columns = [_numbers(actions, name) for name in _CLAIMS]
    for path, *claim in zip(named, *columns, strict=True):
        true = reader.claims.get(path)
        if true is None:
            if not path.exists():
                verdict.unreadable += 1
                verdict.note(f"{path}: the table names it, and it is not there")
        elif tuple(claim) != true:
            verdict.wrong_stats += 1
            verdict.note(f"{path}: the table says {dict(zip(_CLAIMS, claim, strict=True))}: {true}")
    return set(named)


def _numbers(actions: pa.Table, name: str) -> list[int | None]:
    if name not in actions.column_names:
        return [None] * actions.num_rows
    column = actions[name]
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("us", column.type.tz)).cast(pa.int64())
    numbers: list[int | None] = column.to_pylist()
    return numbers
