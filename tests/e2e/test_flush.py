"""When rows become files without a stop: by age and by number."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e import files
from tests.e2e.client import Client, columnar
from tests.support.daemon import Daemon, eventually, serving

pytestmark = pytest.mark.e2e

AGE_S = 2.0
#: Three times the age: this machine may be busy with other things.
DEADLINE_S = 3 * AGE_S
ROWS = 1_000


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One worker that flushes early by number, late by age."""
    flags = ("--workers", "1", "--flush-age-s", str(AGE_S), "--flush-rows", str(ROWS))
    with serving(tmp_path_factory.mktemp("flush") / "data", *flags) as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A connection to it."""
    with Client(daemon.port) as connection:
        yield connection


def test_rows_of_every_measurement_are_in_files_once_their_age_is_up(
    daemon: Daemon, client: Client
) -> None:
    names = [f"age{number}" for number in range(5)]
    client.write([columnar(name, n=[number]) for number, name in enumerate(names)])
    written_s = time.monotonic()
    root = daemon.where.root
    for number, name in enumerate(names):
        left_s = DEADLINE_S - (time.monotonic() - written_s)
        eventually(partial(files.files, root, name), f"{name} is stored", left_s)
        assert files.columns(root, name)["n"] == [number]
    client.wait_until_stored()
    metrics = client.metrics()
    assert metrics["arc_flush_age_seconds_count"] == metrics["arc_flushes_total"] >= len(names)
    assert metrics["arc_flush_age_seconds_sum"] <= DEADLINE_S * metrics["arc_flushes_total"]


def test_a_full_buffer_is_written_before_its_age_is_up(daemon: Daemon, client: Client) -> None:
    flushes = client.metrics()["arc_flushes_total"]
    client.write(columnar("full", n=list(range(ROWS - 1))))
    assert client.metrics()["arc_rows_buffered"] == ROWS - 1
    client.write(columnar("full", n=[ROWS - 1]))
    client.wait_until_stored()
    assert sorted(files.columns(daemon.where.root, "full")["n"]) == list(range(ROWS))
    metrics = client.metrics()
    assert metrics["arc_flushes_total"] == flushes + 1
    assert len(files.files(daemon.where.root, "full")) == 1


def test_files_are_counted_with_their_bytes(daemon: Daemon, client: Client) -> None:
    client.wait_until_stored()
    paths = list(daemon.where.root.glob(f"*/*/{files.HOURS}"))
    metrics = client.metrics()
    assert metrics["arc_files_written_total"] == len(paths)
    assert metrics["arc_bytes_written_total"] == sum(path.stat().st_size for path in paths)
