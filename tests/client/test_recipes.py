"""Every program of docs/client.md is run as it stands, and what it promises is read back.

The blocks of one section make one program, run in a folder, a process and a database of its own;
the address of the daemon comes from the environment, as the page says. All run at the same time.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import psutil
import pytest

from arc.client.settings import ENV_PREFIX, SHORT_NAMES, Settings
from arc.client.stats import Stats
from tests.e2e.client import Client
from tests.support import read_back
from tests.support.daemon import Daemon, serving
from tests.support.read_back import Values, booleans, floats, integers, texts, times
from tests.support.running import ROOT, clean_environment

pytestmark = pytest.mark.e2e

PAGE = ROOT / "docs" / "client.md"
KILLED = "A device with a bad connection"

#: A minute of 2026 that the programs use: 1 790 000 000 s.
NOW_US = 1_790_000_000_000_000
TWO_PM_US = 1_789_999_200_000_000  # 2026-09-21T14:00Z


def programs() -> dict[str, str]:
    """Text of each program by the heading that it stands under."""
    found: dict[str, str] = {}
    for section in re.split(r"^#+ (?=\S)", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if blocks := re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found[heading] = "\n".join(blocks)
    return found


class Ran(NamedTuple):
    """What became of the programs.

    Attributes:
        daemon: That they wrote to.
        databases: By heading.
    """

    daemon: Daemon
    databases: dict[str, str]

    def stored(self, heading: str, measurement: str) -> dict[str, Values]:
        """Every column of a measurement."""
        return read_back.columns(self.daemon.where.root, measurement, self.databases[heading])

    def tags(self, heading: str, measurement: str) -> set[str]:
        """Its tags."""
        return read_back.tags(self.daemon.where.root, measurement, self.databases[heading])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """All programs, run; each must end well."""
    folder = tmp_path_factory.mktemp("recipes")
    found = programs()
    databases = {heading: f"db{number}" for number, heading in enumerate(found)}
    with serving(folder / "data", "--workers", "1", "--flush-age-s", "0.05") as daemon:

        def run_one(heading: str) -> None:
            own = folder / databases[heading]
            own.mkdir()
            (own / "program.py").write_text(found[heading])
            environment = {"ARC_URL": daemon.url, "ARC_DATABASE": databases[heading]}
            if heading == KILLED:
                run(heading, own, environment, -signal.SIGKILL)
            run(heading, own, environment)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(run_one, found))
        with Client(daemon.port) as client:
            client.wait_until_stored()
        yield Ran(daemon, databases)


def run(heading: str, folder: Path, environment: dict[str, str], status: int = 0) -> None:
    """Run a program in its folder; warnings end it, as they do here."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=folder,
        env=clean_environment() | environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == status, f"{heading}:\n{done.stdout}{done.stderr}"


# ------------------------------------------------------------------------------------ the guide


def first_row(ran: Ran, heading: str) -> None:
    cpu = ran.stored(heading, "cpu")
    assert cpu["host"] == texts("a")
    assert (cpu["usage"], cpu["cores"]) == (floats(12.5), integers(8))
    assert ran.tags(heading, "cpu") == {"host", "region"}


def one_row(ran: Ran, heading: str) -> None:
    door = ran.stored(heading, "door")
    assert door["open"] == booleans(True, False) or door["open"] == booleans(False, True)
    assert NOW_US in door["time"][1]
    assert ran.tags(heading, "door") == {"site", "opened_at"}


def declared(ran: Ran, heading: str) -> None:
    door = ran.stored(heading, "door")
    assert (door["floor"], door["note"]) == (texts("3"), texts("held open for a delivery"))
    assert ran.tags(heading, "door") == {"site", "floor"}


def series(ran: Ran, heading: str) -> None:
    cpu = ran.stored(heading, "cpu")
    assert sorted(zip(cpu["user"][1], cpu["system"][1], strict=True)) == [
        (1.5, 0.2), (2.5, 0.4), (3.5, 0.6), (4.5, 0.8), (5.5, 1.0),
    ]  # fmt: skip
    assert cpu["host"] == texts(*"aaaaa")
    assert dict(zip(cpu["user"][1], cpu["time"][1], strict=True))[3.5] == NOW_US


def columns(ran: Ran, heading: str) -> None:
    weather = ran.stored(heading, "weather")
    assert weather["time"] == times(*range(NOW_US, NOW_US + 60_000_000, 1_000_000))
    assert weather["station"] == texts(*["north", "south"] * 30)
    assert weather["degrees"] == floats(*np.linspace(20.0, 21.0, 60, dtype=np.float32).tolist())
    assert ran.tags(heading, "weather") == {"station"}


def frames(ran: Ran, heading: str) -> None:
    assert ran.stored(heading, "cpu") == {
        "time": times(*range(TWO_PM_US, TWO_PM_US + 180_000_000, 60_000_000)),
        "host": texts("a", "b", "a"),
        "usage": floats(1.5, None, 2.5),
        "note": texts("ok", None, "high"),
    }
    assert ran.tags(heading, "cpu") == {"host"}


def records(ran: Ran, heading: str) -> None:
    assert ran.stored(heading, "cpu") == {
        "time": times(NOW_US, NOW_US + 1_000_000, NOW_US + 2_000_000),
        "host": texts("a", "b", "b"),
        "usage": floats(12.5, 1.0, 2.0),
    }
    assert ran.stored(heading, "mem") == {
        "time": times(NOW_US),
        "host": texts("a"),
        "free": integers(4096),
        "state": texts("low"),
    }
    assert ran.tags(heading, "cpu") == ran.tags(heading, "mem") == {"host"}


def line_protocol(ran: Ran, heading: str) -> None:
    assert ran.stored(heading, "cpu") == {
        "time": times(NOW_US),
        "host": texts("a"),
        "usage": floats(12.5),
        "cores": integers(8),
    }
    assert ran.stored(heading, "log")["text"] == texts("first\nsecond")


def buffered(ran: Ran, heading: str) -> None:
    cpu = ran.stored(heading, "cpu")
    assert sorted(cpu["usage"][1]) == [n / 25 for n in range(2_500)]
    assert ran.tags(heading, "cpu") == {"host"}
    assert sorted(ran.stored(heading, "mem")["free"][1]) == [1, 2, 3]


def in_asyncio(ran: Ran, heading: str) -> None:
    assert ran.stored(heading, "cpu")["usage"] == floats(12.5)
    mem = ran.stored(heading, "mem")
    assert (mem["free"], mem["host"]) == (integers(1, 2), texts("a", "a"))


def logging_(ran: Ran, heading: str) -> None:
    logs = ran.stored(heading, "logs")
    assert logs["message"] == texts("order 42 placed")
    assert (logs["level"], logs["amount"]) == (texts("INFO"), floats(9.5))
    assert ran.tags(heading, "logs") == {"level", "logger", "service"}


def refused(ran: Ran, heading: str) -> None:
    assert sorted(ran.stored(heading, "cpu")["usage"][1]) == [1.5, 2.5]


# ------------------------------------------------------------------------------------ recipes


def host_metrics(ran: Ran, heading: str) -> None:
    memory, network = ran.stored(heading, "memory"), ran.stored(heading, "network")
    assert memory["host"] == texts(*[socket.gethostname()] * 3)
    assert all(0 < percent <= 100 for percent in memory["percent"][1])
    assert set(network["device"][1]) == set(psutil.net_io_counters(pernic=True))
    assert network["received"][0] == "int64"
    assert ran.tags(heading, "network") == {"host", "device"}


def with_pandas(ran: Ran, heading: str) -> None:
    assert ran.stored(heading, "sales") == {
        "time": times(TWO_PM_US, TWO_PM_US + 300_000_000),
        "shop": texts("berlin", "paris"),
        "amount": floats(19.9, None),
        "items": integers(2, 1),
    }
    assert ran.tags(heading, "sales") == {"shop"}


def with_polars(ran: Ran, heading: str) -> None:
    sensors = ran.stored(heading, "sensors")
    columns = (sensors[name][1] for name in ("time", "sensor", "value"))
    assert {(at, name): mean for at, name, mean in zip(*columns, strict=True)} == {
        (TWO_PM_US + ten * 10_000_000, name): ten * 20 + 9.0 + odd
        for ten in range(50)
        for odd, name in enumerate(("even", "odd"))
    }


def service(ran: Ran, heading: str) -> None:
    status = ran.stored(heading, "requests")["status"]
    assert sorted(status[1]) == ["200"] * 180 + ["500"] * 20
    assert ran.tags(heading, "requests") == {"path", "status"}


def program_log(ran: Ran, heading: str) -> None:
    rows = ran.stored(heading, "app_log")
    assert rows["message"] == texts("retry 2 of invoice-7", "job failed")
    assert rows["level"] == texts("WARNING", "ERROR")
    assert rows["service"] == texts("billing", "billing")
    assert rows["attempt"] == integers(2, None)
    assert rows["exception"][1][0] is None
    assert "ZeroDivisionError" in rows["exception"][1][1]


def forked(ran: Ran, heading: str) -> None:
    jobs = ran.stored(heading, "jobs")
    found = sorted(zip(jobs["worker"][1], jobs["number"][1], strict=True))
    assert found == [(f"w{worker}", number) for worker in range(3) for number in range(10)]


def device(ran: Ran, heading: str) -> None:
    pressure = ran.stored(heading, "pressure")
    assert sorted(pressure["bar"][1]) == [2.0 + number / 1_000 for number in range(1_000)]
    assert ran.tags(heading, "pressure") == {"pump"}


def samples(ran: Ran, heading: str) -> None:
    vibration = ran.stored(heading, "vibration")
    assert set(np.diff(vibration["time"][1])) == {10}
    rng = np.random.default_rng(7)
    drawn = [rng.normal(size=(10_000, 3)).astype(np.float32) for _ in range(5)]
    for at, axis in enumerate("xyz"):
        assert vibration[axis] == floats(*np.concatenate(drawn)[:, at].tolist())
    assert ran.tags(heading, "vibration") == {"sensor"}


def line_file(ran: Ran, heading: str) -> None:
    cpu = ran.stored(heading, "cpu")
    assert cpu["time"] == times(*range(NOW_US, NOW_US + 20_000_000, 1_000))
    assert cpu["usage"] == floats(*map(float, range(20_000)))
    assert cpu["host"] == texts(*(f"h{n % 10}" for n in range(20_000)))


def migrated(ran: Ran, heading: str) -> None:
    for measurement, time_us in zip("abcdef", [NOW_US, NOW_US, TWO_PM_US] * 2, strict=True):
        time_us = {"d": NOW_US, "e": TWO_PM_US}.get(measurement, time_us)
        assert ran.stored(heading, measurement) == {
            "time": times(time_us),
            "host": texts("h"),
            "usage": floats(1.5),
        }


CHECKS: dict[str, Callable[[Ran, str], None]] = {
    "The producer client": first_row,
    "One row": one_row,
    "Text that is no tag": declared,
    "One series": series,
    "Columns": columns,
    "Data frames": frames,
    "Records": records,
    "Line protocol": line_protocol,
    "Buffered writing": buffered,
    "Asyncio": in_asyncio,
    "Logging": logging_,
    "Refused rows": refused,
    "Counters of this machine": host_metrics,
    "pandas": with_pandas,
    "Polars": with_polars,
    "An asyncio service": service,
    "The log of a program": program_log,
    "Workers that are forked": forked,
    KILLED: device,
    "A NumPy array of samples at 100 kHz": samples,
    "A file of line protocol": line_file,
    "From other clients": migrated,
}


@pytest.mark.parametrize("heading", CHECKS)
def test_a_program_of_the_page_stores_what_it_says(ran: Ran, heading: str) -> None:
    CHECKS[heading](ran, heading)


def test_every_program_of_the_page_is_checked() -> None:
    assert list(programs()) == list(CHECKS)


# ------------------------------------------------------------------------------------ the tables


def cells() -> dict[str, list[str]]:
    """Rows of the tables of the page, by each name in backticks of their first cell."""
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if "|" in line]
    stripped = [[cell.strip() for cell in row] for row in rows]
    return {name: row for row in stripped for name in re.findall(r"`(\w+)`", row[0])}


def test_every_setting_is_described_with_its_names_default_and_reason() -> None:
    rows = cells()
    for setting in msgspec.structs.fields(Settings):
        name, environment, default, unit, reason = rows[setting.name]
        assert name == f"`{setting.name}`"
        wanted = SHORT_NAMES.get(setting.name, ENV_PREFIX + setting.name.upper())
        assert environment == f"`{wanted}`"
        value = setting.default
        if isinstance(value, bool):
            value = str(value).lower()
        shown = (
            "none" if value is None else f"`{value:g}`" if type(value) is float else f"`{value}`"
        )
        assert default == shown
        assert unit
        assert reason


def test_every_count_is_described() -> None:
    assert set(Stats.__struct_fields__) <= cells().keys()
