"""One daemon for all tests that leave it as it is, and the log of a daemon when a test fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import files
from tests.e2e.client import Client
from tests.support.daemon import Daemon, serving


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon of two workers that stores rows soon after they come."""
    data_dir = tmp_path_factory.mktemp("live") / "data"
    with serving(data_dir, "--workers", "2", "--flush-age-s", "0.05") as daemon:
        yield daemon


@pytest.fixture
def client(live: Daemon) -> Iterator[Client]:
    """A connection to the common daemon."""
    with Client(live.port) as connection:
        yield connection


@pytest.fixture(scope="package")
def database_names() -> Iterator[str]:
    """Names that no test has used."""
    return (f"db{number}" for number in itertools.count())


@pytest.fixture
def database(database_names: Iterator[str]) -> str:
    """A database for this test alone."""
    return next(database_names)


@pytest.fixture
def stored(live: Daemon, client: Client, database: str) -> Callable[..., dict[str, list[Any]]]:
    """Reads the columns of a measurement back, once all that was accepted is stored."""

    def read(measurement: str, database: str = database) -> dict[str, list[Any]]:
        client.wait_until_stored()
        return files.columns(live.where.root, measurement, database)

    return read


@pytest.fixture
def data_dir(live: Daemon) -> Path:
    """The data directory of the common daemon."""
    return live.where.root


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the daemons of a failed test have logged."""
    report = yield
    if report.failed:
        for name, value in item.funcargs.items():
            if isinstance(value, Daemon):
                report.sections.append((f"log of the daemon {name!r}", value.log))
    return report
