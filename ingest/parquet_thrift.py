"""Page headers and the footer of a Parquet file, in the compact protocol of Thrift. Pure.

In: what was written of each column. Out: bytes. The numbers of fields and of enumerations are those
of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift, the bytes
of https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. Only what
`parquet_file` writes is here, nothing is read, and nothing here knows Arrow.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

MAGIC = b"PAR1"

#: Of the format: files with types and encodings of 2.x, as pyarrow calls "2.6".
_FORMAT_VERSION = 2

#: "NAME version NUMBER", the form that readers take apart to know files with known defects.
CREATED_BY = "Arc version 1.0.0"

#: A field of a Thrift struct: its number, the type in the compact protocol, its content.
_Field: TypeAlias = tuple[int, int, bytes]

_TRUE, _FALSE, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 2, 5, 6, 8, 9, 12
_EMPTY_STRUCT = b"\0"


class Physical(enum.IntEnum):
    """How values are stored."""

    BOOLEAN = 0
    INT64 = 2
    DOUBLE = 5
    BYTE_ARRAY = 6


class Logical(enum.Enum):
    """What values mean, where their storage does not say it."""

    NONE = enum.auto()
    STRING = enum.auto()
    TIMESTAMP_US_UTC = enum.auto()


class Encoding(enum.IntEnum):
    """How the values of a page are laid out."""

    PLAIN = 0
    RLE = 3
    DELTA_BINARY_PACKED = 5
    RLE_DICTIONARY = 8


class Codec(enum.IntEnum):
    """How pages are compressed."""

    UNCOMPRESSED = 0
    SNAPPY = 1
    ZSTD = 6
    LZ4_RAW = 7


class Leaf(msgspec.Struct, frozen=True):
    """One column of a flat schema."""

    name: str
    physical: Physical
    logical: Logical
    is_required: bool


class ChunkFacts(msgspec.Struct, frozen=True):
    """What the footer says of one column of one row group.

    Attributes:
        leaf: The column.
        encoding: Of its data pages.
        codec: Of all its pages.
        num_rows: Its values, nulls included.
        num_data_pages: How many pages they take.
        raw_bytes: All its pages, before they were compressed, with their headers.
        stored_bytes: The same as they are in the file.
        first_page: Place of the dictionary page, or else of the first data page.
        first_data_page: Place of the first data page.
        time_range_us: Smallest and largest value, of a column without nulls; None: not said.
    """

    leaf: Leaf
    encoding: Encoding
    codec: Codec
    num_rows: int
    num_data_pages: int
    raw_bytes: int
    stored_bytes: int
    first_page: int
    first_data_page: int
    time_range_us: tuple[int, int] | None = None


# --- the protocol ------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A number from 0 on, seven bits a byte, lowest first."""
    if value < 1 << 7:
        return bytes((value,))
    if value < 1 << 14:
        return bytes((value & 127 | 128, value >> 7))
    if value < 1 << 21:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> bytes:
    return varint(value * 2 if value >= 0 else -value * 2 - 1)


def _i32(number: int, value: int) -> _Field:
    return number, _I32, _signed(value)


def _i64(number: int, value: int) -> _Field:
    return number, _I64, _signed(value)


def _binary(number: int, value: bytes) -> _Field:
    return number, _BINARY, varint(len(value)) + value


def _inner(number: int, content: bytes) -> _Field:
    return number, _STRUCT, content


def _list(number: int, kind: int, items: Sequence[bytes]) -> _Field:
    size = len(items)
    head = bytes((size << 4 | kind,)) if size < 15 else bytes((0xF0 | kind,)) + varint(size)
    return number, _LIST, head + b"".join(items)


def _struct(*fields: _Field) -> bytes:
    """Fields in the order of their numbers, none more than 15 above the one before."""
    parts: list[bytes] = []
    last = 0
    for number, kind, content in fields:
        parts += (bytes((number - last << 4 | kind,)), content)
        last = number
    parts.append(_EMPTY_STRUCT)
    return b"".join(parts)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return varint(len(encoded)) + encoded


# --- pages -------------------------------------------------------------------------------------


def data_page_header(raw_bytes: int, stored_bytes: int, num_rows: int, encoding: Encoding) -> bytes:
    """Header of a data page of version 1.

    Args:
        raw_bytes: Its levels and values.
        stored_bytes: The same, compressed.
        num_rows: Its values, nulls included.
        encoding: Of the values; levels are RLE.
    """
    levels = int(Encoding.RLE)
    inner = _struct(_i32(1, num_rows), _i32(2, encoding), _i32(3, levels), _i32(4, levels))
    return _struct(_i32(1, 0), _i32(2, raw_bytes), _i32(3, stored_bytes), _inner(5, inner))


def dictionary_page_header(raw_bytes: int, stored_bytes: int, num_values: int) -> bytes:
    """Header of a dictionary page, whose values are PLAIN."""
    inner = _struct(_i32(1, num_values), _i32(2, Encoding.PLAIN))
    return _struct(_i32(1, 2), _i32(2, raw_bytes), _i32(3, stored_bytes), _inner(7, inner))


# --- the footer --------------------------------------------------------------------------------


def footer(
    leaves: Sequence[Leaf],
    groups: Sequence[Sequence[ChunkFacts]],
    metadata: Mapping[str, str],
) -> bytes:
    """All that follows the last page: the metadata of the file, its length, the magic.

    Args:
        leaves: The schema.
        groups: For each row group the facts of every column, in the order of `leaves`.
        metadata: Key-value metadata of the file.
    """
    root = _struct(_i32(3, 0), _binary(4, b"schema"), _i32(5, len(leaves)))
    fields = [
        _i32(1, _FORMAT_VERSION),
        _list(2, _STRUCT, [root, *map(_schema_element, leaves)]),
        _i64(3, sum([group[0].num_rows for group in groups])),
        _list(4, _STRUCT, [_row_group(number, group) for number, group in enumerate(groups)]),
    ]
    if metadata:
        fields.append(_list(5, _STRUCT, [_key_value(*item) for item in metadata.items()]))
    fields.append(_binary(6, CREATED_BY.encode()))
    # How smallest and largest values compare: as the type has it (TypeDefinedOrder), for all.
    order = _struct(_inner(1, _EMPTY_STRUCT))
    fields.append(_list(7, _STRUCT, [order] * len(leaves)))
    content = _struct(*fields)
    return content + len(content).to_bytes(4, "little") + MAGIC


def _key_value(key: str, value: str) -> bytes:
    return _struct(_binary(1, key.encode()), _binary(2, value.encode()))


def _schema_element(leaf: Leaf) -> bytes:
    fields = [
        _i32(1, leaf.physical),
        _i32(3, 0 if leaf.is_required else 1),
        _binary(4, leaf.name.encode()),
    ]
    if leaf.logical is Logical.STRING:
        fields += (_i32(6, 0), _inner(10, _struct(_inner(1, _EMPTY_STRUCT))))
    if leaf.logical is Logical.TIMESTAMP_US_UTC:
        micros = _struct(_inner(2, _EMPTY_STRUCT))
        timestamp = _struct((1, _TRUE, b""), _inner(2, micros))
        fields += (_i32(6, 10), _inner(10, _struct(_inner(8, timestamp))))
    return _struct(*fields)


def _row_group(number: int, chunks: Sequence[ChunkFacts]) -> bytes:
    return _struct(
        _list(1, _STRUCT, [_column_chunk(chunk) for chunk in chunks]),
        _i64(2, sum([chunk.raw_bytes for chunk in chunks])),
        _i64(3, chunks[0].num_rows),
        _i64(5, chunks[0].first_page),
        _i64(6, sum([chunk.stored_bytes for chunk in chunks])),
        (7, 4, _signed(number)),
    )


def _column_chunk(chunk: ChunkFacts) -> bytes:
    has_dictionary = chunk.encoding is Encoding.RLE_DICTIONARY
    encodings = [Encoding.RLE, chunk.encoding]
    if has_dictionary:
        encodings.insert(0, Encoding.PLAIN)
    fields = [
        _i32(1, chunk.leaf.physical),
        _list(2, _I32, [_signed(encoding) for encoding in encodings]),
        _list(3, _BINARY, [_text(chunk.leaf.name)]),
        _i32(4, chunk.codec),
        _i64(5, chunk.num_rows),
        _i64(6, chunk.raw_bytes),
        _i64(7, chunk.stored_bytes),
        _i64(9, chunk.first_data_page),
    ]
    if has_dictionary:
        fields.append(_i64(11, chunk.first_page))
    if chunk.time_range_us is not None:
        fields.append(_inner(12, _statistics(*chunk.time_range_us)))
    fields.append(_list(13, _STRUCT, _page_counts(chunk)))
    return _struct(_i64(2, 0), _inner(3, _struct(*fields)))


def _statistics(smallest: int, largest: int) -> bytes:
    """Of int64 values without a null: in the fields of today, and in those of old readers."""
    low, high = (value.to_bytes(8, "little", signed=True) for value in (smallest, largest))
    exact = b""
    return _struct(
        _binary(1, high), _binary(2, low), _i64(3, 0), _binary(5, high), _binary(6, low),
        (7, _TRUE, exact), (8, _TRUE, exact),
    )  # fmt: skip


def _page_counts(chunk: ChunkFacts) -> list[bytes]:
    data = _struct(_i32(1, 0), _i32(2, chunk.encoding), _i32(3, chunk.num_data_pages))
    if chunk.encoding is not Encoding.RLE_DICTIONARY:
        return [data]
    return [_struct(_i32(1, 2), _i32(2, Encoding.PLAIN), _i32(3, 1)), data]
