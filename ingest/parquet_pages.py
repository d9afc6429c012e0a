"""Columns of Arrow to the pages of a Parquet file: levels, values, dictionaries, codec.

In: an Arrow array of one chunk, how it is to be encoded, and its place in the file. Out: the bytes
of its pages, and what the footer has to say of them. Fixed-width values without nulls are not
copied: the answer then refers to the memory of the array. Nothing here writes a file.

Pages are data pages of version 1, of `PAGE_ROWS` rows or about `PAGE_TEXT_BYTES` of text. What a
reader finds is what `pyarrow.parquet.ParquetWriter` would have it find; tests hold both equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.columns import TIME_COLUMN
from ingest.errors import IngestError
from ingest.kernels import parquet as kernels
from ingest.parquet_thrift import (
    ChunkFacts,
    Codec,
    Encoding,
    Leaf,
    Logical,
    Physical,
    data_page_header,
    dictionary_page_header,
    varint,
)

#: How the values of a column are written. A dictionary of numbers that outgrows
#: `MAX_DICTIONARY_BYTES` is dropped: integers are DELTA_BINARY_PACKED then, at hardly more bytes
#: than PLAIN, doubles PLAIN. So is one of text that does, unless its values repeat.
ColumnEncoding: TypeAlias = Literal["PLAIN", "DICTIONARY", "DELTA_BINARY_PACKED"]

#: Anything that has bytes: bytes, an array of uint8, a buffer of Arrow.
Piece: TypeAlias = Any

#: A page of doubles is half a MiB then, and a million rows have 16 pages, whose headers Python
#: makes: 20 000 rows a page, pyarrow's way, cost 1 ns a record more.
PAGE_ROWS = 1 << 16

#: Text is cut before a page has more; a longer value is a page of its own.
PAGE_TEXT_BYTES = 1 << 20

#: The limit of every writer.
MAX_DICTIONARY_BYTES = 1 << 20

CODECS = {
    "none": Codec.UNCOMPRESSED,
    "snappy": Codec.SNAPPY,
    "lz4": Codec.LZ4_RAW,
    "zstd": Codec.ZSTD,
}
_CODEC_NAMES = {Codec.SNAPPY: "snappy", Codec.LZ4_RAW: "lz4_raw", Codec.ZSTD: "zstd"}

#: Slots of the tables in which distinct numbers are found, each eight times as large as the
#: dictionary may grow with it: most columns stay in the first, which the second-level cache holds.
_TABLE_SLOTS = (1 << 14, 1 << 17, 1 << 20)

#: Doubles of a gauge have few decimals, if they are not of full precision.
_SCALES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
_SCALE_SAMPLE_ROWS = 64
#: Times the largest scale it is below 2**51, up to where a sum can round.
_LARGEST_DECIMAL = 1e9

_TIME_TYPE = pa.timestamp("us", tz="UTC")
_LEAVES: dict[pa.DataType, tuple[Physical, Logical]] = {
    _TIME_TYPE: (Physical.INT64, Logical.TIMESTAMP_US_UTC),
    pa.int64(): (Physical.INT64, Logical.NONE),
    pa.float64(): (Physical.DOUBLE, Logical.NONE),
    pa.bool_(): (Physical.BOOLEAN, Logical.NONE),
    pa.utf8(): (Physical.BYTE_ARRAY, Logical.STRING),
    pa.binary(): (Physical.BYTE_ARRAY, Logical.NONE),
}
_NONE_MISSING = np.empty(0, dtype=np.bool_)
_NONE_MISSING.setflags(write=False)


class Chunk(msgspec.Struct, frozen=True):
    """One column of one row group.

    Attributes:
        pieces: Its pages with their headers, to be written one after another.
        facts: For the footer.
    """

    pieces: list[Piece]
    facts: ChunkFacts


def leaf_of(field: pa.Field) -> Leaf | None:
    """How a column is stored; None for a type that is none of the table's."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        if kind.index_type != pa.int32() or kind.value_type not in (pa.utf8(), pa.binary()):
            return None
        kind = kind.value_type
    found = _LEAVES.get(kind)
    return None if found is None else Leaf(field.name, *found, not field.nullable)


def encode_column(
    array: pa.Array, leaf: Leaf, encoding: ColumnEncoding, codec: Codec, place: int
) -> Chunk:
    """Encode one column of one row group.

    Args:
        array: Of a type that `leaf_of` knows, at least one row; without nulls where the leaf
            is required.
        leaf: What `leaf_of` said.
        encoding: DICTIONARY is for all but booleans, and nearly free for an array that is one;
            DELTA_BINARY_PACKED for integers and times. Any other combination is PLAIN.
        codec: Of all pages.
        place: Where in the file it begins, bytes.

    Raises:
        IngestError: a defect of the caller: nulls where there must be none.
    """
    array = _with_dictionary(array, leaf, encoding)
    valid = _validity(array)
    if leaf.is_required and valid is not None:
        raise IngestError(
            f"BUG: column {leaf.name!r} has nulls, and its schema says that it has none"
        )
    values = _values(array, leaf, valid, encoding)
    pages = _Pages(codec)
    if values.dictionary is not None:
        pages.add_dictionary(*values.dictionary)
    first_data_page = place + pages.stored_bytes
    levels = None if valid is None else _read_only(valid.astype(np.int32))
    end = 0
    for start, stop in values.cuts(len(array)):
        present = stop - start if valid is None else int(np.count_nonzero(valid[start:stop]))
        front = b"" if leaf.is_required else _levels(levels, start, stop, present)
        body = values.body(_Part(start, stop, end, end + present), front)
        pages.add_data(body, stop - start, values.encoding)
        end += present
    time_range = _time_range(array, leaf, valid)
    return Chunk(
        pages.pieces,
        ChunkFacts(
            leaf, values.encoding, codec, len(array), pages.num_data_pages, pages.raw_bytes,
            pages.stored_bytes, place, first_data_page, time_range,
        ),
    )  # fmt: skip


class _Pages:
    """Pages of one column, compressed one by one as they come."""

    def __init__(self, codec: Codec) -> None:
        self.pieces: list[Piece] = []
        self.num_data_pages = self.raw_bytes = self.stored_bytes = 0
        self._codec = None if codec is Codec.UNCOMPRESSED else pa.Codec(_CODEC_NAMES[codec])

    def add_dictionary(self, content: Piece, num_values: int) -> None:
        """The dictionary page, before all others."""
        self._add([content], lambda raw, stored: dictionary_page_header(raw, stored, num_values))

    def add_data(self, body: list[Piece], num_rows: int, encoding: Encoding) -> None:
        """A data page: levels and values."""
        self.num_data_pages += 1
        self._add(body, lambda raw, stored: data_page_header(raw, stored, num_rows, encoding))

    def _add(self, body: list[Piece], header_of: Callable[[int, int], bytes]) -> None:
        raw = sum([memoryview(piece).nbytes for piece in body])
        stored = raw
        if self._codec is not None:
            whole = body[0] if len(body) == 1 else b"".join(body)
            body = [self._codec.compress(whole)]
            stored = body[0].size
        header = header_of(raw, stored)
        self.pieces += (header, *body)
        self.raw_bytes += len(header) + raw
        self.stored_bytes += len(header) + stored


# --- memory of Arrow ---------------------------------------------------------------------------


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, not to be written: kernels are compiled for that alone."""
    view = array.view() if array.flags.aligned else array.copy()
    view.setflags(write=False)
    return view


def _view(buffer: pa.Buffer | None, dtype: type[np.generic], start: int, rows: int) -> NDArray[Any]:
    """Values of fixed width, without a copy; Arrow leaves the buffer of no values out at times."""
    if buffer is None or not rows:
        return _read_only(np.empty(0, dtype=dtype))
    size = np.dtype(dtype).itemsize
    return _read_only(np.frombuffer(buffer, dtype, rows, start * size))


def _bits(buffer: pa.Buffer, start: int, rows: int) -> NDArray[np.bool_]:
    """A bitmap as one byte a row: bool, shape (rows,)."""
    octets = np.frombuffer(buffer, np.uint8)[start // 8 : (start + rows + 7) // 8]
    bits = np.unpackbits(octets, bitorder="little")[start % 8 :][:rows]
    return _read_only(bits.view(np.bool_))


def _validity(array: pa.Array) -> NDArray[np.bool_] | None:
    """Which rows have a value: bool, shape (rows,); None when all have."""
    if not array.null_count:
        return None
    return _bits(array.buffers()[0], array.offset, len(array))


def _present(values: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Values of uint64 or int32 without the nulls."""
    if valid is None:
        return values
    out = np.empty(values.size + 1, dtype=values.dtype)
    return _read_only(out[: kernels.compact(values, valid, out)])


def _time_range(
    array: pa.Array, leaf: Leaf, valid: NDArray[np.bool_] | None
) -> tuple[int, int] | None:
    """What readers prune by; of other columns it would cost 0.5 to 9 ns a value."""
    if leaf.name != TIME_COLUMN or leaf.physical is not Physical.INT64 or valid is not None:
        return None
    values = _view(array.buffers()[1], np.int64, array.offset, len(array))
    return int(values.min()), int(values.max())


# --- levels ------------------------------------------------------------------------------------


def _levels(levels: NDArray[np.int32] | None, start: int, stop: int, present: int) -> Piece:
    """Definition levels of a page: which rows have a value, the length in front."""
    rows = stop - start
    if levels is None or present in (0, rows):
        content = varint(rows << 1) + bytes((int(present > 0),))
        return len(content).to_bytes(4, "little") + content
    out = np.empty(4 + kernels.packed_bytes(rows, 1), dtype=np.uint8)
    end = kernels.pack_codes(levels[start:stop], 1, out, 4)
    out[:4].view(np.uint32)[0] = end - 4
    return out[:end]


# --- values ------------------------------------------------------------------------------------


class _Part(msgspec.Struct, frozen=True):
    """What goes into one page: rows of the column, and values of those that have one."""

    start: int
    stop: int
    first_value: int
    end_value: int


def _room(front: Piece, size: int) -> tuple[NDArray[np.uint8], int]:
    """Something, and room for so many bytes after it; where they begin."""
    start = np.frombuffer(front, np.uint8)
    out = np.empty(start.size + size, dtype=np.uint8)
    out[: start.size] = start
    return out, start.size


class _Values:
    """The values of a column, ready to be laid out page by page; PLAIN of fixed width as it is.

    Attributes:
        encoding: Of the data pages.
        dictionary: Content of the dictionary page and how many values it has, or None.
    """

    encoding = Encoding.PLAIN
    dictionary: tuple[Piece, int] | None = None

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def cuts(self, rows: int) -> Iterator[tuple[int, int]]:
        """First row of each page, and the row after its last."""
        for start in range(0, rows, PAGE_ROWS):
            yield start, min(start + PAGE_ROWS, rows)

    def body(self, part: _Part, front: Piece) -> list[Piece]:
        """A page: what stands in front of its values, and they; in one piece if they are new."""
        return [front, self._values[part.first_value : part.end_value].view(np.uint8)]


class _Booleans(_Values):
    """PLAIN: one bit a value."""

    def body(self, part: _Part, front: Piece) -> list[Piece]:
        """A page."""
        bits = np.packbits(self._values[part.first_value : part.end_value], bitorder="little")
        return [front, bits]


class _Differences(_Values):
    """DELTA_BINARY_PACKED: each value as its distance from the one before."""

    encoding = Encoding.DELTA_BINARY_PACKED

    def body(self, part: _Part, front: Piece) -> list[Piece]:
        """A page."""
        values = self._values[part.first_value : part.end_value]
        if not values.size:  # block, miniblocks, no values, the first of which is 0
            return [front, varint(kernels.DELTA_BLOCK_ROWS) + bytes((4, 0, 0))]
        scratch = np.empty(kernels.DELTA_BLOCK_ROWS, dtype=np.uint64)
        out, place = _room(front, kernels.differences_bytes(values.size))
        return [out[: place + kernels.pack_differences(values, scratch, out[place:])]]


class _Codes(_Values):
    """RLE_DICTIONARY: the width of the codes, then the codes."""

    encoding = Encoding.RLE_DICTIONARY

    def __init__(self, codes: NDArray[np.int32], dictionary: Piece, count: int) -> None:
        super().__init__(codes)
        self.dictionary = dictionary, count
        self._width_bits = max(1, (count - 1).bit_length())

    def body(self, part: _Part, front: Piece) -> list[Piece]:
        """A page."""
        codes = self._values[part.first_value : part.end_value]
        out, place = _room(front, 1 + kernels.packed_bytes(codes.size, self._width_bits))
        out[place] = self._width_bits
        return [out[: kernels.pack_codes(codes, self._width_bits, out, place + 1)]]


class _Text(_Values):
    """PLAIN: the length of each value, then its bytes. Laid out from the rows, nulls and all."""

    def __init__(self, array: pa.Array, valid: NDArray[np.bool_] | None) -> None:
        _, offsets, data = array.buffers()
        self._offsets = _view(offsets, np.int32, array.offset, len(array) + 1)
        super().__init__(_view(data, np.uint8, 0, 0 if data is None else data.size))
        self._valid = _NONE_MISSING if valid is None else valid

    def cuts(self, rows: int) -> Iterator[tuple[int, int]]:
        """First row of each page, and the row after its last."""
        start = 0
        while start < rows:
            most = np.int32(min(int(self._offsets[start]) + PAGE_TEXT_BYTES, 2**31 - 1))
            stop = int(np.searchsorted(self._offsets, most, side="right")) - 1
            stop = min(max(stop, start + 1), start + PAGE_ROWS, rows)
            yield start, stop
            start = stop

    def body(self, part: _Part, front: Piece) -> list[Piece]:
        """A page."""
        return [self.laid_out(part.start, part.stop, front)]

    def laid_out(self, start: int, stop: int, front: Piece = b"") -> NDArray[np.uint8]:
        """Rows one after another, each with its length, after what is to stand in front."""
        offsets = self._offsets[start : stop + 1]
        size = int(offsets[-1]) - int(offsets[0]) + 4 * (stop - start)
        out, place = _room(front, size)
        valid = self._valid[start:stop]
        return out[: place + kernels.lay_out_text(self._values, offsets, valid, out[place:])]


def _values(
    array: pa.Array, leaf: Leaf, valid: NDArray[np.bool_] | None, encoding: ColumnEncoding
) -> _Values:
    """Bring a column into the form that its encoding wants."""
    if pa.types.is_dictionary(array.type):
        return _dictionary_values(array, valid)
    if leaf.physical is Physical.BYTE_ARRAY:
        return _Text(array, valid)
    data = array.buffers()[1]
    if leaf.physical is Physical.BOOLEAN:
        bits = _bits(data, array.offset, len(array))
        return _Booleans(bits if valid is None else bits[valid])
    numbers = _present(_view(data, np.uint64, array.offset, len(array)), valid)
    found = _numbered(numbers, leaf.physical) if encoding == "DICTIONARY" else None
    if found is not None:
        return found
    if encoding == "PLAIN" or leaf.physical is not Physical.INT64:
        return _Values(numbers)
    return _Differences(_read_only(numbers.view(np.int64)))


def _with_dictionary(array: pa.Array, leaf: Leaf, encoding: ColumnEncoding) -> pa.Array:
    """Text as an Arrow dictionary, all of it to be written, where one is wanted; else plain."""
    if leaf.physical is not Physical.BYTE_ARRAY:
        return array
    if encoding == "DICTIONARY" and not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    if not pa.types.is_dictionary(array.type):
        return array
    words = array.dictionary
    is_usable = len(words) > 0 and not words.null_count
    # A large one that pays is kept: the plain text of many long values might not fit an array.
    pays = words.nbytes <= MAX_DICTIONARY_BYTES or 2 * len(words) <= len(array)
    return array if encoding == "DICTIONARY" and is_usable and pays else array.dictionary_decode()


def _dictionary_values(array: pa.DictionaryArray, valid: NDArray[np.bool_] | None) -> _Values:
    words = array.dictionary
    indices = _view(array.indices.buffers()[1], np.int32, array.offset, len(array))
    content = _Text(words, None).laid_out(0, len(words))
    return _Codes(_present(indices, valid), content, len(words))


def _numbered(values: NDArray[np.uint64], physical: Physical) -> _Codes | None:
    """Codes and a dictionary of numbers; None when too many differ."""
    found = None
    if values.size:
        found = (_few_decimals if physical is Physical.DOUBLE else _close_integers)(values)
    return _hashed(values) if found is None else found


def _close_integers(values: NDArray[np.uint64]) -> _Codes | None:
    """Codes in order of value, for integers of a narrow range; None for others."""
    integers = _read_only(values.view(np.int64))
    smallest, largest = int(integers.min()), int(integers.max())
    if largest - smallest >= _widest_range(values.size):
        return None
    marks = np.zeros(largest - smallest + 1, dtype=np.uint8)
    kernels.mark(integers, smallest, marks)
    codes = np.empty(values.size, dtype=np.int32)
    kernels.look_up(integers, smallest, _ranks(marks), codes)
    return _codes_of(codes, np.flatnonzero(marks) + np.int64(smallest))


def _few_decimals(values: NDArray[np.uint64]) -> _Codes | None:
    """Codes in order of value, for doubles of few decimals and a narrow range."""
    # HOT: 1.5 ns a value for the 2.6 of `_hashed`, on a machine with other work, and it needs a
    # fifth of the cache (docs/profiling/2026-11-20-flush-encoding.md).
    doubles = _read_only(values.view(np.float64))
    low, high, scale = float(doubles.min()), float(doubles.max()), _scale_of(doubles)
    if not (scale and -_LARGEST_DECIMAL < low <= high < _LARGEST_DECIMAL):
        return None  # so it is, too, where one is not a number
    smallest, largest = round(low * scale), round(high * scale)
    if largest - smallest >= _widest_range(values.size):
        return None
    if kernels.count_misfits(doubles, values, scale):
        return None
    marks = np.zeros(largest - smallest + 1, dtype=np.uint8)
    kernels.mark_decimals(doubles, scale, smallest, marks)
    codes = np.empty(values.size, dtype=np.int32)
    kernels.look_up_decimals(doubles, scale, smallest, _ranks(marks), codes)
    return _codes_of(codes, (np.flatnonzero(marks) + smallest) / scale)


def _scale_of(values: NDArray[np.float64]) -> float:
    """The power of ten that makes integers of some of the doubles; 0.0: there is none."""
    sample = values[:: max(1, values.size // _SCALE_SAMPLE_ROWS)]
    sample = sample[np.abs(sample) < _LARGEST_DECIMAL]
    fits = [scale for scale in _SCALES if (np.rint(sample * scale) / scale == sample).all()]
    return fits[0] if fits and sample.size else 0.0


def _widest_range(rows: int) -> int:
    """Integers from the smallest to the largest that may lie between: fewer than these."""
    return min(MAX_DICTIONARY_BYTES // 8, 4 * rows)


def _ranks(marks: NDArray[np.uint8]) -> NDArray[np.int32]:
    """How many marks stand before each."""
    return np.cumsum(marks, dtype=np.int32) - np.int32(1)


def _codes_of(codes: NDArray[np.int32], dictionary: NDArray[Any]) -> _Codes:
    return _Codes(_read_only(codes), dictionary.view(np.uint8), dictionary.size)


def _hashed(values: NDArray[np.uint64]) -> _Codes | None:
    """Codes in order of appearance; None when too many differ, or meet in too few slots."""
    codes = np.empty(values.size, dtype=np.int32)
    dictionary = np.empty(MAX_DICTIONARY_BYTES // 8, dtype=np.uint64)
    left = np.array([kernels.MAX_LOOKS_PER_ROW * values.size], dtype=np.int64)
    row = count = 0
    for slots in _TABLE_SLOTS:
        table = np.zeros(slots, dtype=np.uint32)
        kernels.fill_table(dictionary, count, table)
        row, count = kernels.number_values(row, count, values, table, dictionary, left, codes)
        if count == kernels.GAVE_UP:
            return None
        if row == values.size:
            return _codes_of(codes, dictionary[:count])
    return None
