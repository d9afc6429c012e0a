"""Asking a real daemon: the same rows as from its files, and never a part of them for all."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from arc.reader import Reader, RefusedError
from tests.reader.stored import HOUR_S, at
from tests.support.daemon import Daemon, eventually, serving

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def daemon(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = shutil.copytree(stored, tmp_path_factory.mktemp("served") / "data")
    with serving(root, "--workers", "1", "--query-concurrency", "1") as started:
        reader = Reader(started.url)

        def answers() -> bool:
            try:
                return len(reader.read("Select")) == 3
            except RefusedError as error:
                if error.status != 503:
                    raise
                return False

        eventually(answers, "queries are answered")
        yield started


@pytest.fixture(scope="module")
def url(daemon: Daemon) -> Reader:
    return Reader(daemon.url)


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("cpu", {}),
    ("cpu", {"start": at(2), "end": at(HOUR_S + 1)}),
    ("cpu", {"start": np.datetime64(at(2) * 1000 + 1, "ns"), "columns": ["n", "time"]}),
    ("cpu", {"start": at(3), "end": at(3)}),
    ("cpu", {"end": "2026-09-21T14:13:25Z"}),
    ("types", {}),
    ("types", {"columns": ['odd "name"', "host"]}),
    ("types", {"where": {"host": 'it\'s "x"\\ -- ;'}}),
    ("types", {"where": {"host": ["b", None]}}),
    ("types", {"where": {"host": []}}),
    ("types", {"where": {"host": ["a", "b"], "flag": True}}),
    ("types", {"where": {"x": [0.1, math.inf]}}),
    ("types", {"where": {"x": [math.nan, None]}}),
    ("types", {"where": {"raw": [b"\x00'\xff", b""]}}),
    ("types", {"where": {"big": [2**63 - 1, -(2**63)]}}),
    ("types", {"where": {'odd "name"': 3, "time": np.datetime64(at(2), "us")}}),
    ("grown", {"where": {"n": [1, 0.5]}}),
    ("disk/io", {}),
    ("Select", {"columns": ["n"]}),
]


@pytest.mark.parametrize(("measurement", "asked"), ASKED)
def test_a_daemon_and_its_files_give_the_same(
    url: Reader, reader: Reader, measurement: str, asked: dict[str, Any]
) -> None:
    found = url.read(measurement, **asked).table
    expected = reader.read(measurement, **asked).table
    assert [(f.name, f.type) for f in found.schema] == [(f.name, f.type) for f in expected.schema]
    assert rows(found) == rows(expected)


def rows(table: pa.Table) -> list[str]:
    """Rows as text, in an order of their own: NaN is equal to NaN."""
    return sorted(map(repr, table.to_pylist()))


def test_a_condition_in_sql_stands_beside_the_others(url: Reader) -> None:
    found = url.read("cpu", end=at(100), where="n = 3 OR n = 3600 -- or else").table
    assert found["n"].to_pylist() == [3]


def test_another_database_has_its_own_tables(daemon: Daemon) -> None:
    prod = Reader(daemon.url, database="prod")
    assert prod.read("cpu").table["n"].to_pylist() == [100]


@pytest.mark.parametrize("rows", [1, 7, 30, 65_536])
def test_a_stream_comes_in_batches_of_one_size(url: Reader, rows: int) -> None:
    with url.stream("cpu", batch_rows=rows) as stream:
        sizes = [batch.num_rows for batch in stream]
    assert sum(sizes) == 30
    assert sizes[:-1] == [rows] * (len(sizes) - 1)


def test_a_stream_that_is_left_gives_its_place_back(url: Reader) -> None:
    for _ in range(3):  # there is one place
        with url.stream("cpu", batch_rows=1) as stream:
            next(stream)
    assert len(url.read("cpu")) == 30


@pytest.mark.parametrize(
    ("measurement", "asked"),
    [
        ("nope", {}),
        ("types", {"columns": ["nope"]}),
        ("types", {"columns": ["types"]}),
        ("types", {"where": {"nope": 1}}),
        ("types", {"where": {"host": True}}),
        ("types", {"where": "n = "}),
        ("types", {"where": "1 = 1); DROP TABLE types; SELECT (1"}),
        ('types"; DROP TABLE types; --', {}),
    ],
)
def test_what_the_daemon_refuses_is_said_in_its_words(
    url: Reader, measurement: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(RefusedError) as caught:
        url.read(measurement, **asked)
    assert caught.value.status == 400
    assert caught.value.message
    with pytest.raises(RefusedError):
        url.stream(measurement, **asked)


def test_numbers_of_one_answer_are_views(url: Reader) -> None:
    table = url.read("cpu").table
    found: Any = url.read("cpu").to_numpy()["n"]
    assert sorted(found.tolist()) == sorted(table["n"].to_pylist())
    assert not found.flags.owndata or table["n"].num_chunks > 1
