"""One event, one line, whoever logs it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from arc.logs import configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as pytest has set it up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_with_utc_time_level_and_fields() -> None:
    stream = io.StringIO()
    log = configure("info", "auto", stream, shard=3)
    log.info("flush_done", rows=5, path=Path("/x"), number=np.int64(7), text="a\nb \ud800")
    [line] = lines(stream)
    written = datetime.fromisoformat(line.pop("timestamp"))
    assert written.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - written) < timedelta(minutes=1)
    assert line == {
        "level": "info",
        "event": "flush_done",
        "shard": 3,
        "rows": 5,
        "path": "/x",
        "number": 7,
        "text": "a\nb \ud800",
    }


def test_every_logger_of_the_process_has_its_fields() -> None:
    stream = io.StringIO()
    configure("info", "json", stream, shard=3)
    structlog.get_logger("elsewhere").info("here", shard=4)
    structlog.get_logger().bind(table="cpu").info("there")
    here, there = lines(stream)
    assert here["shard"] == 4
    assert (there["shard"], there["table"]) == (3, "cpu")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_events_below_the_level_are_not_logged(level: str) -> None:
    stream = io.StringIO()
    log = configure(level, "json", stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(name)
    names = [line["event"] for line in lines(stream)]
    assert names == ["debug", "info", "warning", "error"][-len(names) :]
    assert names[0] == level


def test_a_terminal_gets_text_for_people_and_a_pipe_gets_json() -> None:
    terminal, pipe, asked = Terminal(), io.StringIO(), Terminal()
    configure("info", "auto", terminal).info("hello", a=1)
    configure("info", "auto", pipe).info("hello", a=1)
    configure("info", "json", asked).info("hello", a=1)
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert lines(pipe)[0]["a"] == lines(asked)[0]["a"] == 1


def test_a_defect_has_its_traceback_within_the_line() -> None:
    stream = io.StringIO()
    log = configure("info", "json", stream)
    try:
        raise KeyError("gone")
    except KeyError:
        log.exception("flush_broken")
    [line] = lines(stream)
    assert line["level"] == "error"
    assert "KeyError: 'gone'" in line["exception"]


def test_what_libraries_log_has_the_same_form() -> None:
    stream = io.StringIO()
    configure("info", "json", stream, shard=1)
    logging.getLogger("asyncio").info("of no use to operators")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    [line] = lines(stream)
    assert line["event"] == "library_message"
    assert (line["logger"], line["message"], line["shard"]) == ("asyncio", "slow callback", 1)


class BadHttpError(Exception):
    """As aiohttp's parser raises: it carries the status to answer."""

    code = 400


@pytest.mark.parametrize(
    ("error", "is_ours"), [(BadHttpError("junk\nline"), False), (OSError(), True)]
)
def test_a_clients_fault_has_no_traceback(error: Exception, is_ours: bool) -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=error)
    [line] = lines(stream)
    assert ("exception" in line) == is_ours
    assert line["event"] == ("library_message" if is_ours else "bad_http_request")
