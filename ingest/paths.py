"""Names of databases, measurements, hours and files, to relative paths and back. Pure.

In: names as clients send them. Out: `{database}/{measurement}/{YYYY}/{MM}/{DD}/{HH}/{file}`,
with "/" between the parts on every system. Nothing here touches a disk, and no path comes from
the clock.

How a name becomes a folder. The characters `a-z 0-9 _ - .` stand for themselves, every other
one is written as `@` and two hexadecimal digits for each of its UTF-8 bytes, capitals included:
`disk/io` is `disk@2Fio`, `Foo` is `@46oo`. So a folder's name is ASCII without capitals (but for
the digits after `@`, whose case carries nothing), and two names that differ only in case or in
Unicode normal form stay apart also on file systems that fold either. Escaped besides:

* a dot that begins or ends the name: no `.`, `..`, hidden folder, `.arc`, and nothing that
  Windows would cut off;
* the first letter of `con`, `nul`, `com1` and the like, also before a dot, which are devices on
  Windows, and of `_delta_log`, which would turn a database into a table.

A name of 128 characters can hold 2 570 bits, a folder's name of 255 bytes of such ASCII 1 350:
no spelling is both bounded and reversible. A name whose escaped form is longer than 255 bytes
(from 29 Chinese characters or 86 capitals on) gets the beginning of that form, `@@`, and the
SHA-256 of the name: distinct for distinct names, not to be read back. `@@` is in no escaped name.
The catalog holds name and folder of every table, and is the way back for these.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import msgspec

from ingest.errors import InvalidNameError

HOUR_US = 3_600_000_000

#: Longest name of one folder on ext4, XFS, APFS, NTFS and every other system in use.
MAX_FOLDER_BYTES = 255

MAX_MEASUREMENT_CHARACTERS = 128

#: Not the "%" of URLs: delta-rs decodes a table's path once too often, and looks for
#: `disk%2Fio` in `disk/io` (deltalake 1.6.6).
_ESCAPE = "@"
_SHORTENED = "@@"
_LITERAL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-.")
_DEVICES = frozenset({"con", "prn", "aux", "nul"}) | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in range(10)
}
_RESERVED = frozenset({"_delta_log"})

#: How much of a name that does not fit is kept for people to recognise, in bytes.
_SHORTENED_PREFIX_BYTES = 64

_DATABASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # category Cc; not a character at all
_HOUR_DIR = re.compile(r"(\d{4})/(\d{2})/(\d{2})/(\d{2})", re.ASCII)
_FILE_NAME = re.compile(r"s(\d{3,})-e(\d{6,})-(\d{12,})-(\d{12,})\.parquet", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


#: Measurement of every database that holds what its tables refused. Clients cannot write to it.
QUARANTINE = "_quarantine"


class TableId(msgspec.Struct, frozen=True, order=True):
    """Which table: the names as the client sent them."""

    database: str
    measurement: str


class LogRange(msgspec.Struct, frozen=True, order=True):
    """Which part of a shard's input a file holds.

    Attributes:
        shard: Number of the worker that wrote it, from 0.
        epoch: Grows with every start of the shard.
        first_seq: Sequence number of the first request in the file.
        last_seq: Sequence number of the last one, itself in the file.
    """

    shard: int
    epoch: int
    first_seq: int
    last_seq: int


def check_database(name: str) -> None:
    """Refuse a database name that is not of the form that the protocol gives.

    Raises:
        InvalidNameError: it is not.
    """
    if not _DATABASE.fullmatch(name):
        raise InvalidNameError(
            f"database {_shown(name)}: wanted 1 to 64 characters, first a letter, "
            "then letters, digits, '_' or '-' (ASCII)"
        )


def check_measurement(name: str) -> None:
    """Refuse a measurement name that cannot be stored.

    Raises:
        InvalidNameError: it is empty, over 128 characters, or holds a control character.
    """
    if not 1 <= len(name) <= MAX_MEASUREMENT_CHARACTERS:
        raise InvalidNameError(
            f"measurement {_shown(name)}: {len(name)} characters, "
            f"wanted 1 to {MAX_MEASUREMENT_CHARACTERS}"
        )
    found = _CONTROL.search(name)
    if found:
        raise InvalidNameError(
            f"measurement {_shown(name)}: character {found.start()} is U+{ord(found[0]):04X}, "
            "and control characters and surrogates are not allowed"
        )


def table_dir(table: TableId) -> str:
    """Folder of a table: `{database}/{measurement}`, both as the module docstring says.

    Raises:
        InvalidNameError: a name that cannot be stored.
    """
    check_database(table.database)
    check_measurement(table.measurement)
    return f"{_folder(table.database)}/{_folder(table.measurement)}"


def table_from_dir(path: str) -> TableId | None:
    """Undo `table_dir`.

    Returns:
        None when `table_dir` never makes this path, or when the name did not fit into it, so
        that only the catalog knows it.
    """
    database, _, measurement = path.partition("/")
    table = TableId(_unescaped(database), _unescaped(measurement))
    try:
        return table if table_dir(table) == path else None
    except InvalidNameError:
        return None


def hour_dir(time_us: int) -> str:
    """Folder of the hour that holds a moment, below that of its table: `YYYY/MM/DD/HH`, UTC.

    Args:
        time_us: Microseconds since 1970-01-01T00:00Z, negative before. Years 1900 to 2262.
    """
    return f"{_EPOCH + timedelta(hours=time_us // HOUR_US):%Y/%m/%d/%H}"


def hour_start_us(path: str) -> int | None:
    """Undo `hour_dir`.

    Returns:
        First moment of the hour, microseconds since 1970-01-01T00:00Z; None when `hour_dir`
        never makes this path.
    """
    match = _HOUR_DIR.fullmatch(path)
    if match is None:
        return None
    year, month, day, hour = map(int, match.groups())
    try:
        start = datetime(year, month, day, hour, tzinfo=UTC)
    except ValueError:
        return None
    return (start - _EPOCH) // timedelta(hours=1) * HOUR_US


def file_name(shard: int, epoch: int, first_seq: int, last_seq: int) -> str:
    """Name of the file that holds a part of a shard's input, within one hour of one table.

    Names sort as their numbers do while these have no more digits than the pattern shows:
    `s000-e000001-000000000001-000000000042.parquet`. Larger numbers only make longer names.
    """
    return f"s{shard:03d}-e{epoch:06d}-{first_seq:012d}-{last_seq:012d}.parquet"


def parse_file_name(name: str) -> LogRange | None:
    """Undo `file_name`; None when it never makes this name."""
    match = _FILE_NAME.fullmatch(name)
    if match is None:
        return None
    shard, epoch, first_seq, last_seq = map(int, match.groups())
    if file_name(shard, epoch, first_seq, last_seq) != name:
        return None
    return LogRange(shard, epoch, first_seq, last_seq)


def _folder(name: str) -> str:
    """One checked name as the name of a folder, at most `MAX_FOLDER_BYTES` of ASCII."""
    parts = [character if character in _LITERAL else _escaped(character) for character in name]
    if parts[0] == ".":
        parts[0] = _escaped(".")
    if parts[-1] == ".":
        parts[-1] = _escaped(".")
    folder = "".join(parts)
    if folder.partition(".")[0] in _DEVICES or folder in _RESERVED:
        parts[0] = _escaped(name[0])
        folder = "".join(parts)
    return folder if len(folder) <= MAX_FOLDER_BYTES else _shortened(name, parts)


def _escaped(character: str) -> str:
    return "".join(f"{_ESCAPE}{byte:02X}" for byte in character.encode())


def _unescaped(folder: str) -> str:
    return unquote(folder.replace(_ESCAPE, "%"), errors="replace")


def _shortened(name: str, parts: list[str]) -> str:
    kept = ""
    for part in parts:
        if len(kept) + len(part) > _SHORTENED_PREFIX_BYTES:
            break
        kept += part
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest()).decode()
    return kept + _SHORTENED + digest.rstrip("=").lower()


def _shown(name: str) -> str:
    """A name for a message: quoted, and cut when it is long."""
    return repr(name) if len(name) <= MAX_MEASUREMENT_CHARACTERS else f"{name[:32]!r}…"
