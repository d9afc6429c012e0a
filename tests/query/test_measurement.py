"""A measurement by its name alone: the SELECT that is made of parameters, and its answers."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.query.errors import QueryError
from ingest.query.measurement import MeasurementQuery, parse_time, select_of
from tests.query.conftest import START_US, engine_on, request, rows_of, write
from tests.query.serving import Answer, gateway, query_process

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\0"), min_size=1, max_size=20
)


@pytest.mark.parametrize(
    ("text", "time_us"),
    [
        ("0", 0),
        ("-1", -1),
        ("1790000000000000", START_US),
        ("2026-09-21T14:13:20Z", START_US),
        ("2026-09-21T14:13:20", START_US),
        ("2026-09-21 16:13:20+02:00", START_US),
        ("2026-09-21T14:13:20.000001Z", START_US + 1),
        ("1970-01-02", 86_400_000_000),
        ("0001-01-01", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
    ],
)
def test_a_time_is_read_in_microseconds(text: str, time_us: int) -> None:
    assert parse_time("start", text) == time_us


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1e9",
        "0x1",
        "٣",
        "--1",
        "253402300800000000",
        "9" * 99,
        "2026-13-01",
        "' OR 1",
    ],
)
def test_what_is_no_time_is_refused_by_the_name_of_its_parameter(text: str) -> None:
    with pytest.raises(QueryError, match=r"^start: found"):
        parse_time("start", text)


def test_rows_come_newest_first_between_start_and_before_end(stored: Path) -> None:
    query = MeasurementQuery("cpu", 2, ("n",), START_US + 1_000_000, START_US + 4_000_000)
    with engine_on(stored) as engine:
        assert rows_of(engine.query(select_of(query), "default")) == [(3,), (2,)]


@given(
    st.sampled_from([-62_135_596_800_000_000, -1, 0, START_US, 253_402_300_799_999_999]),
    st.integers(1, 2**62),
)
def test_every_time_is_one_that_the_engine_takes(time_us: int, limit: int) -> None:
    text = select_of(MeasurementQuery("cpu", limit, (), time_us, time_us))
    assert text.startswith('SELECT * FROM "cpu" WHERE "time" >= TIMESTAMPTZ \'')


@pytest.mark.parametrize("time_us", [-62_135_596_800_000_000, 253_402_300_799_999_999])
def test_the_first_and_the_last_time_are_run(stored: Path, time_us: int) -> None:
    with engine_on(stored) as engine:
        early = engine.query(select_of(MeasurementQuery("cpu", 9, (), time_us)), "default")
        late = engine.query(select_of(MeasurementQuery("cpu", 9, (), None, time_us)), "default")
        assert (len(rows_of(early)), len(rows_of(late))) == ((5, 0) if time_us < 0 else (0, 5))


HOSTILE = ['"; DROP TABLE cpu; --', 'a"b', "a'b", "a;b", "cpu WHERE 1=1", "(SELECT 1)", "read_csv"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_a_name_whatever_it_holds(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"m": name, "columns": {"time": [START_US], name: [7]}})
    with engine_on(tmp_path) as engine:
        query = MeasurementQuery(name, 10, (name,))
        assert rows_of(engine.query(select_of(query), "default")) == [(7,)]


@given(NAMES, st.lists(NAMES, max_size=3))
def test_a_name_never_ends_its_quotes(measurement: str, columns: list[str]) -> None:
    text = select_of(MeasurementQuery(measurement, 1, tuple(columns)))
    quoted = [f'"{name.replace(chr(34), chr(34) * 2)}"' for name in (*columns, measurement)]
    for part in quoted:
        assert part in text
        text = text.replace(part, "_", 1)
    assert text.count('"') == 2  # "time", which the rows are ordered by


# --- over HTTP -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port(stored: Path) -> Iterator[int]:
    with query_process(stored, max_rows=1_000) as process, gateway(process.socket) as number:
        yield number


def get(port: int, measurement: str, database: str = "default", **parameters: Any) -> Answer:
    client = http.client.HTTPConnection("127.0.0.1", port)
    path = f"/api/v1/query/{quote(measurement, safe='')}"
    if parameters:
        path += f"?{urlencode(parameters)}"
    with contextlib.closing(client):
        client.request("GET", path, headers={"x-arc-database": database})
        response = client.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())


@pytest.mark.e2e
def test_a_measurement_is_read_by_its_name(port: int) -> None:
    found = get(port, "cpu").json
    assert (found["success"], found["columns"]) == (True, ["time", "n", "host"])
    assert [row[1] for row in found["data"]] == [4, 3, 2, 1, 0]
    assert get(port, "cpu", "prod").json["row_count"] == 1


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["disk/io", "win.cpu"])
def test_a_name_is_escaped_as_in_any_url(port: int, name: str) -> None:
    assert get(port, name).json["row_count"] == 3


@pytest.mark.e2e
def test_rows_and_columns_are_chosen_by_parameters(port: int) -> None:
    bounds: dict[str, Any] = {"start": "2026-09-21T14:13:21Z", "end": START_US + 4_000_000}
    found = get(port, "cpu", limit=2, columns=" n,host", **bounds).json
    assert (found["columns"], found["data"]) == (["n", "host"], [[3, None], [2, None]])
    assert get(port, "cpu", limit=1_000).json["row_count"] == 5


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"limit": 0}, "limit: found '0', wanted a number from 1 to 1000"),
        ({"limit": 1_001}, "ARC_QUERY_MAX_ROWS"),
        ({"limit": "1; DROP TABLE cpu"}, "limit: found"),
        ({"start": "yesterday"}, "start: found 'yesterday'"),
        ({"where": "1=1"}, "parameter 'where' is not known"),
        ({"columns": "nope"}, "nope"),
    ],
)
def test_a_parameter_that_is_none_is_named(
    port: int, parameters: dict[str, Any], said: str
) -> None:
    answer = get(port, "cpu", **parameters)
    assert answer.status == 400
    assert said in answer.json["error"]


@pytest.mark.e2e
def test_a_measurement_that_there_is_not_is_named_with_those_that_there_are(port: int) -> None:
    answer = get(port, "nope")
    assert answer.status == 400
    assert "'cpu_total'" in answer.json["error"]


@pytest.mark.e2e
def test_the_paths_of_sql_are_names_as_well(tmp_path: Path) -> None:
    write(tmp_path, request("arrow"))
    with query_process(tmp_path) as process, gateway(process.socket) as port:
        assert get(port, "arrow").json["row_count"] == 3


@pytest.mark.e2e
def test_only_get_asks_for_a_measurement(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(client):
        client.request("DELETE", "/api/v1/query/cpu")
        assert client.getresponse().status == 405
