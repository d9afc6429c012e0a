"""When a table is worth a compactor's look again, so that a look at a thousand costs little.

In: the folders of tables, and what the last look at each of them found. Out: those of which the
answer may be another by now. Only a table's log is read, and of it only the commits that came
since; a row is never here, and nothing is merged. Imports nothing heavy: mostly nothing is due.

A table of which nothing was left to do is quiet until an hour or a day ends that it has files of,
rows come for one that is over, files that left it may be removed from the disk, or half a day has
passed, whatever happens to clocks. That is kept in one small file below `.arc`, for the next
process. A crash loses it at the worst, and costs a look at every table. Whoever writes it holds
`turn.my_compaction`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from ingest.clock import Clock, SystemClock
from ingest.disk import refusals, replace_file
from ingest.paths import HOUR_US

#: As `delta` has it, which this must not import.
LOG_DIR = "_delta_log"

_NAME = ".arc/compaction.json"

#: Less than commits stay in a log (`delta.LOG_RETENTION`), so that none is missed.
_LONGEST_US = 12 * HOUR_US

#: Of a change so short ago, the time does not tell whether another one followed it.
_DOUBT_US = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Times(msgspec.Struct):
    """Of a file's statistics. ISO 8601 with a zone."""

    time: str | None = None


class _Stats(msgspec.Struct, rename="camel"):
    max_values: _Times | None = None


class _Added(msgspec.Struct):
    stats: str | None = None


class _Removed(msgspec.Struct, rename="camel"):
    deletion_timestamp: int | None = None


class _Line(msgspec.Struct):
    """What of a line of a commit matters here."""

    add: _Added | None = None
    remove: _Removed | None = None


_LINES = msgspec.json.Decoder(_Line)
_STATS = msgspec.json.Decoder(_Stats)


class _Quiet(msgspec.Struct, frozen=True, array_like=True):
    """What a look has found.

    Attributes:
        version: Of the table, up to which its commits are taken into account.
        changed_ns: When its log had changed last by then, nanoseconds since 1970; 0: not known.
        until_us: When there may be something to do, microseconds since 1970-01-01T00:00Z.
    """

    version: int
    changed_ns: int
    until_us: int


class _Known(msgspec.Struct, frozen=True):
    """The content of the file.

    Attributes:
        older_than_s: How long ago an hour or a day must have ended, when it was made.
        grace_s: How long files that left their table stayed on the disk.
        tables: By folder.
    """

    older_than_s: float
    grace_s: float
    tables: dict[str, _Quiet]


class Looks:
    """Which tables of a data directory are quiet.

    Args:
        data_dir: Whose tables.
        older_than_s: How long ago an hour or a day must have ended.
        grace_s: How long files that left their table stay on the disk.
        clock: By which both are told.
    """

    def __init__(
        self, data_dir: Path, older_than_s: float, grace_s: float, clock: Clock | None = None
    ) -> None:
        self._root = data_dir
        self._older_than_us = round(older_than_s * 1e6)
        self._grace_us = round(grace_s * 1e6) + _DOUBT_US
        self._clock = clock or SystemClock()
        self._saved = self._read(_Known(older_than_s, grace_s, {}))
        self._tables = dict(self._saved.tables)
        # Of those that are due, when `due` looked: the last change of the log, and its version.
        self._changed_ns: dict[str, int] = {}
        self._versions: dict[str, int] = {}

    def due(self) -> list[str]:
        """Folders of the tables that are not quiet, below the data directory, sorted.

        Raises:
            StorageError: the disk refuses to tell.
        """
        now_us = self._clock.now_us()
        tables: dict[str, _Quiet] = {}
        self._changed_ns, self._versions = {}, {}
        for folder in self._folders():
            changed_ns = self._last_change_ns(folder)
            quiet = self._tables.get(folder)
            if quiet is not None:
                quiet = self._follow(folder, quiet, changed_ns, now_us)
            # A time that is far ahead is of a clock that was wrong.
            if quiet is not None and now_us < quiet.until_us <= now_us + _LONGEST_US:
                tables[folder] = quiet
            else:
                self._changed_ns[folder] = changed_ns
                self._versions[folder] = self._last_version(folder)
        self._tables = tables
        return sorted(self._changed_ns)

    def settled(self, folder: str, version: int | None, due_us: int | None) -> None:
        """Nothing is left to do for a table that was due.

        Args:
            folder: Of the table.
            version: Of the table when that was found; None: not known.
            due_us: When there is, should nothing more come; microseconds since
                1970-01-01T00:00Z. None: never.
        """
        now_us, changed_ns = self._clock.now_us(), self._changed_ns[folder]
        if version is None:
            version = self._versions[folder]
        dues = [now_us + _LONGEST_US] if due_us is None else [now_us + _LONGEST_US, due_us]
        # What left the table, did so by its last change at the latest.
        gone_us = self._last_change_ns(folder) // 1000 + self._grace_us
        if gone_us > now_us:
            dues.append(gone_us)
        # Known as of `due`: whatever came after that is found by its version.
        self._tables[folder] = _Quiet(version, self._certain(changed_ns, now_us), min(dues))

    def save(self) -> None:
        """Keep it for the next process, if it has changed.

        Raises:
            StorageError: the disk refuses.
        """
        known = msgspec.structs.replace(self._saved, tables=self._tables)
        if known == self._saved:
            return
        path = self._root / _NAME
        with refusals(path, "write"):
            replace_file(path, msgspec.json.encode(known), path.with_suffix(".tmp"))
        self._saved = known

    def _read(self, mine: _Known) -> _Known:
        """What the last process kept, unless it had other limits."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            found = msgspec.json.decode((self._root / _NAME).read_bytes(), type=_Known)
            if msgspec.structs.replace(found, tables={}) == mine:
                return found
        return mine

    def _follow(self, folder: str, quiet: _Quiet, changed_ns: int, now_us: int) -> _Quiet | None:
        """What is known of a table, with the commits that came since; None: it cannot be told."""
        if quiet.changed_ns == changed_ns:
            return quiet
        version, until_us = quiet.version, quiet.until_us
        for content in self._commits(folder, version + 1):
            try:
                until_us = min(until_us, self._due_us(content))
            except (ValueError, OverflowError, UnicodeDecodeError):  # msgspec's are ValueErrors
                return None
            version += 1
        return _Quiet(version, self._certain(changed_ns, now_us), until_us)

    def _commits(self, folder: str, version: int) -> Iterator[bytes]:
        """The commits of a table from a version on."""
        while True:
            path = self._root / folder / LOG_DIR / f"{version:020d}.json"
            with refusals(path, "read"):
                try:
                    content = path.read_bytes()
                except FileNotFoundError:
                    return
            yield content
            version += 1

    def _due_us(self, commit: bytes) -> int:
        """When a commit gives something to do: the end of an hour, or files to remove."""
        dues = [2 * _LONGEST_US + self._clock.now_us()]
        for line in commit.splitlines():
            found = _LINES.decode(line)
            if found.remove is not None:
                dues.append((found.remove.deletion_timestamp or 0) * 1000 + self._grace_us)
            if found.add is not None and found.add.stats:
                last = _STATS.decode(found.add.stats).max_values
                if last is not None and last.time is not None:
                    time_us = (datetime.fromisoformat(last.time) - _EPOCH) // _MICROSECOND
                    dues.append((time_us // HOUR_US + 1) * HOUR_US + self._older_than_us)
        return min(dues)

    def _folders(self) -> Iterator[str]:
        """Of all tables, whoever made them."""
        for database in _subfolders(self._root):
            if not database.startswith("."):
                for measurement in _subfolders(self._root / database):
                    if (self._root / database / measurement / LOG_DIR).is_dir():
                        yield f"{database}/{measurement}"

    def _last_change_ns(self, folder: str) -> int:
        """When a file last came into a table's log, or left it."""
        path = self._root / folder / LOG_DIR
        with refusals(path, "look at"):
            return path.stat().st_mtime_ns

    def _last_version(self, folder: str) -> int:
        """Of the commits that are in a table's log; -1: none is."""
        path = self._root / folder / LOG_DIR
        with refusals(path, "list"):
            names = [name for name in os.listdir(path) if name.endswith(".json")]
        return max((int(name[:-5]) for name in names if name[:-5].isdecimal()), default=-1)

    def _certain(self, changed_ns: int, now_us: int) -> int:
        """The time of a change, if it tells that nothing else followed it; else 0."""
        return changed_ns if changed_ns // 1000 < now_us - _DOUBT_US else 0


def _subfolders(path: Path) -> list[str]:
    with refusals(path, "list"), os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir()]
