"""Every door of a real daemon under bodies that are made to hurt, beside a client that is not.

What the bodies are is in `tests/support/hostile_bodies.py`. After each: an answer that is right,
no 5xx, the same processes, memory given back. In the end: nothing outside the data directory, no
error in the log, and every row of the client beside in the files.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

from tests.e2e import files
from tests.e2e.client import Client, Reply, columnar
from tests.support.daemon import Daemon, serving
from tests.support.hostile_bodies import (
    ARROW,
    COLUMNS,
    JSONS,
    LINES,
    LOGS,
    LOGS_JSON,
    METRICS,
    METRICS_JSON,
    PARTLY,
    PROTOBUFS,
    ROWS,
    TAKEN,
    TRACES,
    TRACES_JSON,
    Attack,
    attacks,
    compressed,
    spell,
)

pytestmark = pytest.mark.e2e

MIB = 2**20
MAX_DECOMPRESSED_BYTES = 16 * MIB
FLAGS = {
    "--workers": "2",
    "--flush-age-s": "0.05",
    "--memory-bytes": str(512 * MIB),
    "--max-body-bytes": str(8 * MIB),
    "--max-decompressed-bytes": str(MAX_DECOMPRESSED_BYTES),
}
NOW_US = 1_790_000_000_000_000


class Door(NamedTuple):
    """A path that takes bodies of a format.

    Attributes:
        form: Of the bodies.
        path: Where they go; the database is added.
        database_key: Of the query; empty: the header x-arc-database.
        has_names: A body or a header names the measurement.
    """

    form: str
    path: str
    database_key: str = ""
    has_names: bool = True


DOORS = {
    "msgpack columns": Door(COLUMNS, "/api/v1/write/msgpack"),
    "msgpack rows": Door(ROWS, "/api/v1/write/msgpack"),
    "write": Door(LINES, "/write", "db"),
    "api v2 write": Door(LINES, "/api/v2/write", "bucket"),
    "line protocol": Door(LINES, "/api/v1/write/line-protocol"),
    "arrow": Door(ARROW, "/api/v1/write/arrow"),
    "logs protobuf": Door(LOGS, "/v1/logs", has_names=False),
    "traces protobuf": Door(TRACES, "/v1/traces", has_names=False),
    "metrics protobuf": Door(METRICS, "/v1/metrics", has_names=False),
    "logs json": Door(LOGS_JSON, "/v1/logs", has_names=False),
    "traces json": Door(TRACES_JSON, "/v1/traces", has_names=False),
    "metrics json": Door(METRICS_JSON, "/v1/metrics", has_names=False),
}
NAMED = [name for name, door in DOORS.items() if door.has_names]
BY_DOOR = pytest.mark.parametrize("name", DOORS)

#: Tables of OTLP, by format.
TABLES = {LOGS: "otel_logs", TRACES: "otel_spans", METRICS: "otel_metrics_gauge"}
TABLES |= dict(zip(JSONS, TABLES.values(), strict=True))


class Beside:
    """A client that writes good rows all the time, on a connection of its own.

    Attributes:
        acknowledged: The numbers of its rows.
        troubles: Whatever else happened to it.
    """

    def __init__(self, port: int) -> None:
        self.acknowledged: list[int] = []
        self.troubles: list[str] = []
        self._port = port
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        number = 0
        with Client(self._port) as client:
            while not self._end.wait(0.02):
                try:
                    body = columnar("beside", time=[NOW_US + number], n=[number])
                    reply = client.post(body, x_arc_database="beside")
                except Exception as error:
                    self.troubles.append(repr(error))
                    return
                if reply.status == 204:
                    self.acknowledged.append(number)
                else:
                    self.troubles.append(f"row {number}: {reply}")
                number += 1

    def stop(self) -> None:
        """Write no more."""
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon in a folder of its own, which holds nothing else."""
    given = [part for flag in FLAGS.items() for part in flag]
    with serving(tmp_path_factory.mktemp("hostile") / "data", *given) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def beside(daemon: Daemon) -> Iterator[Beside]:
    """The other client."""
    beside = Beside(daemon.port)
    yield beside
    beside.stop()


@pytest.fixture
def client(daemon: Daemon, beside: Beside) -> Iterator[Client]:
    """A connection for the attacks, while the other client writes."""
    with Client(daemon.port) as connection:
        yield connection


def send(
    client: Client, door: Door, body: bytes, database: str = "hostile", measurement: str = "m"
) -> Reply:
    """POST a body to a door."""
    headers: dict[str, str] = {}
    path = door.path
    if door.database_key:
        path += f"?{door.database_key}={database}"
    else:
        headers["x_arc_database"] = database
    if door.form == ARROW:
        path += f"?measurement={quote(measurement)}"  # a header would lose spaces
    if door.form in PROTOBUFS:
        headers["content_type"] = "application/x-protobuf"
    if door.form in JSONS:
        headers["content_type"] = "application/json"
    return client.post(body, path, **headers)


def pids(daemon: Daemon) -> list[int]:
    """Every process of it."""
    return [daemon.process.pid, *(entry.pid for entry in daemon.info.workers)]


def wrong(client: Client, door: Door, attack: Attack) -> Iterator[str]:
    """What is wrong with the answer to an attack."""
    reply = send(client, door, attack.body)
    if reply.status not in attack.answers:
        yield f"{attack.name}: {reply.status} {reply.body[:300]!r}, wanted {attack.answers}"
    elif reply.status == 200 and attack.answers is PARTLY:
        if not any(key.startswith("rejected") for key in reply.json["partialSuccess"]):
            yield f"{attack.name}: {reply}"
    elif reply.status >= 400 and door.form not in PROTOBUFS:
        told = reply.json.get("message" if door.form in JSONS else "error")
        if not isinstance(told, str) or not told:
            yield f"{attack.name}: {reply}"


def assault(daemon: Daemon, client: Client, door: Door, found: list[Attack]) -> None:
    """Send everything, and look at the daemon."""
    before = pids(daemon)
    faults = [fault for attack in found for fault in wrong(client, door, attack)]
    assert not faults, "\n".join(faults)
    assert pids(daemon) == before
    metrics = client.metrics()
    assert metrics["arc_bytes_buffered"] <= metrics["arc_memory_limit_bytes"]


@BY_DOOR
def test_no_body_does_harm(daemon: Daemon, client: Client, name: str) -> None:
    door = DOORS[name]
    assault(daemon, client, door, attacks(door.form))


@BY_DOOR
def test_no_compression_does_harm(daemon: Daemon, client: Client, name: str) -> None:
    door = DOORS[name]
    good = spell(door.form, "m", "v", 1)
    assault(daemon, client, door, list(compressed(good, MAX_DECOMPRESSED_BYTES)))


# --- names -------------------------------------------------------------------------------------

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
NAMES = [
    *("../up", "../../etc/passwd", "/etc/passwd", "..", ".", "a/../../../b", "..\\up", ".arc"),
    *("CON", "NUL.", "aux", "con.txt", "lpt1", "COM1", "NUL", "C:", "a ", "a.", " "),
    *("Foo", "foo", COMPOSED, DECOMPOSED, "straße", "STRASSE", "_delta_log", "x.parquet"),
    *("$HOME", "`id`", "%2e%2e%2f", "a" * 128, "中" * 40, "\u202ea", "\ufeffa"),
]
BAD_NAMES = ["a\0b", "\0", "a\x1b[31m", "a\x7f", "m" * 129, "m" * 100_000]


@pytest.mark.parametrize("name", NAMED)
def test_every_measurement_keeps_a_folder_of_its_own(
    daemon: Daemon, client: Client, name: str
) -> None:
    door, database = DOORS[name], "names-" + name.replace(" ", "-")
    for number, measurement in enumerate(NAMES):
        reply = send(
            client, door, spell(door.form, measurement, "n", number), database, measurement
        )
        assert reply.status in TAKEN, (measurement, reply)
    client.wait_until_stored()
    folders = [path.name for path in (daemon.where.root / database).iterdir()]
    same = {unicodedata.normalize("NFC", folder).casefold() for folder in folders}
    assert len(same) == len(folders) == len(NAMES)
    for number, measurement in enumerate(NAMES):
        assert files.columns(daemon.where.root, measurement, database)["n"] == [number]


@pytest.mark.parametrize("name", NAMED)
def test_a_measurement_that_no_folder_can_have_is_refused(client: Client, name: str) -> None:
    door = DOORS[name]
    for measurement in BAD_NAMES:
        if door.form == ARROW and len(measurement) > 10_000:
            continue  # its head would be over the limit of heads
        reply = send(client, door, spell(door.form, measurement, "n", 1), measurement=measurement)
        assert reply.status == 400, (measurement[:20], reply)


@BY_DOOR
def test_every_column_keeps_its_name(daemon: Daemon, client: Client, name: str) -> None:
    door, database = DOORS[name], "columns-" + name.replace(" ", "-")
    by_case = {column.casefold(): column for column in NAMES}
    columns = [column for column in by_case.values() if len(column.encode()) < 200]
    for number, column in enumerate(columns):
        reply = send(client, door, spell(door.form, "m", column, number), database)
        assert reply.status in TAKEN, (column, reply)
    client.wait_until_stored()
    found = files.columns(daemon.where.root, TABLES.get(door.form, "m"), database)
    prefix = "" if door.has_names else "attributes."
    for number, column in enumerate(columns):
        present = [value for value in found[prefix + column] if value is not None]
        assert present == [number], column


@BY_DOOR
def test_a_column_named_with_a_nul_does_not_stop_its_table(
    daemon: Daemon, client: Client, name: str
) -> None:
    door, database = DOORS[name], "nul-" + name.replace(" ", "-")
    reply = send(client, door, spell(door.form, "m", "a\0b", 1), database)
    assert reply.status in (*TAKEN, 400), reply
    assert send(client, door, spell(door.form, "m", "n", 1), database).status in TAKEN
    client.wait_until_stored()
    if door.has_names:  # a table whose integers turn into floats is read back by its writer
        client.write(columnar("m", time=[NOW_US], n=[1.5]), database)
        client.wait_until_stored()
        assert sorted(files.columns(daemon.where.root, "m", database)["n"], key=str)[:2] == [
            1.0,
            1.5,
        ]


def test_no_database_leads_out_of_the_data_directory(client: Client) -> None:
    for door in DOORS.values():
        # What follows the slash in a bucket is a retention policy of InfluxDB 1.
        names = ("../x", "..", "%2e%2e", ".arc", "a" * 65, "CON.")
        for database in names if door.database_key == "bucket" else (*names, "a/b", "/a"):
            body = spell(door.form, "m", "v", 1)
            assert send(client, door, body, database).status == 400, (door, database)


# --- all of it ---------------------------------------------------------------------------------


def outside(root: Path) -> list[Path]:
    """Whatever lies beside the data directory, or leads out of it."""
    beside = [path for path in root.parent.iterdir() if path != root]
    return beside + [path for path in root.rglob("*") if path.is_symlink()]


def test_after_all_of_this_the_daemon_is_as_it_was(
    daemon: Daemon, client: Client, beside: Beside
) -> None:
    beside.stop()
    assert beside.troubles == []
    client.wait_until_stored()
    assert client.metrics()["arc_bytes_in_flight"] == 0
    stored = files.columns(daemon.where.root, "beside", "beside")["n"]
    assert stored == beside.acknowledged
    assert len(stored) > 0
    rows = client.metrics().rows()
    assert rows["accepted"] == rows["stored"]
    assert outside(daemon.where.root) == []
    assert [line for line in daemon.log.splitlines() if '"level":"error"' in line] == []
