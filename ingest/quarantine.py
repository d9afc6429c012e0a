r"""Requests of which some rows fit no table: the good rows, and the bad ones as they came. Pure.

In: a body that was refused, and the schemas of the tables that it is for. Out: batches that the
tables take, and what is left over, each piece with its error and with the bytes that it came in
(`sift_body`); the latter as rows of the table `_quarantine`, and the body that is logged in the
place of the one that came (`rewrite`); and, long after, a kept piece as it is to be sent again
(`as_sent_again`). Nothing is read or stored here.

A piece is a line of line protocol, a map of MessagePack, a row of everything else. Pieces are
decoded many at a time, as they would be in a whole request, and a group that is refused is parted
into eight, each of them again, until one piece is left, which is judged. Groups grow while they
are taken and shrink when they are not: a few bad lines among many good ones cost little more than
none, among nothing but bad ones each is read alone, and none is ever read more than four times.
Groups come first to last, and what one adds to a table counts for the next. In the end the good
pieces are decoded once more as one body, so that the bad ones leave no trace.

An error that concerns the request and not a piece of it (`ingest.errors.TooLargeError`, bytes
that cannot be taken apart) is raised: there is nothing that could be kept of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest import decoders, line_protocol_slow, msgpack_pieces
from ingest.assemble import assemble
from ingest.batch_rows import join_batches, keep_rows
from ingest.columnar_msgpack import encode, encode_rows, encoded_rows_bytes
from ingest.columns import TIME_COLUMN, Column, ColumnBatch, ColumnType
from ingest.decoders import Decoded
from ingest.errors import (
    ClientError,
    CompressionError,
    InvalidNameError,
    LimitError,
    TooLargeError,
)
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.otlp.demote import demote
from ingest.otlp.request import RefusedRecord
from ingest.otlp.schema import is_attribute
from ingest.paths import QUARANTINE, check_measurement
from ingest.schema import cast
from ingest.sift import Demote, RefusedRows, Sieve
from ingest.timestamps import TimeUnit

#: Rows of `_quarantine` that one request may make. It is a place for a few bad rows; a request of
#: more says that its sender is broken, and is refused as a whole.
MAX_REFUSED = 20_000

#: Of an error message, in bytes of UTF-8.
MAX_ERROR_BYTES = 1024

#: Pieces in the largest group. Ten bad lines among 10 000 take 55 ms of processor time with it,
#: 130 with 512; without a bad one it is 21 and 20 (benchmarks/bench_quarantine.py -k bad).
_LARGEST_GROUP = 128

#: Into how many a refused group is parted.
_PARTS = 8

_BAD_REQUEST = 400

_MEASUREMENT_OF_LINE = re.compile(rb"\s*((?:[^\\, \n]|\\.)++)[, ]")
_ESCAPED = re.compile(rb"\\([, ])")

#: What `line_protocol_slow` says at the end of a body of one line, and is not true of the body.
_OF_ONE_LINE = "; 1 of 1 lines is bad; nothing was written"


class Refused(msgspec.Struct, frozen=True):
    """A piece of a request that no table can take.

    Attributes:
        error: Why.
        body: The piece as it came; a row of a larger piece as a columnar MessagePack map.
        format: How `body` is to be decoded.
        time_unit: Of the times in `body`; None: told from their magnitudes.
        measurement: Where it would have gone; None where that is not known.
        line: Number of its line in the request, from 1; None where there are no lines.
        num_rows: How many rows it has, or 1 where they cannot be counted.
        num_alike: How many rows of the same piece were refused with the same error.
    """

    error: ClientError
    body: bytes
    format: Format
    time_unit: TimeUnit | None
    measurement: str | None = None
    line: int | None = None
    num_rows: int = 1
    num_alike: int = 1

    @property
    def message(self) -> str:
        """What is wrong, for people: the error, told of the request and not of the piece."""
        text = str(self.error)
        if self.line is not None and text.startswith("line 1, "):
            text = f"line {self.line}, " + text.removeprefix("line 1, ")
        text = text.removesuffix(_OF_ONE_LINE)
        alike = self.num_alike - 1
        return f"{text}; {alike} more of its rows are refused for this" if alike else text


class SiftedBody(msgspec.Struct, frozen=True):
    """What became of a request.

    Attributes:
        batches: One for each measurement that has a good row, in the types of its table, which
            may have to change for it.
        refused: The rest, in order.
    """

    batches: list[ColumnBatch]
    refused: list[Refused]

    @property
    def num_rows(self) -> int:
        """Rows that the tables take."""
        return sum(batch.num_rows for batch in self.batches)

    @property
    def num_refused(self) -> int:
        """Rows that they do not."""
        return sum(refused.num_rows for refused in self.refused)


class Rewritten(msgspec.Struct, frozen=True):
    """A request as it is stored and logged when some of it was refused.

    Attributes:
        batches: The good rows, then those for `_quarantine` if there are any.
        body: The same as MessagePack, times in microseconds (`Format.MSGPACK`, `TimeUnit.US`).
    """

    batches: list[ColumnBatch]
    body: bytes


def sift_body(
    head: RecordHead, body: bytes, limits: Limits, sieve: Sieve, keep_bodies: bool = True
) -> SiftedBody:
    """Part the rows of a request that tables take from those that they do not.

    Args:
        head: As the request would be logged: format, unit of times, arrival.
        body: Decompressed.
        limits: Budgets of one request.
        sieve: Over the tables of its database; not used for anything before.
        keep_bodies: False: nobody wants the bytes of what is refused.

    Returns:
        Every row of the body is in one of the two lists. What the decoder of OTLP refuses is in
        the second as well.

    Raises:
        LimitError: over MAX_REFUSED bad rows, and their bytes are wanted.
        ClientError: nothing of the request can be used; see the module.
    """
    if head.format is Format.MSGPACK:
        pieces: list[tuple[int | None, bytes]] = [
            (None, piece) for piece in msgpack_pieces.pieces(body, limits)
        ]
        return _Judge(head, pieces, b"", limits, sieve, keep_bodies).run()
    if head.format is Format.LINE_PROTOCOL:
        pieces = [*line_protocol_slow.pieces(body, limits.max_elements)]
        return _Judge(head, pieces, b"\n", limits, sieve, keep_bodies).run()
    decoded = decoders.decode(head, body, limits)
    return sift_decoded(head, decoded, limits, sieve, keep_bodies)


def sift_decoded(
    head: RecordHead, decoded: Decoded, limits: Limits, sieve: Sieve, keep_bodies: bool = True
) -> SiftedBody:
    """As `sift_body`, of a body that is decoded already and has no pieces: Arrow and OTLP.

    Attributes of OTLP that are in the way go where those of mixed types are.
    """
    move = _move_attributes if head.format in _OTLP_AS_JSON else None
    judge = _Judge(head, [], b"", limits, sieve, keep_bodies)
    return judge.sift(decoded.batches, move, decoded.refused)


def _move_attributes(batch: ColumnBatch, names: Collection[str]) -> ColumnBatch:
    return demote(batch, [name for name in names if is_attribute(name)])


#: The format of one record that was refused: JSON, whatever its request was in.
_OTLP_AS_JSON = {
    Format.OTLP_LOGS: Format.OTLP_LOGS_JSON,
    Format.OTLP_TRACES: Format.OTLP_TRACES_JSON,
    Format.OTLP_METRICS: Format.OTLP_METRICS_JSON,
    Format.OTLP_LOGS_JSON: Format.OTLP_LOGS_JSON,
    Format.OTLP_TRACES_JSON: Format.OTLP_TRACES_JSON,
    Format.OTLP_METRICS_JSON: Format.OTLP_METRICS_JSON,
}


class _Judge:
    """One request, piece by piece.

    Args:
        head: Of the request.
        pieces: Of its body, each with the number of its line.
        glue: What goes between them.
        limits: Budgets of one request.
        sieve: Knows the tables; changed.
        keep_bodies: Whether the bytes of what is refused are wanted.
    """

    def __init__(
        self,
        head: RecordHead,
        pieces: Sequence[tuple[int | None, bytes]],
        glue: bytes,
        limits: Limits,
        sieve: Sieve,
        keep_bodies: bool,
    ) -> None:
        self._head = head
        self._keep_bodies = keep_bodies
        self._pieces = pieces
        self._glue = glue
        self._limits = limits
        self._sieve = sieve
        self._good: list[tuple[int, int]] = []  # groups of pieces, as they were accepted
        self._parts: list[ColumnBatch] = []  # good rows of pieces that are in no group
        self._refused: list[Refused] = []
        self._refused_bytes = 0

    def run(self) -> SiftedBody:
        """Judge every piece."""
        at, size = 0, _LARGEST_GROUP
        while at < len(self._pieces):
            end = min(at + size, len(self._pieces))
            taken = self._judge(at, end)
            size = min(2 * size, _LARGEST_GROUP) if taken else max(size // _PARTS, 1)
            at = end
        return SiftedBody(self._good_batches(), self._refused)

    def sift(
        self,
        batches: Sequence[ColumnBatch],
        move: Demote | None,
        records: Sequence[RefusedRecord],
    ) -> SiftedBody:
        """Judge the rows of batches whose pieces are not known, and keep records that have none."""
        taken: list[ColumnBatch] = []
        for batch in batches:
            good, refused = self._sieve.sift(batch, move)
            taken += [] if good is None else [good]
            self._refuse_rows(refused, None)
        for record in records:
            form = _OTLP_AS_JSON[self._head.format]
            self._refuse(Refused(record.error, record.body, form, None, record.table))
        return SiftedBody(_merged(taken, self._sieve), self._refused)

    def _judge(self, first: int, end: int) -> bool:
        """Judge the pieces of a group; whether they were taken as they are, all of them."""
        batches: list[ColumnBatch] = []
        try:
            batches = self._decode(first, end)
            self._sieve.take(batches)
        except ClientError as error:
            if end - first == 1:
                self._judge_piece(first, error, batches)
                return False
        else:
            self._good.append((first, end))
            return True
        step = -(-(end - first) // _PARTS)
        for start in range(first, end, step):
            self._judge(start, min(start + step, end))
        return False

    def _judge_piece(self, at: int, error: ClientError, batches: Sequence[ColumnBatch]) -> None:
        """Judge a piece that is not taken whole; no batches: it does not decode."""
        if sum(batch.num_rows for batch in batches) > 1:
            self._sift_piece(at, batches)
        else:
            self._refuse_piece(at, error, batches)

    def _sift_piece(self, at: int, batches: Sequence[ColumnBatch]) -> None:
        """Part the rows of a piece that has several."""
        sifted = [self._sieve.sift(batch) for batch in batches]
        taken = [good for good, _ in sifted if good is not None]
        if taken:
            self._parts += taken
            for _, refused in sifted:
                self._refuse_rows(refused, self._pieces[at][0])
        else:
            self._refuse_piece(at, sifted[0][1][0].error, batches)

    def _decode(self, first: int, end: int) -> list[ColumnBatch]:
        body = self._glue.join([piece for _, piece in self._pieces[first:end]])
        return decoders.decode(self._head, body, self._limits).batches

    # --- what is refused ---------------------------------------------------------------------

    def _refuse_piece(
        self, at: int, error: ClientError, batches: Sequence[ColumnBatch] = ()
    ) -> None:
        """Keep a piece as it came."""
        line, piece = self._pieces[at]
        head = self._head
        rows = sum(batch.num_rows for batch in batches) or max(1, error.num_rows)
        name = batches[0].measurement if batches else _measurement_of(head.format, piece)
        self._refuse(Refused(error, piece, head.format, head.time_unit, name, line, rows, rows))

    def _refuse(self, refused: Refused) -> None:
        if self._keep_bodies:
            self._take_room(1, len(refused.body))
        else:
            refused = msgspec.structs.replace(refused, body=b"")
        self._refused.append(refused)

    def _refuse_rows(self, parts: Sequence[RefusedRows], line: int | None) -> None:
        """Keep rows of one batch as maps of their own."""
        if not parts:
            return
        bodies, places = self._row_bodies(parts) if self._keep_bodies else ([], None)
        for part in parts:
            alike = len(part.rows)
            row = Refused(
                part.error, b"", Format.MSGPACK, TimeUnit.US, part.measurement, line, alike, alike
            )
            if places is None:
                self._refused.append(row)
                continue
            for at in places[part.rows].tolist():
                kept = msgspec.structs.replace(row, body=bodies[at], num_rows=1)
                self._refused.append(kept)

    def _row_bodies(self, parts: Sequence[RefusedRows]) -> tuple[list[bytes], NDArray[np.int64]]:
        """The refused rows of a batch as maps, and for each of its rows the place among them."""
        source = parts[0].source
        kept = np.zeros(source.num_rows, dtype=np.bool_)
        for part in parts:
            kept[part.rows] = True
        batch = keep_rows(source, kept)
        self._take_room(batch.num_rows, encoded_rows_bytes(batch))
        return encode_rows(batch), np.cumsum(kept) - 1

    def _take_room(self, rows: int, num_bytes: int) -> None:
        """Bound what is kept of one request, before it is made."""
        self._refused_bytes += num_bytes
        if len(self._refused) + rows > MAX_REFUSED:
            what = "bad rows of one request, which are not kept for being so many"
            raise LimitError(what, len(self._refused) + rows, MAX_REFUSED, "send fewer at once")
        if self._refused_bytes > self._limits.max_decoded_bytes:
            what = "memory of the bad rows in this body"
            raise TooLargeError(what, self._limits.max_decoded_bytes, "send fewer rows at once")

    # --- what is good ------------------------------------------------------------------------

    def _good_batches(self) -> list[ColumnBatch]:
        """The good rows: as one body, where that can be; else group by group."""
        pieces = [piece for first, end in self._good for _, piece in self._pieces[first:end]]
        sieve = self._sieve.emptied()
        try:
            found: list[ColumnBatch] = []
            if pieces:
                found = decoders.decode(self._head, self._glue.join(pieces), self._limits).batches
            return _merged(sieve.take([*found, *self._parts]), sieve)
        except TooLargeError:
            raise
        except ClientError:  # they are good by themselves, and not together
            return self._good_groups()

    def _good_groups(self) -> list[ColumnBatch]:
        batches = list(self._parts)
        nbytes = sum(batch.nbytes for batch in batches)
        for first, end in self._good:
            found = self._decode(first, end)
            batches += found
            nbytes += sum(batch.nbytes for batch in found)
            if nbytes > self._limits.max_decoded_bytes:
                what = "memory of the columns in this body"
                limit_bytes = self._limits.max_decoded_bytes
                raise TooLargeError(what, limit_bytes, "send fewer rows at once")
        return _merged(batches, self._sieve)


def _merged(batches: Sequence[ColumnBatch], sieve: Sieve) -> list[ColumnBatch]:
    """Batches that a sieve has taken, in the types that their tables have now, by measurement."""
    found: dict[str, list[ColumnBatch]] = {}
    for batch in batches:
        typed = cast(sieve.schema(batch.measurement), batch)
        found.setdefault(batch.measurement, []).append(typed)
    return [join_batches(parts) for parts in found.values()]


def _measurement_of(form: Format, piece: bytes) -> str | None:
    """The measurement of a piece that does not decode; None where it does not say."""
    if form is Format.MSGPACK:
        try:
            name = _NAMED.decode(piece).m
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
            return None
        return name if isinstance(name, str) else f"measurement_{name}" if name else None
    match = _MEASUREMENT_OF_LINE.match(piece)
    return None if match is None else _ESCAPED.sub(rb"\1", match[1]).decode(errors="replace")


class _Named(msgspec.Struct):
    m: str | int | None = None


_NAMED = msgspec.msgpack.Decoder(_Named)


def is_of_rows(error: ClientError) -> bool:
    """Whether a request that was refused with this error may hold rows that can be stored."""
    return error.status_hint == _BAD_REQUEST and not isinstance(error, CompressionError)


# ------------------------------------------------------------------------- into the quarantine


def rewrite(sifted: SiftedBody, door: str, arrival_us: int) -> Rewritten:
    """What to store, and what to log, of a request that was refused in part.

    Args:
        sifted: At least one row, good or bad.
        door: Where it came in, as `/metrics` calls it.
        arrival_us: Microseconds since 1970-01-01T00:00Z.
    """
    batches = list(sifted.batches)
    if sifted.refused:
        batches.append(quarantine_batch(sifted.refused, door, arrival_us))
    return Rewritten(batches, encode(batches))


def quarantine_batch(refused: Sequence[Refused], door: str, arrival_us: int) -> ColumnBatch:
    """Rows of the table `_quarantine`; docs/quarantine.md has its columns.

    Args:
        refused: At least one.
        door: Tag of all of them.
        arrival_us: Time of all of them, microseconds since 1970-01-01T00:00Z.
    """
    lines = [piece.line for piece in refused]
    columns: dict[str, Column | None] = {
        "door": _texts([door] * len(refused)),
        "measurement": _texts([_storable(piece.measurement) for piece in refused]),
        "reason": _texts([piece.error.reason for piece in refused]),
        "error": _texts([_cut(piece.message) for piece in refused]),
        "body": _blobs([piece.body for piece in refused], ColumnType.BINARY),
        "format": _texts([piece.format.name.lower() for piece in refused]),
        "time_unit": _texts([piece.time_unit for piece in refused]),
        "line": _integers(lines),
    }
    tags = frozenset(("door", "measurement", "reason"))
    return assemble(QUARANTINE, len(refused), columns, tags, arrival_us, None)


def _storable(name: str | None) -> str | None:
    """A measurement's name, if it is one."""
    try:
        check_measurement(name or "")
    except InvalidNameError:
        return None
    return name


def _cut(message: str) -> str:
    data = message.encode(errors="replace")
    if len(data) <= MAX_ERROR_BYTES:
        return data.decode()
    return data[: MAX_ERROR_BYTES - len("…".encode())].decode(errors="ignore") + "…"


def _texts(values: Sequence[str | None]) -> Column | None:
    encoded = [None if value is None else value.encode() for value in values]
    return _blobs(encoded, ColumnType.UTF8)


def _blobs(values: Sequence[bytes | None], type_: ColumnType) -> Column | None:
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(value or b"") for value in values], out=offsets[1:])
    data = np.frombuffer(b"".join([value or b"" for value in values]), dtype=np.uint8)
    return _column(Column(type_, data, offsets), [value is not None for value in values])


def _integers(values: Sequence[int | None]) -> Column | None:
    numbers = np.array([value or 0 for value in values], dtype=np.int64)
    return _column(Column(ColumnType.INT64, numbers), [value is not None for value in values])


def _column(column: Column, present: Sequence[bool]) -> Column | None:
    """A column with these nulls; None when there is nothing else."""
    if not any(present):
        return None
    if not all(present):
        column.validity = np.array(present, dtype=np.bool_)
    return column


# ----------------------------------------------------------------------- out of the quarantine


def as_sent_again(
    body: bytes, form: Format, time_unit: TimeUnit | None, arrival_us: int
) -> tuple[bytes, TimeUnit | None]:
    """A kept piece as a request of its own, for the time at which it first came.

    A piece without a time got that of its arrival, and must not get that of its replay.

    Args:
        body: As it was kept.
        form: Its format.
        time_unit: Of the times in it; None: told from their magnitudes.
        arrival_us: When it came, microseconds since 1970-01-01T00:00Z.

    Returns:
        The body, with that time in it if it has none and is good otherwise, and the unit of its
        times.
    """
    if form is Format.LINE_PROTOCOL:
        timed = b"%s %d" % (body.rstrip(b" \t\r\n"), arrival_us)
    elif form is Format.MSGPACK:
        timed = _with_time(body, arrival_us)
    else:
        return body, time_unit
    found = _times(body, form, time_unit, arrival_us)
    later = _times(body, form, time_unit, arrival_us + 1)
    if found is None or found == later or _times(timed, form, TimeUnit.US, 0) != found:
        return body, time_unit
    return timed, TimeUnit.US


def _times(
    body: bytes, form: Format, time_unit: TimeUnit | None, arrival_us: int
) -> list[list[int]] | None:
    """The times of the rows of a body; None if it is not good."""
    try:
        head = RecordHead(form, "", time_unit, arrival_us)
        batches = decoders.decode(head, body, Limits()).batches
    except ClientError:
        return None
    return [batch.time_us.tolist() for batch in batches]


def _with_time(piece: bytes, time_us: int) -> bytes:
    """A map of rows with a time; its values stay as they are, to the byte."""
    try:
        item = _RAW_MAP.decode(piece)
        columns = _RAW_MAP.decode(item["columns"]) if "columns" in item else None
        if columns is None:
            item["t"] = msgspec.Raw(msgspec.msgpack.encode(time_us))
        else:
            rows = len(_RAW_LIST.decode(next(iter(columns.values()))))
            columns[TIME_COLUMN] = msgspec.Raw(msgspec.msgpack.encode([time_us] * rows))
            item["columns"] = msgspec.Raw(msgspec.msgpack.encode(columns))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, StopIteration):
        return piece
    return msgspec.msgpack.encode(item)


_RAW_MAP = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw])
_RAW_LIST = msgspec.msgpack.Decoder(list[msgspec.Raw])
