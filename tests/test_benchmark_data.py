"""Seeded data: the same for everybody, of the shape that the workloads promise."""

from __future__ import annotations

import itertools

import numpy as np
import ormsgpack
import pytest

from benchmarks.data import (
    DEFAULT_START_US,
    NIL_SHARE,
    TEXT_BYTES,
    TIME_CELL_BYTES,
    WORKLOADS,
    columnar_body,
    columns,
    host_hash,
    row_body,
    scrape_combos,
    scrape_host_number,
    time_cells,
    workload_body,
)

ALL = sorted(WORKLOADS)


@pytest.mark.parametrize("workload", ALL)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(workload: str) -> None:
    assert workload_body(workload, 200, 7) == workload_body(workload, 200, 7)
    assert workload_body(workload, 200, 7) != workload_body(workload, 200, 8)


@pytest.mark.parametrize("workload", ALL)
def test_time_is_the_last_column_and_fills_the_last_nine_bytes_a_row(workload: str) -> None:
    values = columns(workload, 300, 1)
    body = workload_body(workload, 300, 1)
    cells = time_cells(300)
    cells["value"] = values["time"]
    assert list(values)[-1] == "time"
    assert body[-300 * TIME_CELL_BYTES :] == cells.tobytes()


@pytest.mark.parametrize(
    ("workload", "num_columns"),
    [("a", 7), ("b", 5), ("c", 6), ("mixed", 6), ("agent", 9), ("logs", 10)],
)
def test_a_workload_has_the_columns_that_it_promises(workload: str, num_columns: int) -> None:
    values = columns(workload, 100)
    assert len(values) == num_columns == WORKLOADS[workload].num_columns
    assert {len(column) for column in values.values()} == {100}


def test_a_record_of_workload_c_is_55_bytes() -> None:
    assert len(workload_body("c", 1000)) / 1000 == pytest.approx(55, abs=0.2)


def test_a_body_decodes_to_its_columns() -> None:
    values = columns("mixed", 500, 3)
    decoded = ormsgpack.unpackb(columnar_body(values, "cpu", ["host"]))
    assert decoded["m"] == "cpu"
    assert decoded["tags"] == ["host"]
    assert list(decoded["columns"]) == list(values)
    assert decoded["columns"]["path"] == values["path"]
    assert decoded["columns"]["time"] == np.asarray(values["time"]).tolist()


@pytest.mark.parametrize("workload", ["agent", "mixed", "a"])
def test_rows_hold_what_the_columns_hold(workload: str) -> None:
    values, tags = columns(workload, 200, 3), WORKLOADS[workload].tags
    rows = ormsgpack.unpackb(row_body(values, "cpu", tags))
    assert {tuple(row) for row in rows} == {("m", "t", "fields", "tags")}
    assert {row["m"] for row in rows} == {"cpu"}
    assert [row["t"] for row in rows] == np.array(values["time"]).tolist()
    for name in values.keys() - {"time"}:
        part = "tags" if name in tags else "fields"
        plain = np.array(values[name], dtype=object).tolist()
        assert [row[part].get(name) for row in rows] == plain


def test_log_records_have_texts_of_one_size_and_few_services() -> None:
    values = columns("logs", 2000)
    assert {len(text.encode()) for text in values["body"]} == {TEXT_BYTES}
    assert len(set(values["body"])) > 1900
    assert len(set(values["resource.service.name"])) == 1
    attributes = [name for name in values if name.startswith("attributes.")]
    assert len(attributes) == 6
    assert {type(np.array(values[name]).tolist()[0]) for name in attributes} == {
        *(str, int, float, bool)
    }


def test_a_body_without_tags_has_no_such_key() -> None:
    assert "tags" not in ormsgpack.unpackb(columnar_body(columns("b", 2), "cpu"))


def test_times_follow_one_another_and_those_of_a_scrape_are_one() -> None:
    ours = np.asarray(columns("c", 5)["time"])
    scrape = np.asarray(columns("a", 5)["time"])
    assert ours.tolist() == [DEFAULT_START_US + i for i in range(5)]
    assert scrape.tolist() == [DEFAULT_START_US // 1000] * 5


def test_walking_values_stay_in_bounds_with_two_decimals_and_small_steps() -> None:
    values = np.asarray(columns("c", 20_000, 5)["usage_user"])
    assert values.min() >= 0
    assert values.max() <= 100
    assert np.array_equal(values, np.round(values, 2))
    assert np.abs(np.diff(values)).max() < 10


def test_mixed_rows_have_nils_lengths_widths_and_text_beyond_ascii() -> None:
    values = columns("mixed", 20_000, 5)
    for name in ("path", "requests", "size_bytes", "usage_user"):
        share = sum(value is None for value in values[name]) / 20_000
        assert share == pytest.approx(NIL_SHARE, abs=0.02)
    assert None not in list(values["host"])
    assert len({len(path) for path in values["path"] if path}) > 20
    assert any(not path.isascii() for path in values["path"] if path)
    widths = {len(ormsgpack.packb(value)) for value in values["size_bytes"] if value is not None}
    assert widths == {1, 2, 3, 5, 9}


def test_more_columns_are_more_fields_and_none_is_refused() -> None:
    assert len(columns("c", 10, num_columns=12)) == 12
    with pytest.raises(ValueError, match="at least 4 columns"):
        columns("c", 10, num_columns=3)


def test_scrapes_name_each_host_once_and_move_its_combination_on() -> None:
    values = columns("a", 50, scrape=4)
    hosts = np.array([scrape_host_number(name) for name in values["host"]])
    assert sorted(hosts.tolist()) == list(range(50))
    combos = [scrape_combos(hosts, scrape) for scrape in range(9)]
    for one, two in itertools.combinations(combos, 2):
        assert (one != two).all()
    assert np.array_equal(combos[4], (host_hash(hosts) + 4) % 9)


def test_combinations_of_a_scrape_look_random_over_the_hosts() -> None:
    counts = np.bincount(host_hash(np.arange(1000)), minlength=9)
    assert counts.min() > 60


@pytest.mark.parametrize("name", ["", "host", "server-0001", "host-x"])
def test_a_name_that_is_no_host_has_no_number(name: str) -> None:
    with pytest.raises(ValueError, match=r"host|literal"):
        scrape_host_number(name)
