"""Names of databases and measurements, to the folders of their tables. Pure.

In: names as clients send them. Out: `{database}/{measurement}` below the data directory. Nothing
here touches a disk.

The rule is the daemon's (docs/design.md, "Names in paths"): `a-z 0-9 _ - .` stand for themselves,
every other character is `@` and two hexadecimal digits for each byte of its UTF-8; so are a dot at
either end, and the first letter of names that are devices on Windows or the log of a table. What is
longer than 255 bytes is its beginning, `@@`, and the SHA-256 of the name in base 32. It is written
here again because readers import nothing of the daemon; tests/reader/test_names.py holds the two
equal.
"""

from __future__ import annotations

import base64
import hashlib
import re

from arc.reader.errors import UsageError

_MAX_FOLDER_BYTES = 255
_SHORTENED_PREFIX_BYTES = 64
_MAX_CHARACTERS = 128
_LITERAL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-.")
_DEVICES = frozenset({"con", "prn", "aux", "nul"}) | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in range(10)
}
_RESERVED = frozenset({"_delta_log"})
_DATABASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}").fullmatch
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search


def check_database(name: object) -> None:
    """Refuse a name that no database has.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(name, str) or not _DATABASE(name):
        raise UsageError(
            f"database {_shown(name)}: wanted 1 to 64 characters, first a letter, "
            "then letters, digits, '_' or '-' (ASCII)"
        )


def check_measurement(name: object) -> None:
    """Refuse a name that no measurement has.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_CHARACTERS or _CONTROL(name):
        raise UsageError(
            f"measurement {_shown(name)}: wanted 1 to {_MAX_CHARACTERS} characters, none of them "
            "a control character"
        )


def table_dir(database: str, measurement: str) -> str:
    """Folder of a table below the data directory, with "/" between its parts.

    Raises:
        UsageError: A name that is none.
    """
    check_database(database)
    check_measurement(measurement)
    return f"{_folder(database)}/{_folder(measurement)}"


def _folder(name: str) -> str:
    parts = [character if character in _LITERAL else _escaped(character) for character in name]
    if parts[0] == ".":
        parts[0] = _escaped(".")
    if parts[-1] == ".":
        parts[-1] = _escaped(".")
    folder = "".join(parts)
    if folder.partition(".")[0] in _DEVICES or folder in _RESERVED:
        parts[0] = _escaped(name[0])
        folder = "".join(parts)
    return folder if len(folder) <= _MAX_FOLDER_BYTES else _shortened(name, parts)


def _escaped(character: str) -> str:
    return "".join(f"@{byte:02X}" for byte in character.encode())


def _shortened(name: str, parts: list[str]) -> str:
    kept = ""
    for part in parts:
        if len(kept) + len(part) > _SHORTENED_PREFIX_BYTES:
            break
        kept += part
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest()).decode()
    return f"{kept}@@{digest.rstrip('=').lower()}"


def _shown(name: object) -> str:
    shown = repr(name)
    return shown if len(shown) <= _MAX_CHARACTERS + 2 else f"{shown[:32]}…"
