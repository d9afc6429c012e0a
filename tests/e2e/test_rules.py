"""What a client can see of the rules: schemas that grow, units of time, all or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.testing import Encoded, array_forms, timestamp_forms
from ingest.testing import columnar as spelled
from tests.e2e import files
from tests.e2e.client import Client, columnar, connected_to
from tests.support.daemon import Daemon

pytestmark = pytest.mark.e2e

Stored = Callable[..., dict[str, list[Any]]]

NOW_S = 1_790_000_000
NOW_US = NOW_S * 1_000_000


# --- schemas -----------------------------------------------------------------------------------


def test_a_new_column_is_null_in_older_rows(client: Client, database: str, stored: Stored) -> None:
    client.write(columnar("m", time=[NOW_US], a=[1]), database)
    assert stored("m") == {"time": [NOW_US], "a": [1]}
    client.write(columnar("m", time=[NOW_US + 1], a=[2], b=["x"]), database)
    client.write(columnar("m", time=[NOW_US + 2], b=["y"]), database)
    assert stored("m") == {
        "time": [NOW_US, NOW_US + 1, NOW_US + 2],
        "a": [1, 2, None],
        "b": [None, "x", "y"],
    }


def test_integers_become_floats_for_all_workers(
    live: Daemon, database: str, stored: Stored
) -> None:
    with connected_to(live, 0) as first, connected_to(live, 1) as second:
        first.write(columnar("m", time=[NOW_US], x=[2**53]), database)
        second.write(columnar("m", time=[NOW_US + 1], x=[0.5]), database)
        first.write(columnar("m", time=[NOW_US + 2], x=[3]), database)
    assert stored("m")["x"] == [2.0**53, 0.5, 3.0]
    glob = files.folder(live.where.root, "m", database) / files.HOURS
    read = f"SELECT x FROM read_parquet('{glob}', union_by_name = true) ORDER BY time"
    assert files.query(read) == [(2.0**53,), (0.5,), (3.0,)]
    paths = files.files(live.where.root, "m", database)
    assert {path.name.partition("-")[0] for path in paths} == {"s000", "s001"}


def test_an_integer_that_no_float_holds_is_refused_where_floats_are(
    client: Client, database: str, stored: Stored
) -> None:
    client.write(columnar("m", time=[NOW_US], x=[0.5]), database)
    said = client.refusal(columnar("m", x=[1, None, 2**53 + 1]), database)
    assert "measurement 'm': column 'x', row 2" in said
    assert "found int64 9007199254740993, but the column is stored as float64" in said
    client.write(columnar("wide", time=[NOW_US], x=[2**53 + 1]), database)
    said = client.refusal(columnar("wide", x=[0.5]), database)
    assert "found float64 0.5, but the column is stored as int64" in said
    assert stored("m")["x"] == [0.5]
    assert stored("wide")["x"] == [2**53 + 1]


def test_an_unsigned_integer_above_int64_is_refused_by_its_value_but_not_by_floats(
    client: Client, database: str, stored: Stored
) -> None:
    assert str(2**63) in client.refusal(columnar("m", x=[1, 2**63]), database)
    client.write(columnar("f", time=[NOW_US], x=[0.5]), database)
    client.write(columnar("f", time=[NOW_US + 1], x=[2**63]), database)
    assert stored("f")["x"] == [0.5, 2.0**63]


VALUES = {"utf8": "a", "int64": 1, "float64": 0.5, "bool": True, "binary": b"a"}
CONFLICTS = [
    (stored, found)
    for stored in VALUES
    for found in VALUES
    if stored != found and {stored, found} != {"int64", "float64"}
]


@pytest.fixture(scope="module")
def typed(live: Daemon, database_names: Any) -> str:
    """A database with a table of one column for each type, written by one worker."""
    name = str(next(database_names))
    with connected_to(live, 0) as first:
        first.write([columnar(kind, x=[None, value]) for kind, value in VALUES.items()], name)
    return name


@pytest.mark.parametrize(("kept", "found"), CONFLICTS)
def test_a_conflict_names_both_types_at_every_worker(
    live: Daemon, client: Client, typed: str, kept: str, found: str
) -> None:
    said = client.refusal(columnar(kept, x=[None, VALUES[found]]), typed)
    assert f"measurement '{kept}': column 'x', row 1: found {found}" in said
    assert f"but the column is stored as {kept}" in said


def test_a_column_of_nulls_has_no_type_yet(client: Client, database: str, stored: Stored) -> None:
    client.write(columnar("m", time=[NOW_US], x=[None]), database)
    client.write(columnar("m", time=[NOW_US + 1], x=["text"]), database)
    client.write(columnar("m", time=[NOW_US + 2], x=[None]), database)
    assert stored("m")["x"] == [None, "text", None]


def test_of_two_workers_that_bring_contrary_types_at_once_one_is_refused(
    live: Daemon, database: str, stored: Stored
) -> None:
    rounds = 8
    statuses: list[list[int]] = [[], []]
    barrier = threading.Barrier(2)

    def bring(side: int, connection: Client) -> None:
        for number in range(rounds):
            value = [number, "text"][side]
            barrier.wait()
            reply = connection.post(columnar(f"m{number}", x=[value]), x_arc_database=database)
            statuses[side].append(reply.status)

    with connected_to(live, 0) as first, connected_to(live, 1) as second:
        threads = [
            threading.Thread(target=bring, args=(side, connection))
            for side, connection in enumerate((first, second))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    answers = list(zip(*statuses, strict=True))
    assert {tuple(sorted(pair)) for pair in answers} == {(204, 400)}
    for number, (as_integer, _) in enumerate(answers):
        wanted = number if as_integer == 204 else "text"
        assert stored(f"m{number}")["x"] == [wanted]


def test_a_tag_must_be_text(client: Client, database: str) -> None:
    said = client.refusal(columnar("m", host=[None, 5]) | {"tags": ["host"]}, database)
    assert "column 'host', row 1: found int64 5, wanted utf8, since it is a tag" in said


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "header", "stored_us"),
    [
        ([NOW_S], None, [NOW_US]),
        ([NOW_S * 10**3], None, [NOW_US]),
        ([NOW_S * 10**6], None, [NOW_US]),
        ([NOW_S * 10**9], None, [NOW_US]),
        ([NOW_S + 0.25], None, [NOW_US + 250_000]),
        ([NOW_S * 10**3 + 0.5], None, [NOW_US + 500]),
        ([NOW_S * 10**9 + 1_999], None, [NOW_US + 1]),
        ([-NOW_S * 10**9 - 1], "ns", [-NOW_US - 1]),
        ([-(10**9)], None, [-(10**15)]),
        ([0, 86_400], None, [0, 86_400_000_000]),
        ([5, NOW_S * 10**3], None, [5_000, NOW_US]),
        ([86_400], "s", [86_400_000_000]),
        ([86_400], "ms", [86_400_000]),
        ([86_400], "us", [86_400]),
        ([86_400], "ns", [86]),
        ([1, NOW_S * 10**9], "ns", [0, NOW_US]),
    ],
)
def test_times_are_stored_in_microseconds_whatever_their_unit(
    client: Client,
    database: str,
    stored: Stored,
    sent: list[float],
    header: str | None,
    stored_us: list[int],
) -> None:
    headers = {} if header is None else {"x_arc_time_unit": header}
    client.write({"m": "m", "columns": {"time": sent}}, database, **headers)
    assert stored("m") == {"time": stored_us}


def test_timestamps_of_messagepack_itself_are_taken(
    client: Client, database: str, stored: Stored
) -> None:
    cells = timestamp_forms(NOW_S, 1_999) + timestamp_forms(NOW_S + 1, 0) + timestamp_forms(-1, 1)
    times = Encoded(array_forms(len(cells))[0] + b"".join(cells))
    client.write(spelled("m", {"time": times}), database)
    assert stored("m")["time"] == [-1_000_000, *[NOW_US + 1] * 2, *[NOW_US + 1_000_000] * 3]


def test_rows_without_a_time_get_the_time_of_their_arrival(
    client: Client, database: str, stored: Stored
) -> None:
    before_us = time.time_ns() // 1_000
    client.write(columnar("m", x=[1, 2, 3]), database)
    after_us = time.time_ns() // 1_000
    times = stored("m")["time"]
    assert before_us <= times[0] <= after_us
    assert times == [times[0]] * 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([NOW_S, NOW_S * 10**3], [str(NOW_S), str(NOW_S * 10**3), "like ms", "x-arc-time-unit"]),
        ([NOW_S, None], ["row 1", "null is not a time"]),
        (["2026-01-01"], ["row 0", "utf8"]),
        ([True], ["row 0", "bool"]),
        ([b"1"], ["row 0", "binary"]),
        ([NOW_S + 0.5, float("nan")], ["row 1", "nan"]),
        ([float("inf")], ["row 0", "inf"]),
        ([-2_208_988_801], ["row 0", "-2208988801 s", "1900 to 2262"]),
        ([9_246_182_400_000], ["9246182400000 ms", "1900 to 2262"]),
        ([[1]], ["row 0", "an array"]),
    ],
)
def test_what_is_no_time_is_refused_by_its_row(
    client: Client, database: str, values: list[Any], words: list[str]
) -> None:
    said = client.refusal({"m": "m", "columns": {"time": values}}, database)
    assert "measurement 'm': column 'time'" in said
    for word in words:
        assert word in said


def test_a_unit_that_there_is_not_is_refused(client: Client, database: str) -> None:
    said = client.refusal(columnar("m", time=[1]), database, x_arc_time_unit="h")
    assert "x-arc-time-unit: found 'h', wanted one of s, ms, us, ns" in said


# --- all or nothing ----------------------------------------------------------------------------

GOOD = columnar("good", time=[NOW_US], x=["text"])
BAD = {
    "no columns": {"m": "bad"},
    "a row without fields": {"m": "bad", "fields": {}},
    "lengths": columnar("bad", a=[1, 2], b=[1]),
    "a nested value": columnar("bad", a=[{"b": 1}]),
    "a bad name": columnar("bad\n", a=[1]),
    "an empty column name": {"m": "bad", "columns": {"": [1]}},
    "a bad time": columnar("bad", time=[None], a=[1]),
    "a conflict in itself": columnar("bad", a=[1, "x"]),
    "a conflict with another map": columnar("good", x=[1]),
    "a conflict with the table": columnar("old", x=[1]),
    "no map": 5,
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("good_first", [True, False])
def test_a_request_with_one_bad_map_stores_nothing_and_leaves_no_schema(
    client: Client, database: str, stored: Stored, data_dir: Path, fault: str, good_first: bool
) -> None:
    client.write(columnar("old", time=[NOW_US], x=["text"]), database)
    bad = BAD[fault]
    said = client.refusal([GOOD, bad] if good_first else [bad, GOOD], database)
    assert said
    client.write(columnar("good", time=[NOW_US + 1], x=[1]), database)  # no text column is there
    assert stored("good") == {"time": [NOW_US + 1], "x": [1]}
    assert stored("old") == {"time": [NOW_US], "x": ["text"]}
    tables = {
        path.name for path in (data_dir / files.folder(data_dir, "a", database)).parent.iterdir()
    }
    assert tables == {"good", "old"}


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"hello", b"\x82\xa1m", b"\x92\x01\x02", b"\x90", b"\x80", b"\xc0"],
)
def test_what_is_no_columnar_messagepack_is_refused(
    client: Client, database: str, body: bytes
) -> None:
    assert client.refusal(body, database)


def test_bytes_after_the_last_map_refuse_all_of_it(
    client: Client, database: str, stored: Stored, data_dir: Path
) -> None:
    body = spelled("m", {"time": [NOW_US], "x": [1]})
    assert f"byte {len(body)}" in client.refusal(body + b"\xc1", database)
    client.wait_until_stored()
    assert not files.folder(data_dir, "m", database).exists()


def test_rows_and_columns_may_share_a_body(client: Client, database: str, stored: Stored) -> None:
    row = {"m": "m", "t": NOW_US + 1, "h": "a", "fields": {"x": 1.5}, "tags": {"rack": 7}}
    client.write([columnar("m", time=[NOW_US], x=[1]), row], database)
    assert stored("m") == {
        "time": [NOW_US, NOW_US + 1],
        "rack": [None, "7"],
        "host": [None, "a"],
        "x": [1.0, 1.5],
    }


def test_a_batch_over_a_year_of_hours_lies_in_as_many_folders(
    client: Client, database: str, stored: Stored, data_dir: Path
) -> None:
    start = datetime(2024, 2, 28, 23, 30, tzinfo=UTC)  # over a leap day
    times = [start + timedelta(hours=9 * n) for n in range(40)]
    sent_us = [int(moment.timestamp()) * 1_000_000 for moment in times]
    client.write(columnar("m", time=list(reversed(sent_us)), n=list(range(40))[::-1]), database)
    assert stored("m") == {"time": sent_us, "n": list(range(40))}
    root = files.folder(data_dir, "m", database)
    found = {
        path.parent.relative_to(root).as_posix() for path in files.files(data_dir, "m", database)
    }
    assert found == {f"{moment:%Y/%m/%d/%H}" for moment in times}
