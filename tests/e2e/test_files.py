"""What a daemon leaves behind after SIGTERM: rows over HTTP in, files as any engine reads them."""

from __future__ import annotations

import json
import random
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.paths import TableId, hour_dir, table_from_dir
from tests.e2e import files
from tests.e2e.client import Client, columnar
from tests.support.daemon import serving

pytestmark = pytest.mark.e2e

HOUR_US = 3_600_000_000
NINE_US = int(datetime(2026, 3, 1, 9, tzinfo=UTC).timestamp()) * 1_000_000

#: Every type, nulls in each column but the time, two hours, and one moment before 1970.
WEATHER: dict[str, list[Any]] = {
    "time": [NINE_US + 1, NINE_US - 1, -1, NINE_US + HOUR_US - 1],
    "temperature": [1.5, None, -0.0, 1e308],
    "station": ["north", "süd", "", None],
    "count": [None, 2**62, -(2**62), 7],
    "ok": [True, False, None, True],
    "raw": [b"\x00\xff", b"", None, b"abc"],
    "kind": ["a", None, "b", "a"],
}
TAGS = ["station", "kind"]

#: Rows of each of the requests of `big`, enough for the encodings to be chosen by the values.
BIG_ROWS = 20_000
BIG_REQUESTS = 3


def big(request: int) -> dict[str, Any]:
    """A request of `big`: the latest first, its rows in no order, over two hours."""
    chance = random.Random(request)
    start_us = NINE_US + HOUR_US - BIG_ROWS * 500
    every = [(BIG_REQUESTS - 1 - request) + BIG_REQUESTS * row for row in range(BIG_ROWS)]
    chance.shuffle(every)
    few = [0.5 * chance.randrange(8) for _ in range(50)] if request else [chance.random()]
    return columnar(
        "big",
        time=[start_us + 200 * row for row in every],
        id=every,
        host=[f"host-{row % 1000}" for row in every],
        text=[f"{row}:" + "x" * (row % 40) for row in every],
        few=[few[row % len(few)] for row in every],
        random=[chance.random() for _ in every],
        sometimes=[None] * BIG_ROWS if request == 1 else [row % 7 == 0 for row in every],
    ) | {"tags": ["host"]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of a daemon that held everything in memory until SIGTERM."""
    data_dir = tmp_path_factory.mktemp("files") / "data"
    with serving(data_dir, "--flush-age-s", "3600") as daemon:
        with Client(daemon.port) as client:
            client.write({"m": "weather", "columns": WEATHER, "tags": TAGS})
        for request in range(BIG_REQUESTS):
            with Client(daemon.port) as client:  # of either worker
                client.write(big(request))
        assert list(data_dir.glob(f"*/*/{files.HOURS}")) == []
        daemon.stop()
    return data_dir


def in_order_of_time(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    rows = sorted(range(len(columns["time"])), key=lambda row: columns["time"][row])
    return {name: [values[row] for row in rows] for name, values in columns.items()}


def test_values_come_back_as_they_were_sent(data_dir: Path) -> None:
    assert files.columns(data_dir, "weather") == in_order_of_time(WEATHER)


def test_the_time_comes_first_then_tags_then_fields_each_in_its_type(data_dir: Path) -> None:
    for path in files.files(data_dir, "weather"):
        schema = pq.read_schema(path).remove_metadata()
        assert schema == pa.schema(
            [
                pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
                pa.field("station", pa.string()),
                pa.field("kind", pa.string()),
                pa.field("temperature", pa.float64()),
                pa.field("count", pa.int64()),
                pa.field("ok", pa.bool_()),
                pa.field("raw", pa.binary()),
            ]
        )


def test_every_file_names_its_tags_its_table_and_its_part_of_the_log(data_dir: Path) -> None:
    for measurement, tags in (("weather", TAGS), ("big", ["host"])):
        for path in files.files(data_dir, measurement):
            metadata = pq.read_schema(path).metadata
            assert json.loads(metadata[b"arc:tags"]) == tags
            assert metadata[b"arc:database"] == b"default"
            assert metadata[b"arc:measurement"] == measurement.encode()
            shard, epoch, requests = metadata[b"arc:log"].decode().split("/")
            first, last = requests.split("-")
            name = f"s{int(shard):03}-e{int(epoch):06}-{int(first):012}-{int(last):012}.parquet"
            assert path.name == name


def test_a_row_lies_in_the_folder_of_its_hour_also_before_1970(data_dir: Path) -> None:
    root = files.folder(data_dir, "weather")
    found = {
        path.parent.relative_to(root).as_posix(): pq.read_table(path)["count"].to_pylist()
        for path in files.files(data_dir, "weather")
    }
    assert found == {
        "1969/12/31/23": [-(2**62)],
        "2026/03/01/08": [2**62],
        "2026/03/01/09": [None, 7],
    }


def test_rows_of_a_file_are_of_one_hour_and_sorted_by_time(data_dir: Path) -> None:
    paths = files.files(data_dir, "big")
    hours = {path.parent for path in paths}
    assert len(hours) == 2
    for path in paths:
        times = pq.read_table(path).column("time").cast(pa.int64()).to_pylist()
        assert times == sorted(times)
        assert {hour_dir(time) for time in times} == {"/".join(path.parts[-5:-1])}


def test_every_row_of_a_large_table_is_there_once_with_its_values(data_dir: Path) -> None:
    sent: dict[str, list[Any]] = {}
    for request in range(BIG_REQUESTS):
        for name, values in big(request)["columns"].items():
            sent.setdefault(name, []).extend(values)
    assert files.columns(data_dir, "big") == {
        name: in_order_of_time(sent)[name] for name in files.columns(data_dir, "big")
    }
    assert len(set(sent["id"])) == BIG_ROWS * BIG_REQUESTS


@pytest.mark.parametrize("measurement", ["weather", "big"])
def test_all_files_of_a_table_look_the_same_to_duckdb(data_dir: Path, measurement: str) -> None:
    paths = files.files(data_dir, measurement)
    assert len(paths) > 1
    assert len({str(files.query(f"DESCRIBE FROM '{path}'")) for path in paths}) == 1


def test_duckdb_reads_all_tables_by_their_globs(data_dir: Path) -> None:
    big_glob, glob = (
        data_dir / "default" / measurement / files.HOURS for measurement in ("big", "weather")
    )
    assert files.query(f"SELECT count(*), count(DISTINCT id), sum(id) FROM '{big_glob}'") == [
        (60_000, 60_000, sum(range(60_000)))
    ]
    described = files.query(f"DESCRIBE FROM '{glob}'")
    assert {row[0]: row[1] for row in described} == {
        "time": "TIMESTAMP WITH TIME ZONE",
        "station": "VARCHAR",
        "kind": "VARCHAR",
        "temperature": "DOUBLE",
        "count": "BIGINT",
        "ok": "BOOLEAN",
        "raw": "BLOB",
    }
    rows = files.query(f"SELECT * REPLACE (epoch_us(time) AS time) FROM '{glob}' ORDER BY time")
    assert rows == list(zip(*files.columns(data_dir, "weather").values(), strict=True))


def test_nothing_is_left_but_files_for_the_user_alone(data_dir: Path) -> None:
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [data_dir, *data_dir.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert list((data_dir / ".arc" / "staging").iterdir()) == []
    assert not (data_dir / ".arc" / "run" / "daemon.json").exists()
    tables = {path.relative_to(data_dir).as_posix() for path in data_dir.glob("[!.]*/*")}
    assert {table_from_dir(path) for path in tables} == {
        TableId("default", "weather"),
        TableId("default", "big"),
    }
