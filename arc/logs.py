"""Events of the daemon, one line each, on standard error.

Every process of the daemon calls `configure` once and logs by the logger that it returns:
`log.info("flush_done", rows=..., seconds=...)`. The event is a fixed word, everything that
varies is a field. What libraries log by the standard library comes out in the same form. A
client's fault is told without a traceback. Nothing here decides what is worth an event.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

#: aiohttp reports requests that are not HTTP here, with a traceback for each.
_HTTP_LOGGER = "aiohttp.server"


def configure(
    level: str, log_format: str = "auto", stream: TextIO | None = None, **fields: Any
) -> FilteringBoundLogger:
    """Set up logging for this process.

    Args:
        level: "debug", "info", "warning" or "error"; events below cost one call.
        log_format: "json", "console", or "auto": console on a terminal, else JSON.
        stream: Instead of standard error.
        fields: On every line, such as the shard.

    Returns:
        The logger to bind and hand on; `structlog.get_logger()` gives the same.
    """
    stream = sys.stderr if stream is None else stream
    for_people = log_format == "console" or (log_format == "auto" and stream.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[_Fields(fields), *(_console(stream) if for_people else _json())],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Unfailing(stream))),
        cache_logger_on_first_use=True,
    )
    log: FilteringBoundLogger = structlog.get_logger()
    _adopt_standard_logging(log, number)
    return log


class _Fields:
    """Puts the fields of the process on every event, whichever logger it came through."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**self._fields, **event}


class _Unfailing:
    """A stream whose disk may be full or whose reader may be gone: what it refuses is dropped.

    What is told about a failed flush must not fail it again, for good.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or drop."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, or drop."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _json() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _to_json,
    ]


def _console(stream: TextIO) -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _to_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    line = {**{key: event.pop(key) for key in ("timestamp", "level", "event")}, **event}
    try:
        return msgspec.json.encode(line, enc_hook=_plain).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, as file names may hold
        return json.dumps(line, default=_plain)


def _plain(value: object) -> object:
    """A NumPy number as Python's; anything else that JSON lacks, such as a path, as text."""
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)


def _adopt_standard_logging(log: FilteringBoundLogger, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Handler(log)]
    # Libraries say at "info" what is of use to their own developers.
    root.setLevel(max(level, logging.WARNING))


class _Handler(logging.Handler):
    """Passes records of the standard library on."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; never raises."""
        try:
            self._pass_on(record)
        except Exception:  # as logging.Handler wants it: logging must not end the program
            self.handleError(record)

    def _pass_on(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if record.name == _HTTP_LOGGER and _is_clients_fault(error):
            self._log.info("bad_http_request", error=str(error))
            return
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        if error is not None:
            fields["exc_info"] = error
        self._log.log(record.levelno, "library_message", **fields)


def _is_clients_fault(error: BaseException | None) -> bool:
    """Whether it is an error of aiohttp's HTTP parser, which carry the status to answer."""
    code = getattr(error, "code", None)
    return isinstance(code, int) and 400 <= code < 500
