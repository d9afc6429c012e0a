"""Records of `logging` as rows: what is in them, and that the program never feels the handler."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import Any

import pytest

from arc.client import Client
from arc.client.errors import ClosedError, UsageError
from arc.client.handler import FIELDS, TAGS, ArcHandler
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.testing.batches import column_values
from ingest.timestamps import TimeUnit
from tests.support.scripted_server import ScriptedServer


class Recorder:
    """Stands in for a client: keeps the calls, and fails when told to."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self.tags: set[str] = set()
        self.fields: list[str] = []
        self.flushes: list[float | None] = []
        self.error: Exception | None = None

    def log(self, measurement: str, /, **values: Any) -> None:
        if self.error is not None:
            raise self.error
        self.rows.append((measurement, values))

    def declare(
        self, measurement: str, *, tags: Iterable[str] = (), fields: Iterable[str] = ()
    ) -> None:
        self.tags |= set(tags)
        new = [name for name in fields if name not in self.fields]
        if both := self.tags & set(new):
            raise UsageError(f"{both} are tags and fields")
        self.fields += new

    def flush(self, timeout: float | None = None) -> bool:
        self.flushes.append(timeout)
        if self.error is not None:
            raise self.error
        return True

    @property
    def last(self) -> dict[str, Any]:
        return self.rows[-1][1]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of this test alone, with no parent."""
    made = logging.Logger("of.this.test", logging.DEBUG)
    yield made
    for handler in made.handlers:
        handler.close()


def handle(logger: logging.Logger, client: Any, **arguments: Any) -> ArcHandler:
    handler = ArcHandler(client, **arguments)
    logger.addHandler(handler)
    return handler


def test_a_record_is_one_row_of_tags_and_fields(logger: logging.Logger, recorder: Recorder) -> None:
    handle(logger, recorder, tags={"host": "a"})
    logger.warning("%d of %s", 3, "them")
    measurement, row = recorder.rows[0]
    assert measurement == "logs"
    assert isinstance(row.pop("time"), int)
    assert isinstance(row.pop("line"), int)
    assert isinstance(row.pop("process"), int)
    assert row == {
        "level": "WARNING",
        "logger": logger.name,
        "host": "a",
        "message": "3 of them",
        "module": "test_handler",
        "function": "test_a_record_is_one_row_of_tags_and_fields",
        "thread": threading.current_thread().name,
    }
    assert recorder.tags == {*TAGS, "host"}
    assert recorder.fields == list(FIELDS)


def test_the_message_is_formatted_before_its_arguments_change(
    logger: logging.Logger, recorder: Recorder
) -> None:
    handle(logger, recorder, measurement="app")
    changing = [1]
    logger.info("have %s", changing)
    changing.append(2)
    assert recorder.rows[0][0] == "app"
    assert recorder.last["message"] == "have [1]"


@pytest.mark.parametrize(
    ("created_s", "time"),
    [
        (1_700_000_000.123456, 1_700_000_000_123_456_000),
        (1_763_625_600.999999, 1_763_625_600_999_999_000),
        (4_102_444_800.000001, 4_102_444_800_000_001_000),
        (10_000_000.0, 10_000_000_000_000_000),
        (9_999_999.999999, datetime(1970, 4, 26, 17, 46, 39, 999999, tzinfo=UTC)),
        (0.000001, datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        (-1.5, datetime(1969, 12, 31, 23, 59, 58, 500000, tzinfo=UTC)),
    ],
)
def test_the_time_is_the_records_own_to_the_microsecond(
    recorder: Recorder, created_s: float, time: int | datetime
) -> None:
    record = logging.makeLogRecord({"name": "a", "msg": "b", "created": created_s})
    ArcHandler(recorder).handle(record)
    assert recorder.last["time"] == time


def test_an_exception_is_its_traceback_as_text(logger: logging.Logger, recorder: Recorder) -> None:
    handle(logger, recorder)
    try:
        raise KeyError("gone")
    except KeyError:
        logger.exception("failed")
    assert recorder.last["exception"].startswith("Traceback (most recent call last):")
    assert recorder.last["exception"].endswith("KeyError: 'gone'")
    logger.error("no exception under way", exc_info=True)
    assert recorder.last["exception"] is None
    logger.error("nothing asked for")
    assert "exception" not in recorder.last


def test_an_exception_that_another_process_wrote_down_is_kept(recorder: Recorder) -> None:
    record = logging.makeLogRecord({"name": "a", "msg": "b", "exc_text": "Traceback of theirs"})
    ArcHandler(recorder).handle(record)
    assert recorder.last["exception"] == "Traceback of theirs"


def test_a_stack_is_text_when_it_is_asked_for(logger: logging.Logger, recorder: Recorder) -> None:
    handle(logger, recorder)
    logger.info("here", stack_info=True)
    assert recorder.last["stack"].startswith("Stack (most recent call last):")
    logger.info("here")
    assert "stack" not in recorder.last


def test_the_formatter_of_the_handler_writes_tracebacks(
    logger: logging.Logger, recorder: Recorder
) -> None:
    class Short(logging.Formatter):
        def formatException(self, ei: Any) -> str:  # noqa: N802 # the name is that of logging
            return f"{ei[0].__name__}!"

    handle(logger, recorder).setFormatter(Short("%(message)s"))
    try:
        raise KeyError("gone")
    except KeyError:
        logger.exception("failed")
    assert recorder.last["exception"] == "KeyError!"


class Plain(str, Enum):  # noqa: UP042 # what programs have; its str() is not its value
    A = "a"


class Number(IntEnum):
    ONE = 1


class Real(float):
    pass


def test_extra_attributes_are_fields_of_their_own_types(
    logger: logging.Logger, recorder: Recorder
) -> None:
    handle(logger, recorder)
    extra = {"user": "x", "count": 3, "share": 0.5, "ok": True, "kind": Plain.A, "n": Number.ONE}
    extra |= {"real": Real(1.5), "least": -(2**63)}
    unusable: dict[str, Any] = {
        "nothing": None,
        "list": [1],
        "map": {},
        "when": datetime.now(UTC),
        "big": 2**63,
    }
    logger.info("with", extra=extra | unusable)
    wanted = extra | {"kind": "a", "n": 1, "real": 1.5}
    found = {name: recorder.last[name] for name in recorder.last if name in extra | unusable}
    assert found == wanted
    assert {type(value) for value in found.values()} == {str, int, float, bool}
    assert type(found["ok"]) is bool
    assert set(recorder.fields) == {*FIELDS, *extra}
    assert recorder.tags == set(TAGS)


def test_an_extra_attribute_that_the_program_declared_as_a_tag_stays_one(
    logger: logging.Logger, recorder: Recorder
) -> None:
    recorder.declare("logs", tags=["customer"])
    handle(logger, recorder)
    logger.info("with", extra={"customer": "x", "order": "y"})
    assert recorder.last["customer"] == "x"
    assert "customer" not in recorder.fields
    assert "order" in recorder.fields


def test_only_chosen_extra_attributes_are_kept(logger: logging.Logger, recorder: Recorder) -> None:
    handle(logger, recorder, extra=["user", "processName", "absent"])
    logger.info("with", extra={"user": "x", "secret": "y"})
    assert recorder.last["user"] == "x"
    assert recorder.last["processName"] == "MainProcess"
    assert not {"secret", "absent"} & recorder.last.keys()


@pytest.mark.parametrize(
    "name", ["level", "logger", "function", "line", "exception", "stack", "time", "Level", "host"]
)
def test_an_extra_attribute_whose_name_is_taken_gets_a_prefix(
    logger: logging.Logger, recorder: Recorder, name: str
) -> None:
    handle(logger, recorder, tags={"Host": "a"})
    logger.info("with", extra={name: "mine", f"extra_{name}": "other"})
    values = {
        column: value for column, value in recorder.last.items() if value in ("mine", "other")
    }
    assert sorted(values.values()) == ["mine", "other"]
    assert set(values) == {f"extra_{name}", f"extra_extra_{name}"}
    assert recorder.last["level"] == "INFO"
    assert recorder.last["Host"] == "a"


@pytest.mark.parametrize("name", ["", "a\0b", "ä" * 128, "\ud800"])
def test_a_name_that_no_column_can_have_is_left_out(
    logger: logging.Logger, recorder: Recorder, name: str
) -> None:
    handle(logger, recorder)
    logger.info("with", extra={name: 1, "good": 2})
    assert name not in recorder.last
    assert name not in recorder.fields
    assert recorder.last["good"] == 2


def test_what_a_formatter_left_on_the_record_is_no_extra(
    logger: logging.Logger, recorder: Recorder, tmp_path: Any
) -> None:
    first = logging.FileHandler(tmp_path / "log")
    first.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(first)
    handle(logger, recorder)
    logger.info("twice")
    assert recorder.fields == list(FIELDS)
    assert not {"asctime", "extra_message", "taskName", "msg"} & recorder.last.keys()


def test_text_that_is_no_utf_8_is_escaped(logger: logging.Logger, recorder: Recorder) -> None:
    handle(logger, recorder)
    logger.info("caf\u00e9 \udcff", extra={"path": "\udc80x"})
    assert recorder.last["message"] == "caf\u00e9 \\udcff"
    assert recorder.last["path"] == "\\udc80x"


def test_records_of_the_client_itself_are_left_alone(recorder: Recorder) -> None:
    handler = ArcHandler(recorder)
    for name in ("arc.client", "arc.client.sender"):
        assert not handler.handle(logging.makeLogRecord({"name": name, "msg": "retrying"}))
    assert recorder.rows == []
    assert handler.handle(logging.makeLogRecord({"name": "arc.clients", "msg": "no relation"}))
    assert len(recorder.rows) == 1


def test_the_clients_own_records_do_not_wait_for_a_flush(recorder: Recorder) -> None:
    handler = ArcHandler(recorder)
    own = logging.makeLogRecord({"name": "arc.client", "msg": "unreachable"})
    handler.acquire()  # as logging.shutdown does
    try:
        thread = threading.Thread(target=handler.handle, args=(own,))
        thread.start()
        thread.join(30.0)
        assert not thread.is_alive()
    finally:
        handler.release()


def test_levels_and_filters_are_those_of_logging(
    logger: logging.Logger, recorder: Recorder
) -> None:
    handler = handle(logger, recorder, level=logging.WARNING)
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    logger.info("too low")
    logger.error("a secret")
    logger.error("kept")
    assert [row["message"] for _, row in recorder.rows] == ["kept"]


@pytest.mark.parametrize("error", [ClosedError(), RuntimeError("any")])
def test_no_error_reaches_the_program(
    logger: logging.Logger,
    recorder: Recorder,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    handle(logger, recorder)
    recorder.error = error
    logger.info("lost")
    assert "--- Logging error ---" in capsys.readouterr().err
    recorder.error = None
    logger.info("%d", "no number")
    assert "TypeError" in capsys.readouterr().err
    logger.info("found")
    assert [row["message"] for _, row in recorder.rows] == ["found"]


def test_errors_are_not_printed_where_logging_is_told_to_be_silent(
    logger: logging.Logger,
    recorder: Recorder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handle(logger, recorder).flush()
    recorder.error = ClosedError()
    logger.info("lost")
    assert capsys.readouterr().err == ""


def test_flush_and_close_wait_for_the_client_and_raise_nothing(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = ArcHandler(recorder)
    handler.close()
    assert recorder.flushes == []
    handler.handle(logging.makeLogRecord({"name": "a", "msg": "b"}))
    handler.flush()
    handler.close()
    assert len(recorder.flushes) == 1
    assert recorder.flushes[0] is not None
    handler.handle(logging.makeLogRecord({"name": "a", "msg": "b"}))
    recorder.error = RuntimeError("refused")
    handler.close()
    assert len(recorder.flushes) == 2
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["level", "time", "Message", "stack"])
def test_a_constant_tag_cannot_have_the_name_of_a_column(recorder: Recorder, name: str) -> None:
    with pytest.raises(UsageError, match=repr(name)):
        ArcHandler(recorder, tags={name: "x"})


def test_with_a_real_client_the_rows_arrive_as_they_were_declared(logger: logging.Logger) -> None:
    with ScriptedServer() as server, Client(server.url, compress="never") as client:
        handler = handle(logger, client, tags={"host": "a"})
        logger.info("first", extra={"user": "x", "count": 3})
        try:
            raise KeyError("gone")
        except KeyError:
            logger.exception("second")
        handler.flush()
        columns, tags = _columns(request.body for request in server.wait_for(1))
    assert columns["message"] == ["first", "second"]
    assert columns["level"] == ["INFO", "ERROR"]
    assert columns["host"] == ["a", "a"]
    assert columns["user"] == ["x", None]
    assert columns["count"] == [3, None]
    assert columns["exception"][0] is None
    assert columns["exception"][1].endswith("KeyError: 'gone'")
    assert tags == {"level", "logger", "host"}


def _columns(bodies: Iterable[bytes]) -> tuple[dict[str, list[Any]], set[str]]:
    """What was sent, by the daemon's own decoder: values by column, and the tags."""
    columns: dict[str, list[Any]] = {}
    tags: set[str] = set()
    num_rows = 0
    for batch in (batch for body in bodies for batch in decode(body, 0, Limits(), TimeUnit.NS)):
        for name in {*columns, *batch.columns}:
            before = columns.setdefault(name, [None] * num_rows)
            found = batch.columns.get(name)
            before += [None] * batch.num_rows if found is None else column_values(found)
        tags |= set(batch.tags)
        num_rows += batch.num_rows
    return columns, tags
