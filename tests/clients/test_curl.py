"""docs/clients/curl.md, run as it is written, against a daemon; and what that stored."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.clients.conftest import Reader
from tests.support.daemon import Daemon
from tests.support.read_back import floats, integers, texts, times

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on PATH"),
]

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "clients" / "curl.md"

#: A heading of the page, and the first block of commands below it.
EXAMPLE = re.compile(r"^## (.+?)$.*?^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

AT_US = 1_790_000_000_000_000


def example(heading: str, daemon: Daemon, where: Path) -> str:
    """Run the commands below a heading; what they print."""
    found = dict(EXAMPLE.findall(PAGE.read_text()))
    commands = found[heading].replace("http://127.0.0.1:8000", daemon.url)
    assert daemon.url in commands
    ran = subprocess.run(
        ["bash", "-eu", "-c", commands], cwd=where, capture_output=True, text=True, timeout=50
    )
    assert ran.returncode == 0, ran
    return ran.stdout


def test_every_example_of_the_page_is_run_here() -> None:
    known = {
        "Line protocol",
        "Line protocol in a file",
        "MessagePack",
        "OTLP as JSON",
        "What a refusal looks like",
        "A write that may be sent twice",
        "What is stored",
    }
    assert {heading for heading, _ in EXAMPLE.findall(PAGE.read_text())} == known


def test_line_protocol(live: Daemon, tmp_path: Path, stored: Reader) -> None:
    assert "204" in example("Line protocol", live, tmp_path)
    assert stored("curl_cpu", "curl") == {
        "time": times(AT_US),
        "host": texts("a"),
        "usage": floats(12.5),
        "cores": integers(4),
    }


def test_line_protocol_in_a_file(live: Daemon, tmp_path: Path, stored: Reader) -> None:
    lines = "curl_file,host=a x=1i 1790000000\ncurl_file,host=b x=2i 1790000001\n"
    (tmp_path / "points.lp").write_text(lines)
    assert "204" in example("Line protocol in a file", live, tmp_path)
    assert stored("curl_file", "curl") == {
        "time": times(AT_US, AT_US + 1_000_000),
        "host": texts("a", "b"),
        "x": integers(1, 2),
    }


def test_messagepack(live: Daemon, tmp_path: Path, stored: Reader) -> None:
    before_us = time.time_ns() // 1_000
    assert "204" in example("MessagePack", live, tmp_path)
    found = stored("curl_pack", "curl")
    assert before_us <= found.pop("time")[1][0] <= time.time_ns() // 1_000
    assert found == {"usage": integers(42)}


def test_otlp_as_json(live: Daemon, tmp_path: Path, stored: Reader) -> None:
    assert "200" in example("OTLP as JSON", live, tmp_path)
    found = stored("otel_logs", "curl")
    assert found["time"] == times(AT_US)
    assert found["body"] == texts("hello")
    assert found["resource.service.name"] == texts("shop")


def test_what_a_refusal_looks_like(live: Daemon, tmp_path: Path) -> None:
    said = example("What a refusal looks like", live, tmp_path)
    assert "400" in said
    assert "line 2" in said


def test_a_write_that_may_be_sent_twice(live: Daemon, tmp_path: Path, stored: Reader) -> None:
    assert example("A write that may be sent twice", live, tmp_path).count("204") == 2
    assert stored("curl_once", "curl")["x"] == floats(1.0)


def test_what_is_stored(live: Daemon, tmp_path: Path, stored: Reader) -> None:
    example("Line protocol", live, tmp_path)
    stored("curl_cpu", "curl")
    assert "curl_cpu" in example("What is stored", live, tmp_path)
