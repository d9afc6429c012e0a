"""What an Arrow IPC stream claims, looked at before any of it is believed. Pure.

In: the bytes of a stream. Out: nothing, or an error. pyarrow checks what it reads, but it makes
room for what a stream declares before it looks: for each buffer the size that it is said to have
without compression, for each column as many buffers as it is said to be made of, for each field
of a schema an object. So each of these is held against the bytes that are there, or a budget,
before pyarrow sees the stream. No value is read here.

Formats: https://arrow.apache.org/docs/format/Columnar.html (serialisation and IPC),
https://github.com/apache/arrow/blob/main/format/Message.fbs and Schema.fbs,
https://flatbuffers.dev/internals/ (tables, vectors, strings).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from ingest.errors import DecodeError, LimitError, PayloadError, TooLargeError
from ingest.limits import Limits

#: Messages of one stream. Each costs some 50 µs here and in pyarrow, and an empty record batch
#: takes no more than 140 bytes.
MAX_MESSAGES = 10_000

#: Names of types, by their number in the union `Type` of Schema.fbs.
_TYPE_NAMES = (
    *("none", "null", "int", "floating point", "binary", "utf8", "bool", "decimal", "date"),
    *("time of day", "timestamp", "interval", "list", "struct", "union", "fixed_size_binary"),
    *("fixed_size_list", "map", "duration", "large_binary", "large_utf8", "large_list"),
    *("run_end_encoded", "binary_view", "utf8_view", "list_view", "large_list_view"),
)
_REFUSED = frozenset(
    (
        *("none", "decimal", "time of day", "interval", "list", "struct", "union", "map"),
        *("fixed_size_list", "duration", "large_list", "run_end_encoded", "list_view"),
        "large_list_view",
    )
)
WANTED_TYPES = (
    "an integer, a float, a boolean, text, binary, a timestamp, a date, or a dictionary of these"
)

_SCHEMA, _DICTIONARY_BATCH, _RECORD_BATCH = 1, 2, 3
_NUM_BUFFERS_OF_VIEW = 2
_MAX_BUFFERS = 3

FEWER_ROWS = "send fewer rows at once"


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message of a stream.

    Attributes:
        at: First byte of the message.
        metadata: First byte of its flatbuffer.
        body: First byte of its body, where its metadata ends.
        end: First byte after its body.
        kind: What its header is, a number of the union `MessageHeader`.
        header: The table of its header, a position in the stream.
    """

    at: int
    metadata: int
    body: int
    end: int
    kind: int
    header: int


def survey(body: bytes, measurement: str, limits: Limits) -> None:
    """Hold what a stream declares against what is there.

    Raises:
        DecodeError: not a stream, cut off, or followed by something else.
        PayloadError: a column of a type that is not taken.
        LimitError: too many columns or messages.
        TooLargeError: too much memory once decompressed.
    """
    fields, count, unpacked_bytes = 0, 0, 0
    for count, message in enumerate(messages(body)):
        if count > MAX_MESSAGES:
            raise LimitError(
                "messages of one Arrow stream", count, MAX_MESSAGES, "send larger ones"
            )
        reader = _Reader(body, message)
        try:
            if message.kind == _SCHEMA and count == 0:
                fields = _check_schema(reader, measurement, limits)
            elif message.kind in (_RECORD_BATCH, _DICTIONARY_BATCH) and count > 0:
                unpacked_bytes += _check_batch(reader, fields, limits)
            else:
                raise DecodeError(f"{_where(message)}: header {message.kind} is out of place")
        except struct.error:
            raise reader.damaged() from None
        if unpacked_bytes > limits.max_decoded_bytes:
            what = "memory of the decompressed buffers of this Arrow stream"
            raise TooLargeError(what, limits.max_decoded_bytes, FEWER_ROWS)
        if count * fields > limits.max_request_columns:
            what = "columns of all record batches of one request"
            raise LimitError(what, count * fields, limits.max_request_columns, "send larger ones")
    if fields == 0:
        raise PayloadError(f"measurement {measurement!r}: the Arrow stream has no columns")


def messages(body: bytes) -> Iterator[Message]:
    """Every message of a stream, once it is known to lie within the body.

    Raises:
        DecodeError: as `survey`.
    """
    at = 0
    while at < len(body):
        try:
            (size,) = struct.unpack_from("<i", body, at)
            start = at + 4
            if size == -1:  # the marker that messages have since format 0.15
                (size,) = struct.unpack_from("<i", body, start)
                start += 4
        except struct.error:
            raise DecodeError(f"Arrow stream: message at byte {at} is cut off") from None
        if size == 0:
            if start != len(body):
                raise DecodeError(
                    f"Arrow stream: {len(body) - start} bytes after its end at byte {start}"
                )
            return
        message = _message(body, at, start, size)
        yield message
        at = message.end


def _message(body: bytes, at: int, start: int, size: int) -> Message:
    """The message whose flatbuffer has `size` bytes from `start`."""
    if size < 0 or size > len(body) - start:
        raise DecodeError(
            f"Arrow stream: message at byte {at} has metadata of {size} bytes, "
            f"but {len(body) - start} are left"
        )
    draft = Message(at, start, start + size, start + size, 0, start)
    reader = _Reader(body, draft)
    try:
        root = reader.follow(start)
        kind, header = reader.number(root, 1, "<B"), reader.table(root, 2)
        body_bytes = reader.number(root, 3, "<q")
    except struct.error:
        raise reader.damaged() from None
    if not 0 <= body_bytes <= len(body) - draft.body:
        raise DecodeError(
            f"Arrow stream: message at byte {at} has a body of {body_bytes} bytes, "
            f"but {len(body) - draft.body} are left"
        )
    return Message(at, start, draft.body, draft.body + body_bytes, kind, header)


def _where(message: Message) -> str:
    return f"Arrow stream: message at byte {message.at}"


class _Reader:
    """Reads the flatbuffer of one message; `struct.error` where it would read outside."""

    def __init__(self, body: bytes, message: Message) -> None:
        self.message = message
        self._data = memoryview(body)[: message.body]
        self._body = memoryview(body)[message.body : message.end]

    def damaged(self) -> DecodeError:
        """What to raise when the metadata cannot be read."""
        return DecodeError(f"{_where(self.message)}: its metadata is damaged")

    def read(self, layout: str, at: int) -> int:
        """One number of the metadata."""
        if at < self.message.metadata:
            raise struct.error
        value: int = struct.unpack_from(layout, self._data, at)[0]
        return value

    def follow(self, at: int) -> int:
        """Where the offset at a position points to."""
        return at + self.read("<I", at)

    def slot(self, table: int, slot: int) -> int | None:
        """Where the value of a slot of a table lies, None when it is absent."""
        vtable = table - self.read("<i", table)
        if 6 + 2 * slot > self.read("<H", vtable):
            return None
        offset = self.read("<H", vtable + 4 + 2 * slot)
        return table + offset if offset else None

    def number(self, table: int, slot: int, layout: str, default: int = 0) -> int:
        """The number in a slot."""
        at = self.slot(table, slot)
        return default if at is None else self.read(layout, at)

    def table(self, table: int, slot: int) -> int:
        """The table or vector that a slot refers to, which must be there."""
        at = self.slot(table, slot)
        if at is None:
            raise struct.error
        return self.follow(at)

    def vector(self, table: int, slot: int, item_bytes: int) -> range:
        """Where the items of a vector lie; none when it is absent."""
        at = self.slot(table, slot)
        if at is None:
            return range(0)
        start = self.follow(at)
        end = start + 4 + self.read("<I", start) * item_bytes
        if end > self.message.body:
            raise struct.error
        return range(start + 4, end, item_bytes)

    def text(self, table: int, slot: int) -> str:
        """The string in a slot, for a message."""
        items = self.vector(table, slot, 1)
        return bytes(self._data[items.start : items.stop]).decode(errors="replace")

    def unpacked_bytes(self, buffer: int) -> int:
        """What a compressed buffer says its size is; checked to lie in the body of the message."""
        offset, size = self.read("<q", buffer), self.read("<q", buffer + 8)
        if size == 0:
            return 0
        if offset < 0 or size < 8 or offset + size > len(self._body):
            raise struct.error
        (declared,) = struct.unpack_from("<q", self._body, offset)
        if declared < -1:
            raise struct.error
        return size - 8 if declared == -1 else int(declared)


def _check_schema(reader: _Reader, measurement: str, limits: Limits) -> int:
    """How many columns a schema has, all of types that are taken."""
    fields = reader.vector(reader.message.header, 1, 4)
    if len(fields) > limits.max_columns:
        what = f"columns of measurement {measurement!r}"
        raise LimitError(what, len(fields), limits.max_columns, "ARC_MAX_COLUMNS")
    for at in fields:
        field = reader.follow(at)
        number = reader.number(field, 2, "<B")
        found = _TYPE_NAMES[number] if number < len(_TYPE_NAMES) else f"type {number}"
        if number >= len(_TYPE_NAMES) or found in _REFUSED or reader.vector(field, 5, 4):
            name = reader.text(field, 0)[:40]
            raise PayloadError(
                f"measurement {measurement!r}: column {name!r}: found Arrow's {found}, "
                f"wanted {WANTED_TYPES}"
            )
    return len(fields)


def _check_batch(reader: _Reader, fields: int, limits: Limits) -> int:
    """Bytes that a record or dictionary batch has once it is decompressed; 0 when it is plain."""
    batch = reader.message.header
    if reader.message.kind == _DICTIONARY_BATCH:
        batch, fields = reader.table(batch, 1), 1
    rows = reader.number(batch, 0, "<q")
    if not 0 <= rows <= limits.max_decoded_bytes // 8:
        what = f"memory of {rows} rows, 8 bytes each,"
        raise TooLargeError(what, limits.max_decoded_bytes, FEWER_ROWS)
    buffers = reader.vector(batch, 2, 16)
    variadic = [reader.read("<q", at) for at in reader.vector(batch, 4, 8)]
    if len(variadic) > fields or min(variadic, default=0) < 0 or sum(variadic) > len(buffers):
        raise DecodeError(
            f"{_where(reader.message)}: {sum(variadic)} buffers of views declared, "
            f"{len(buffers)} buffers listed"
        )
    if reader.slot(batch, 3) is None:
        return 0
    if len(buffers) > _MAX_BUFFERS * fields + sum(variadic):
        raise reader.damaged()
    return sum(reader.unpacked_bytes(at) for at in buffers)
