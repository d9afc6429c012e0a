"""Daemons that real clients talk to, and what they sent, read back from the files."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.e2e.client import Client, half_a_body
from tests.support import read_back
from tests.support.daemon import Daemon, eventually, serving
from tests.support.read_back import Values

#: Of the daemon that is full whenever a test says so. The largest body may take half of it.
BUDGET_BYTES = 2**21


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory, otlp_port: int) -> Iterator[Daemon]:
    """A daemon of two workers that stores rows soon after they come, OTLP on a port of its own."""
    data_dir = tmp_path_factory.mktemp("live") / "data"
    flags = ["--workers", "2", "--flush-age-s", "0.05", "--otlp-port", str(otlp_port)]
    with serving(data_dir, *flags) as daemon:
        yield daemon


@pytest.fixture(scope="package")
def otlp_port() -> int:
    """A port that nothing listens on at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def otlp_url(live: Daemon, otlp_port: int) -> str:
    """Base of the URLs of the port that takes OTLP alone."""
    return f"http://127.0.0.1:{otlp_port}"


@pytest.fixture(scope="package")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose memory two requests can take."""
    flags = {
        "--workers": "1",
        "--flush-age-s": "0.05",
        "--memory-bytes": str(BUDGET_BYTES),
        "--max-body-bytes": str(BUDGET_BYTES // 2),
        "--max-decompressed-bytes": str(BUDGET_BYTES // 2),
        "--body-timeout-s": "60",
    }
    given = [part for flag in flags.items() for part in flag]
    with serving(tmp_path_factory.mktemp("narrow") / "data", *given) as daemon:
        yield daemon


@pytest.fixture(scope="package")
def database_names() -> Iterator[str]:
    """Names that no test has used."""
    return (f"db{number}" for number in itertools.count())


@pytest.fixture
def database(database_names: Iterator[str]) -> str:
    """A database for this test alone."""
    return next(database_names)


@pytest.fixture
def http(live: Daemon) -> Iterator[Client]:
    """A connection to the common daemon, for requests that no client library sends."""
    with Client(live.port) as connection:
        yield connection


Reader = Callable[..., dict[str, Values]]


@pytest.fixture
def stored(database: str, request: pytest.FixtureRequest) -> Reader:
    """Reads a measurement back, once all that was accepted is in files."""

    def read(
        measurement: str, database: str = database, of: Daemon | None = None
    ) -> dict[str, Values]:
        daemon: Daemon = of or request.getfixturevalue("live")
        with Client(daemon.port) as client:
            client.wait_until_stored()
        return read_back.columns(daemon.where.root, measurement, database)

    return read


@pytest.fixture
def tags(live: Daemon, database: str) -> Callable[..., set[str]]:
    """Which columns of a stored measurement are tags."""

    def read(measurement: str, database: str = database) -> set[str]:
        return read_back.tags(live.where.root, measurement, database)

    return read


@pytest.fixture
def full(narrow: Daemon) -> Callable[[], AbstractContextManager[Callable[[], None]]]:
    """Fills the narrow daemon; what is yielded waits for a refusal, and then makes room again."""

    @contextmanager
    def fill() -> Iterator[Callable[[], None]]:
        half = half_a_body(narrow.port, BUDGET_BYTES // 2)
        other_half = half_a_body(narrow.port, BUDGET_BYTES // 2)
        with Client(narrow.port) as client, half as first, other_half as second:
            eventually(lambda: taken(client) == BUDGET_BYTES, "the daemon is full")
            before = refusals(client)

            def relent() -> None:
                eventually(lambda: refusals(client) > before, "a request is refused")
                first.close()
                second.close()
                eventually(lambda: taken(client) < BUDGET_BYTES, "there is room again")

            yield relent

    return fill


def taken(client: Client) -> float:
    """Bytes of bodies that the daemon has admitted and not answered yet."""
    return client.metrics()["arc_bytes_in_flight"]


def refusals(client: Client) -> float:
    """How many requests were told 503 because there was no room, at any door."""
    text = client.get("/metrics").body.decode()
    found = re.findall(r"^arc_requests_rejected_total\{.*\"overloaded\".*\} (\S+)", text, re.M)
    return sum(map(float, found))


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
