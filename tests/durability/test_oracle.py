"""The oracle finds every kind of loss, copy and damage, in tables that have just that one.

The tables are written with `deltalake` from what a ledger says, by no code of the daemon.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import ormsgpack
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import zstandard
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from benchmarks.torture.load import (
    HOUR_END_US,
    Ledger,
    Maker,
    Options,
    Outcome,
    Part,
    Request,
    encode,
    settle,
    times_us,
    values_of,
)
from benchmarks.torture.oracle import HOUR_GLOB, Verdict, judge

HOUR_US = 3_600_000_000
ARRIVAL_US = HOUR_END_US + 60_000_000
FOLDERS = {"cpu": "cpu", "mem": "mem", "disk/io": "disk@2Fio", "Net": "@4Eet"}
TYPES = {
    "time": pa.timestamp("us", "UTC"),
    "client": pa.int64(),
    "sequence": pa.int64(),
    "i": pa.int64(),
    "f": pa.float64(),
    "s": pa.string(),
    "n": pa.int64(),
    "b": pa.bool_(),
    "x0": pa.int64(),
    "w0": pa.float64(),
}
SCHEMA = pa.schema(TYPES.items())


def some_requests(clients: int = 2, count: int = 30) -> Ledger:
    """What a small load would have sent; all acknowledged."""
    ledger = Ledger()
    for _ in range(clients):
        counts = ((0.8, 2, 10), (0.2, 11, 60))
        maker = Maker(ledger.new_client(), Options(seed=7, row_counts=counts))
        for _ in range(count):
            request = maker.make()
            settle(request, 204)
            request.sent_us, request.done_us = ARRIVAL_US - 1000, ARRIVAL_US + 1000
            ledger.add(request)
    return ledger


def rows_of(request: Request) -> dict[str, list[pa.Table]]:
    """The rows of a request as they must be stored, by measurement."""
    out: dict[str, list[pa.Table]] = {}
    first = request.first
    for part in request.parts:
        sequence = np.arange(first, first + part.rows, dtype=np.int64)
        first += part.rows
        is_timed = request.base_us is not None
        times = times_us(request, sequence) if is_timed else np.full(part.rows, ARRIVAL_US)
        columns: dict[str, Any] = {"time": times, "sequence": sequence}
        columns["client"] = np.full(part.rows, request.client)
        columns |= {name: values_of(request, name, sequence) for name in request.columns}
        arrays = [
            pa.array(columns[name]).cast(kind) if name in columns else pa.nulls(part.rows, kind)
            for name, kind in TYPES.items()
        ]
        out.setdefault(part.measurement, []).append(pa.table(arrays, schema=SCHEMA))
    return out


def store(data_dir: Path, ledger: Ledger) -> None:
    """One file for each table and hour, and the tables."""
    parts: dict[str, list[pa.Table]] = {}
    for request in ledger.requests:
        for measurement, tables in rows_of(request).items():
            parts.setdefault(measurement, []).extend(tables)
    for measurement, tables in parts.items():
        folder = data_dir / "torture" / FOLDERS[measurement]
        rows = pa.concat_tables(tables).sort_by("time")
        hours = pc.floor_temporal(rows["time"], unit="hour")
        names = []
        for number, hour in enumerate(pc.unique(hours).to_pylist()):
            name = f"{hour:%Y/%m/%d/%H}/s000-{number}.parquet"
            write(folder / name, rows.filter(pc.equal(hours, hour)))
            names.append(name)
        commit(folder, names)


def write(path: Path, rows: pa.Table) -> None:
    """One Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)


def commit(folder: Path, names: list[str], more_rows: int = 0) -> None:
    """Make files part of a table, with statistics that claim `more_rows` than there are."""
    table = DeltaTable.create(folder, SCHEMA, mode="ignore")
    actions: list[AddAction | RemoveAction] = []
    for name in names:
        path = folder / name
        times = pq.read_table(path, columns=["time"])["time"]
        low, high = (f"{edge.as_py():%Y-%m-%dT%H:%M:%S.%fZ}" for edge in pc.min_max(times).values())
        stats = {
            "numRecords": len(times) + more_rows,
            "minValues": {"time": low},
            "maxValues": {"time": high},
            "nullCount": {"time": 0},
        }
        actions.append(AddAction(name, path.stat().st_size, {}, 0, True, json.dumps(stats)))
    table.create_write_transaction(actions, "append", SCHEMA)


def a_file(data_dir: Path, measurement: str = "cpu") -> Path:
    """The first file of a measurement."""
    return sorted((data_dir / "torture" / FOLDERS[measurement]).glob("*/*/*/*/*.parquet"))[0]


def rewrite(data_dir: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of one file, whatever its table says of it."""
    path = a_file(data_dir)
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def with_first(rows: pa.Table, name: str, value: object) -> pa.Table:
    """The same rows, but for one value of the first."""
    values = [value, *rows[name].to_pylist()[1:]]
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, rows[name].type))


@pytest.fixture
def ledger() -> Ledger:
    return some_requests()


@pytest.fixture
def data_dir(tmp_path: Path, ledger: Ledger) -> Path:
    store(tmp_path, ledger)
    return tmp_path


def faults(data_dir: Path, ledger: Ledger) -> set[str]:
    verdict = judge(data_dir, ledger)
    assert verdict.is_clean == (not verdict.faults())
    assert bool(verdict.examples) == (not verdict.is_clean)
    return set(verdict.faults())


def test_what_was_stored_as_sent_is_clean(data_dir: Path, ledger: Ledger) -> None:
    verdict = judge(data_dir, ledger)
    assert verdict.is_clean, verdict
    assert verdict.examples == []
    rows = sum(request.count for request in ledger.requests)
    assert (verdict.acknowledged_rows, verdict.stored_rows) == (rows, rows)
    assert (verdict.requests, verdict.refused, verdict.unknown) == (60, 0, 0)
    assert verdict.tables == len(FOLDERS)
    assert verdict.files == len(list(data_dir.glob(HOUR_GLOB))) > len(FOLDERS)
    assert verdict.compared >= 50


def test_nothing_sent_and_nothing_stored_is_clean(tmp_path: Path) -> None:
    assert judge(tmp_path, Ledger()).is_clean


def test_nothing_stored_of_much_acknowledged_is_all_lost(tmp_path: Path, ledger: Ledger) -> None:
    verdict = judge(tmp_path, ledger)
    assert verdict.lost == verdict.acknowledged_rows > 0
    assert verdict.faults().keys() == {"lost"}


def test_one_row_less_is_lost_and_its_request_torn(data_dir: Path, ledger: Ledger) -> None:
    rewrite(data_dir, lambda rows: rows.slice(1))
    verdict = judge(data_dir, ledger)
    assert (verdict.lost, verdict.torn) == (1, 1)
    assert verdict.wrong_stats == 1


def test_a_whole_request_less_is_lost_and_not_torn(tmp_path: Path, ledger: Ledger) -> None:
    less = Ledger()
    less.requests = ledger.requests[:-1]
    store(tmp_path, less)
    verdict = judge(tmp_path, ledger)
    assert verdict.lost == ledger.requests[-1].count
    assert faults(tmp_path, ledger) == {"lost"}


def test_one_measurement_of_a_request_less_is_torn(tmp_path: Path) -> None:
    ledger, less = Ledger(), Ledger()
    parts = Part("cpu", 3), Part("mem", 2)
    ledger.add(Request(1, 0, parts, base_us=HOUR_END_US))
    less.add(Request(1, 0, parts[:1], base_us=HOUR_END_US))
    store(tmp_path, less)
    verdict = judge(tmp_path, ledger)
    assert verdict.faults() == {"torn": 1}
    assert verdict.unknown_stored == 3
    assert "3 of 5 found" in verdict.examples[0]


def test_a_request_without_an_answer_may_be_stored_or_not(data_dir: Path, ledger: Ledger) -> None:
    for request in ledger.requests[::2]:
        request.outcome = Outcome.UNKNOWN
    verdict = judge(data_dir, ledger)
    assert verdict.is_clean
    assert verdict.unknown_stored == sum(request.count for request in ledger.requests[::2])
    ledger.add(Request(9, 0, (Part("cpu", 5),)))
    assert judge(data_dir, ledger).is_clean


def test_a_refused_request_must_not_be_stored(data_dir: Path, ledger: Ledger) -> None:
    ledger.requests[3].outcome = Outcome.REFUSED
    verdict = judge(data_dir, ledger)
    assert verdict.faults() == {"refused_stored": ledger.requests[3].count}
    assert "refused" in verdict.examples[0]


def test_a_row_that_is_twice_in_a_file_is_duplicated(data_dir: Path, ledger: Ledger) -> None:
    rewrite(data_dir, lambda rows: pa.concat_tables([rows.slice(0, 1), rows]))
    verdict = judge(data_dir, ledger)
    assert verdict.duplicated == 1
    assert {"duplicated", "wrong_stats"} <= verdict.faults().keys()


def test_a_file_that_is_there_twice_is_duplicated_and_in_no_table(
    data_dir: Path, ledger: Ledger
) -> None:
    path = a_file(data_dir)
    path.with_name("s001-copy.parquet").write_bytes(path.read_bytes())
    verdict = judge(data_dir, ledger)
    assert verdict.duplicated == verdict.not_in_table == pq.read_metadata(path).num_rows
    assert faults(data_dir, ledger) == {"duplicated", "not_in_table"}


def test_a_request_that_two_commits_hold_is_duplicated(data_dir: Path, ledger: Ledger) -> None:
    path = a_file(data_dir)
    copy = path.with_name("s001-copy.parquet")
    copy.write_bytes(path.read_bytes())
    folder = data_dir / "torture" / "cpu"
    commit(folder, [str(copy.relative_to(folder))])
    assert faults(data_dir, ledger) == {"duplicated"}


@pytest.mark.parametrize(
    ("name", "value"), [("client", 99), ("client", -1), ("client", None), ("sequence", 10**9)]
)
def test_a_row_that_was_never_sent_is_a_ghost(
    data_dir: Path, ledger: Ledger, name: str, value: int | None
) -> None:
    rewrite(data_dir, lambda rows: with_first(rows, name, value))
    verdict = judge(data_dir, ledger)
    assert verdict.ghost == 1
    assert {"ghost", "lost", "torn"} <= verdict.faults().keys()


@pytest.mark.parametrize("name", ["i", "f", "s", "b"])
def test_another_value_than_sent_is_found(tmp_path: Path, name: str) -> None:
    ledger = Ledger()
    ledger.add(Request(1, 1, (Part("cpu", 1),), base_us=HOUR_END_US, outcome=Outcome.ACKNOWLEDGED))
    ledger.requests.insert(0, Request(1, 0, (Part("mem", 1),)))
    store(tmp_path, ledger)
    assert judge(tmp_path, ledger, arrival_slack_s=None).is_clean
    wrong = {"i": 5, "f": 0.25, "s": "other", "b": None}
    rewrite(tmp_path, lambda rows: with_first(rows, name, wrong[name]))
    verdict = judge(tmp_path, ledger, arrival_slack_s=None)
    assert verdict.wrong_values == 1
    assert f": {name} is" in verdict.examples[0]


def test_a_column_that_got_lost_is_found(data_dir: Path, ledger: Ledger) -> None:
    rewrite(data_dir, lambda rows: rows.drop_columns(["s"]))
    assert "wrong_values" in judge(data_dir, ledger).faults()


@pytest.mark.parametrize("shift_us", [1, -3_000_000])
def test_another_time_than_sent_is_found(data_dir: Path, ledger: Ledger, shift_us: int) -> None:
    def shifted(rows: pa.Table) -> pa.Table:
        times = pc.add(rows["time"], pa.scalar(timedelta(microseconds=shift_us)))
        return rows.set_column(0, "time", times.cast(TYPES["time"]))

    rewrite(data_dir, shifted)
    assert {"wrong_values", "wrong_stats"} <= judge(data_dir, ledger).faults().keys()


def test_an_arrival_that_is_not_that_of_the_request_is_found(
    data_dir: Path, ledger: Ledger
) -> None:
    for request in ledger.requests:
        if request.base_us is None:
            request.sent_us += 2_000_000
            request.done_us += 2_000_000
    assert judge(data_dir, ledger).faults().keys() == {"wrong_values"}
    assert judge(data_dir, ledger, arrival_slack_s=None).is_clean
    assert judge(data_dir, ledger, arrival_slack_s=3.0).is_clean


def test_rows_of_another_measurement_are_misplaced(data_dir: Path, ledger: Ledger) -> None:
    source, target = a_file(data_dir, "mem"), a_file(data_dir)
    moved = target.with_name("s002-moved.parquet")
    source.rename(moved)
    folder = data_dir / "torture" / "cpu"
    commit(folder, [str(moved.relative_to(folder))])
    verdict = judge(data_dir, ledger)
    assert verdict.misplaced == pq.read_metadata(moved).num_rows
    assert verdict.unreadable == 2  # the file, and the table of mem


def test_rows_of_another_hour_are_misplaced(data_dir: Path, ledger: Ledger) -> None:
    source = a_file(data_dir)
    moved = source.parent.parent / "23" / source.name
    moved.parent.mkdir()
    source.rename(moved)
    assert "misplaced" in judge(data_dir, ledger).faults()


def test_a_file_that_is_cut_off_is_unreadable_and_its_rows_lost(
    data_dir: Path, ledger: Ledger
) -> None:
    path = a_file(data_dir)
    path.write_bytes(path.read_bytes()[:-20])
    assert {"unreadable", "lost"} <= judge(data_dir, ledger).faults().keys()


def test_a_file_without_a_byte_is_empty_and_its_rows_lost(data_dir: Path, ledger: Ledger) -> None:
    a_file(data_dir).write_bytes(b"")
    assert {"empty", "lost"} <= judge(data_dir, ledger).faults().keys()


def test_a_file_without_a_row_is_empty(data_dir: Path, ledger: Ledger) -> None:
    write(a_file(data_dir).with_name("s003-none.parquet"), SCHEMA.empty_table())
    assert faults(data_dir, ledger) == {"empty"}


def test_a_file_that_is_gone_is_lost_and_named_in_vain(data_dir: Path, ledger: Ledger) -> None:
    a_file(data_dir).unlink()
    assert {"unreadable", "lost"} <= judge(data_dir, ledger).faults().keys()


def test_a_file_that_no_commit_names_is_not_in_the_table(data_dir: Path, ledger: Ledger) -> None:
    sequence = ledger.requests[0]
    late = Request(9, 0, (Part("cpu", 4),), base_us=HOUR_END_US, outcome=Outcome.ACKNOWLEDGED)
    assert sequence.client != late.client
    ledger.add(late)
    hour = datetime.fromtimestamp(HOUR_END_US / 1e6, UTC)
    path = data_dir / "torture" / "cpu" / f"{hour:%Y/%m/%d/%H}" / "s009.parquet"
    write(path, rows_of(late)["cpu"][0])
    assert judge(data_dir, ledger).faults() == {"not_in_table": 4}
    assert judge(data_dir, ledger, tables=False).is_clean


def test_a_table_that_is_gone_is_found(data_dir: Path, ledger: Ledger) -> None:
    for path in (data_dir / "torture" / "cpu" / "_delta_log").iterdir():
        path.unlink()
    assert {"unreadable", "not_in_table"} <= judge(data_dir, ledger).faults().keys()


def test_statistics_that_are_not_those_of_the_file_are_found(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.add(Request(1, 0, (Part("cpu", 4),), base_us=HOUR_END_US))
    folder = tmp_path / "torture" / "cpu"
    path = folder / "2026/01/15/11/s000.parquet"
    write(path, rows_of(ledger.requests[0])["cpu"][0])
    commit(folder, [str(path.relative_to(folder))], more_rows=1)
    assert judge(tmp_path, ledger).faults() == {"wrong_stats": 1}


def test_files_that_are_still_staged_do_not_count(data_dir: Path, ledger: Ledger) -> None:
    for name in (".arc/staging/a.parquet", ".arc/shards/000/log/2026/01/01/00/a.parquet"):
        path = data_dir / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    assert judge(data_dir, ledger).is_clean


def test_a_finding_of_a_program_makes_a_verdict_bad() -> None:
    verdict = Verdict()
    verdict.require(True, "this holds")
    assert verdict.is_clean
    verdict.require([], "nothing was refused")
    assert verdict.broken == ["nothing was refused"]
    assert not verdict.is_clean


def test_verdicts_add_up() -> None:
    total = Verdict(lost=1, figures={"start s": 2.0}, tallies={"kills": 1}, broken=["a"])
    other = {"figures": {"start s": 1.0, "back s": 3.0}, "tallies": {"kills": 2}}
    total.add(Verdict(lost=2, torn=1, broken=["b"], **other))  # type: ignore[arg-type]
    assert total.faults() == {"lost": 3, "torn": 1}
    assert total.figures == {"start s": 2.0, "back s": 3.0}
    assert total.tallies == {"kills": 3}
    assert total.broken == ["a", "b"]


# --------------------------------------------------------------------------------- what was sent


def decoded(request: Request) -> list[dict[str, Any]]:
    """The maps of a body, by other decoders than the daemon's."""
    body = encode(request)
    if request.encoding:
        body = gzip.decompress(body) if request.encoding == "gzip" else zstandard.decompress(body)
    if request.form == 0:
        return unpack_all(body)
    content = ormsgpack.unpackb(body)
    maps = content["batch"] if request.form == 2 else content
    assert isinstance(maps, list)
    return maps


def unpack_all(body: bytes) -> list[dict[str, Any]]:
    """Maps one after another: cut where the next one begins."""
    starts = [at for at in range(len(body)) if body.startswith(b"\x82\xa1m", at)]
    ends = [*starts[1:], len(body)]
    return [ormsgpack.unpackb(body[a:b]) for a, b in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd"])
@pytest.mark.parametrize("form", [0, 1, 2])
def test_a_body_holds_what_the_ledger_says(encoding: str, form: int) -> None:
    parts = Part("cpu", 5), Part("disk/io", 2)
    request = Request(3, 10, parts, base_us=HOUR_END_US, encoding=encoding, form=form)
    first, second = decoded(request)
    assert (first["m"], second["m"]) == ("cpu", "disk/io")
    assert first["columns"]["sequence"] == [10, 11, 12, 13, 14]
    assert second["columns"]["sequence"] == [15, 16]
    assert second["columns"]["client"] == [3, 3]
    assert second["columns"]["time"] == [HOUR_END_US + 5, HOUR_END_US + 6]
    assert second["columns"]["s"][0] is None


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("ns", 10**9)])
def test_times_are_in_the_unit_that_the_request_states(unit: str, factor: int) -> None:
    request = Request(1, 0, (Part("cpu", 1),), base_us=HOUR_END_US, unit=unit)
    assert decoded(request)[0]["columns"]["time"] == [HOUR_END_US // 10**6 * factor]


def test_requests_of_one_seed_are_the_same_and_all_kinds_occur() -> None:
    def make(seed: int) -> list[Request]:
        maker = Maker(1, Options(seed=seed, extra_columns=2))
        return [maker.make() for _ in range(600)]

    requests = make(1)
    assert requests == make(1) != make(2)
    assert {request.encoding for request in requests} == {"", "gzip", "zstd"}
    assert {request.unit for request in requests} == {"s", "ms", "us", "ns"}
    assert {len(request.parts) for request in requests} == {1, 2, 3, 4}
    assert {request.base_us is None for request in requests} == {True, False}
    assert {"x0", "x1", "w0", "w1"} <= {name for one in requests for name in one.columns}
    counts = [request.count for request in requests]
    assert min(counts) == 1
    assert max(counts) > 1000
    assert [one.first for one in requests[1:]] == np.cumsum(counts)[:-1].tolist()


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ([204], Outcome.ACKNOWLEDGED),
        ([0, 204], Outcome.ACKNOWLEDGED),
        ([204, 0, 503], Outcome.ACKNOWLEDGED),
        ([503], Outcome.REFUSED),
        ([503, 503], Outcome.REFUSED),
        ([0], Outcome.UNKNOWN),
        ([0, 503], Outcome.UNKNOWN),
        ([503, 0], Outcome.UNKNOWN),
        ([409], Outcome.UNKNOWN),
    ],
)
def test_the_outcome_of_several_attempts(statuses: list[int], outcome: Outcome) -> None:
    request = replace(Request(1, 0, (Part("cpu", 1),)))
    for status in statuses:
        settle(request, status)
    assert request.outcome == outcome
    assert request.statuses == statuses
