"""Settings of a client: arguments or the environment in, one frozen `Settings` out.

This is the only module of the client that reads the environment. It opens nothing and connects to
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from arc.client.errors import UsageError

Policy = Literal["block", "raise", "drop_oldest", "spill"]
Compress = Literal["auto", "always", "never"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

#: Read from the environment beside ARC_CLIENT_<NAME> for every other setting.
SHORT_NAMES = {"url": "ARC_URL", "token": "ARC_TOKEN", "database": "ARC_DATABASE"}
ENV_PREFIX = "ARC_CLIENT_"

#: Larger bodies than the daemon takes by default would be refused with 413.
MAX_BATCH_BYTES = 64 * MIB


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a client was told, checked.

    Attributes:
        url: Of the daemon: http or https, with a path before /api if a proxy wants one.
        token: Sent as `Authorization: Bearer`; None sends none.
        database: Where the rows go.
        batch_rows: Rows of one request. 10 000: a request costs some 0.2 ms whatever its size, and
            the daemon decodes 10 000 rows as fast per row as 100 000.
        batch_bytes: Bytes of one request before compression.
        linger_s: The longest that a row waits for company before it is sent.
        max_queued_rows: Rows of log calls that wait to be encoded.
        max_queued_bytes: Bytes of encoded batches that wait in memory to be acknowledged.
        when_full: What a call does when both are used up.
        spill_dir: Directory of the spill; goes with `when_full="spill"`.
        spill_bytes: Bound of the spill directory.
        spill_sync: Sync the spill's files, so that they survive a power cut of this machine.
        connections: Requests under way at once, each on a kept-open connection.
        timeout_s: For one answer.
        connect_timeout_s: For one connection to open.
        give_up_s: How long a batch is tried after its first failure; None: for ever.
        close_timeout_s: How long closing, and the end of the process, wait for what is queued.
        compress: `auto` compresses unless the daemon is on this machine.
        compress_bytes: Smaller bodies are sent as they are.
    """

    url: str = "http://127.0.0.1:8000"
    token: str | None = None
    database: str = "default"
    batch_rows: int = 10_000
    batch_bytes: int = 4 * MIB
    linger_s: float = 0.1
    max_queued_rows: int = 100_000
    max_queued_bytes: int = 64 * MIB
    when_full: Policy = "block"
    spill_dir: str | None = None
    spill_bytes: int = GIB
    spill_sync: bool = False
    connections: int = 4
    timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    give_up_s: float | None = None
    close_timeout_s: float = 30.0
    compress: Compress = "auto"
    compress_bytes: int = 4 * KIB

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__ if name != "token"}
        token = None if self.token is None else "..."
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in shown.items())}, token={token!r})"


#: Least and greatest of every number; durations in seconds.
BOUNDS: dict[str, tuple[float, float]] = {
    "batch_rows": (1, 1_000_000),
    "batch_bytes": (KIB, MAX_BATCH_BYTES),
    "linger_s": (0.0, 3600.0),
    "max_queued_rows": (1, 1_000_000_000),
    "max_queued_bytes": (KIB, 1 << 50),
    "spill_bytes": (64 * KIB, 1 << 50),
    "connections": (1, 64),
    "timeout_s": (0.001, 3600.0),
    "connect_timeout_s": (0.001, 3600.0),
    "give_up_s": (0.0, 1e9),
    "close_timeout_s": (0.0, 1e9),
    "compress_bytes": (0, 1 << 50),
}


def checked(given: Mapping[str, Any]) -> Settings:
    """Settings from arguments by name.

    Raises:
        UsageError: an unknown name, or a value of the wrong type or out of bounds.
    """
    return _checked(given, strict=True)


def from_environment(environ: Mapping[str, str] | None, given: Mapping[str, Any]) -> Settings:
    """Settings from the environment, arguments before it.

    Args:
        environ: Instead of the process's.
        given: Arguments by name; they win.

    Raises:
        UsageError: as `checked`, naming the variable.
    """
    environ = os.environ if environ is None else environ
    names = {SHORT_NAMES.get(n, ENV_PREFIX + n.upper()): n for n in Settings.__struct_fields__}
    found = {names[name]: text for name, text in environ.items() if name in names and text != ""}
    unknown = [n for n in environ if n.startswith(ENV_PREFIX) and n not in names]
    if unknown:
        raise UsageError(f"environment {min(unknown)}: no such setting of the client")
    from_text = _checked(found, strict=False)
    settings = {name: getattr(from_text, name) for name in found}
    return _checked(settings | dict(given), strict=True)


def _checked(given: Mapping[str, Any], *, strict: bool) -> Settings:
    given = dict(given)
    if isinstance(given.get("spill_dir"), os.PathLike):
        given["spill_dir"] = os.fspath(given["spill_dir"])
    unknown = given.keys() - set(Settings.__struct_fields__)
    if unknown:
        raise UsageError(f"setting {min(unknown)!r}: there is none of this name")
    try:
        settings = msgspec.convert(given, Settings, strict=strict)
    except msgspec.ValidationError as error:
        raise UsageError(f"settings: {error}") from None
    _check_bounds(settings)
    return settings


def _check_bounds(settings: Settings) -> None:
    for name, (least, greatest) in BOUNDS.items():
        value = getattr(settings, name)
        if value is not None and not least <= value <= greatest:
            raise UsageError(f"setting {name}: found {value}, wanted {least:g} to {greatest:g}")
    if (settings.when_full == "spill") != (settings.spill_dir is not None):
        raise UsageError(
            "settings when_full and spill_dir: a directory goes with when_full='spill', and only "
            f"with it; found {settings.when_full!r} and {settings.spill_dir!r}"
        )
    for name in ("token", "database"):
        text = getattr(settings, name)
        if text is not None and not (
            text.isascii() and text.isprintable() and text == text.strip()
        ):
            raise UsageError(f"setting {name}: wanted printable ASCII without spaces around it")
