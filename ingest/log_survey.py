"""The logs of all shards, looked at: files in, what they hold and what is wrong with them out.

Every byte of every segment is checked, and each request is decoded to tell whether its tables
have it, unless that is not wanted. Nothing is written, locked or changed, so a daemon may be at
work meanwhile: what it retires while we read is left out, since its tables have all of it, and
what it writes at the end of its last segment is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from ingest.decompress import decompress
from ingest.errors import ClientError
from ingest.findings import Finding, Severity, Span, in_words
from ingest.limits import Limits
from ingest.log_format import Record
from ingest.log_reader import LogReader, SegmentInfo
from ingest.lsn import seq_of
from ingest.msgpack_decoder import decode
from ingest.paths import TableId
from ingest.shard import shard_dir, shard_numbers

#: Told a stage, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]
#: How far a table is with what an application, a shard, writes into it: an LSN, or 0.
Committed = Callable[[str, TableId], int]

_REQUEST = re.compile(r"request-(\d+)\.body", re.ASCII)

#: How often a segment that changes while it is read is read again.
_TRIES = 3

_MAX_BYTES = 2**31 - 1
_NO_LIMITS = Limits(*[_MAX_BYTES] * len(Limits.__struct_fields__))


class LogFile(msgspec.Struct, frozen=True):
    """One file of a shard's log, or beside it.

    Attributes:
        shard: Whose.
        name: Of the file.
        state: "live": a segment that the next start reads. "spare": one that waits for reuse.
            "aside": a copy of a damaged one. "quarantined": a request that no table takes.
        size_bytes: Of the file.
        number: Of the segment; like all that follows, of live segments only.
        epoch: Of its requests.
        first_seq: Number of its first valid request in its epoch; 0: it has none.
        last_seq: The same of its last.
        records: Valid requests in it.
        record_bytes: What they take.
        torn_bytes: Of a write at the end that a crash cut short.
        corrupt: Damaged places.
        oldest_us: Arrival of its first request, microseconds since 1970-01-01T00:00Z.
        uncommitted_records: Requests that not all their tables have yet; None: not looked at.
        uncommitted_bytes: What those take.
    """

    shard: int
    name: str
    state: str
    size_bytes: int
    number: int | None = None
    epoch: int | None = None
    first_seq: int = 0
    last_seq: int = 0
    records: int = 0
    record_bytes: int = 0
    torn_bytes: int = 0
    corrupt: int = 0
    oldest_us: int | None = None
    uncommitted_records: int | None = None
    uncommitted_bytes: int | None = None


class ShardLog(msgspec.Struct):
    """The log of one shard.

    Attributes:
        shard: Its number.
        app_id: Under which tables keep how far it is; None: the shard has lost its identity.
        epoch: Of its latest start; 0: not known.
        files: Live segments in order, then the others.
        spans: Requests that are in the log or quarantined.
        findings: What is wrong.
    """

    shard: int
    app_id: str | None
    epoch: int
    files: list[LogFile] = []
    spans: list[Span] = []
    findings: list[Finding] = []


class LogSurvey:
    """One look at all logs of a data directory.

    Args:
        state_dir: `{data_dir}/.arc`.
        committed: How far a table is; not asked with `quick`.
        running: Whether a daemon may be at work on it.
        quick: Do not decode requests, so that it is not known which of them tables have.
        progress: Told the bytes of the log that are read.
    """

    def __init__(
        self,
        state_dir: Path,
        committed: Committed,
        *,
        running: bool = False,
        quick: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._committed = committed
        self._running = running
        self._quick = quick
        self._progress = progress or _no_progress
        self._done_bytes = self._total_bytes = 0

    def run(self) -> list[ShardLog]:
        """Look at every shard.

        Raises:
            OSError: a folder or file cannot be opened.
        """
        numbers = shard_numbers(self._state_dir)
        readers = {number: self._reader(number) for number in numbers}
        self._total_bytes = sum(reader.total_bytes for reader in readers.values())
        return [self._shard(number, reader) for number, reader in readers.items()]

    def _reader(self, number: int) -> LogReader:
        for _ in range(_TRIES):
            try:
                return LogReader(shard_dir(self._state_dir, number) / "log")
            except FileNotFoundError:  # a segment was retired between two calls
                if not self._running:
                    raise
        return LogReader(shard_dir(self._state_dir, number) / "log")

    def _shard(self, number: int, reader: LogReader) -> ShardLog:
        folder = shard_dir(self._state_dir, number)
        identity, epoch = _text(folder / "id"), _text(folder / "epoch")
        log = ShardLog(
            number,
            f"arc-{number:03d}-{identity}" if identity else None,
            int(epoch) if epoch.isdecimal() else 0,
        )
        before = None
        for path in reader.segments:
            info = self._scan(reader, path)
            if info is not None:
                self._segment(log, reader, info)
                log.findings += self._judge(log, info, before)
                before = info
        self._others(log, folder)
        return log

    def _scan(self, reader: LogReader, path: Path) -> SegmentInfo | None:
        """Read a segment; None: the daemon has retired it meanwhile."""
        for _ in range(_TRIES):
            try:
                inode = path.stat().st_ino
                info = reader.scan(path)
                if not self._running or not (info.corrupt or info.torn_bytes):
                    return info
                if path.stat().st_ino != inode:
                    return None
            except FileNotFoundError:
                if not self._running:
                    raise
                return None
            reader = LogReader(path.parent)  # it may not be the last any more
        return info

    def _segment(self, log: ShardLog, reader: LogReader, info: SegmentInfo) -> None:
        """Add what a segment holds."""
        spans: list[Span] = []
        if info.num_records and info.last_lsn - info.first_lsn + 1 == info.num_records:
            spans.append((info.first_lsn, info.last_lsn))
        left_records = left_bytes = 0
        for record in () if self._quick and spans else self._records(reader, info):
            if not spans or record.lsn > spans[-1][1]:
                spans.append((record.lsn, record.lsn))
            if not self._quick and not self._is_committed(log.app_id, record):
                left_records += 1
                left_bytes += record.size_bytes
            self._progress("log", self._done_bytes + record.offset, self._total_bytes)
        self._done_bytes += info.size_bytes
        log.spans += spans
        log.files.append(
            LogFile(
                shard=log.shard,
                name=info.path.name,
                state="live",
                size_bytes=info.size_bytes,
                number=info.number,
                epoch=info.epoch,
                first_seq=seq_of(info.first_lsn),
                last_seq=seq_of(info.last_lsn),
                records=info.num_records,
                record_bytes=info.record_bytes,
                torn_bytes=0 if self._running else info.torn_bytes,
                corrupt=len(info.corrupt),
                oldest_us=self._oldest_us(reader, info),
                uncommitted_records=None if self._quick else left_records,
                uncommitted_bytes=None if self._quick else left_bytes,
            )
        )

    def _records(self, reader: LogReader, info: SegmentInfo) -> Iterator[Record]:
        """The records of a segment, as long as the file is there."""
        try:
            yield from reader.records(info.path, info.valid_bytes)
        except FileNotFoundError:
            if not self._running:
                raise

    def _oldest_us(self, reader: LogReader, info: SegmentInfo) -> int | None:
        first = next(self._records(reader, info), None) if info.num_records else None
        return first.head.arrival_us if first else None

    def _is_committed(self, app_id: str | None, record: Record) -> bool:
        """Whether all tables of a request have it, as a replay would find."""
        if app_id is None:
            return False
        head = record.head
        try:
            body = decompress(record.body, "", _MAX_BYTES)
            batches = decode(body, head.arrival_us, _NO_LIMITS, head.time_unit)
        except ClientError:
            return False
        names = {batch.measurement for batch in batches}
        return all(
            self._committed(app_id, TableId(head.database, name)) >= record.lsn for name in names
        )

    def _judge(
        self, log: ShardLog, info: SegmentInfo, before: SegmentInfo | None
    ) -> Iterator[Finding]:
        """What is wrong with a segment."""
        where = f".arc/shards/{log.shard:03d}/log/{info.path.name}"
        if before is not None and info.number > before.number + 1:
            yield Finding(
                Severity.WARNING,
                "log_hole",
                where,
                f"no segment has a number of {before.number + 1} to {info.number - 1}; harmless "
                "unless requests are missing, which would be a finding of its own",
            )
        for damage in info.corrupt:
            yield Finding(
                Severity.WARNING if damage.in_last_group else Severity.ERROR,
                "log_corrupt",
                where,
                f"{damage.size_bytes} bytes at {damage.offset}: {damage.reason}"
                + ("; perhaps never acknowledged" if damage.in_last_group else ""),
            )
        if info.torn_bytes and not self._running:
            yield Finding(
                Severity.NOTE,
                "log_torn",
                where,
                f"{info.torn_bytes} bytes at {info.valid_bytes} are of a write that was cut "
                "short, and that nobody was told of",
            )

    def _others(self, log: ShardLog, folder: Path) -> None:
        """Add spare files, and what was set aside."""
        kinds = (("log", "spare-*.log", "spare"), ("aside", "*.log", "aside"))
        asides = (*kinds, ("aside", "request-*.body", "quarantined"))
        for where, pattern, state in asides:
            for path in sorted((folder / where).glob(pattern)):
                try:
                    size_bytes = path.stat().st_size
                except FileNotFoundError:
                    continue
                log.files.append(LogFile(log.shard, path.name, state, size_bytes))
                log.findings += _set_aside(log, path, state)


def _set_aside(log: ShardLog, path: Path, state: str) -> Iterator[Finding]:
    where = f".arc/shards/{log.shard:03d}/aside/{path.name}"
    if state == "aside":
        yield Finding(Severity.WARNING, "log_aside", where, "a copy of a damaged part of the log")
    request = _REQUEST.fullmatch(path.name)
    if state == "quarantined" and request:
        lsn = int(request[1])
        log.spans.append((lsn, lsn))
        yield Finding(
            Severity.WARNING,
            "quarantined",
            where,
            f"{in_words((lsn, lsn))} was accepted, and no table takes it; its body is kept here",
        )


def _text(path: Path) -> str:
    """A small file, without the spaces around it; empty when there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _no_progress(stage: str, done: int, total: int) -> None:
    """Nobody looks."""
