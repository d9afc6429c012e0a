"""A data directory, proved: its tables and logs read as they are, and every contradiction told.

In: a data directory. Out: counts and findings. Nothing is written, locked or mended; whoever
runs a daemon on it need not stop it.

What is proved, beside what `table_survey` and `log_survey` find in each table and segment: no
request that was acknowledged is nowhere. Each request has a number of its shard, without holes
from 1 in each epoch, and is in at least one table or still in the log. A file of a table holds
all requests between its first and last number that have rows for that table; the others are in
other tables, so one table alone shows nothing. But the union of the ranges of all files of all
tables, of the requests in the log, and of those quarantined has a hole only where a request is
in none of them. For a request of several tables that is not enough, but then the log has it:
segments go when all tables have all of it.

What it cannot know:

* what came after the highest number that is anywhere. At the level `disk` nothing did; at `page`
  a power cut, at `memory` any crash, takes requests from the end, and since tables are flushed at
  different times perhaps also from the middle, which is then a gap that nobody was promised not
  to have;
* what a file of somebody else holds, or a table that cannot be read: with such a table gaps are
  warnings;
* what a person has deleted: requests 1 to n of an epoch that are missing are a warning;
* with a daemon at work, what it has taken since its log was read. The log is read before the
  tables, since requests go from the one to the others. Numbers above the highest in the log, in
  the epoch of now, are not judged, and a table that looks wrong is looked at twice.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ingest import delta
from ingest.errors import StorageError
from ingest.findings import Finding, Severity, Span, gaps, heads, in_words, up_to
from ingest.log_survey import LogSurvey, Progress, ShardLog
from ingest.lsn import epoch_of, make_lsn
from ingest.removed import read_removed
from ingest.table_survey import TableMarks, TableReport, TableSurvey

_STATE_DIR = ".arc"
_LIST = "SELECT directory FROM tables"


class Report(msgspec.Struct):
    """What was found.

    Attributes:
        data_dir: That was looked at.
        running: Whether a daemon was at work.
        quick: Whether only footers were read.
        shards: That have a folder.
        tables: With a Delta log.
        files: In them.
        rows: In those.
        size_bytes: Of those.
        log_records: Requests in the log.
        log_bytes: What they take.
        uncommitted_records: Those of them that not all their tables have; None: not looked at.
        findings: What is wrong, the worst first.
    """

    data_dir: str
    running: bool
    quick: bool
    shards: int = 0
    tables: int = 0
    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    log_records: int = 0
    log_bytes: int = 0
    uncommitted_records: int | None = None
    findings: list[Finding] = []

    def count(self, severity: Severity) -> int:
        """How many findings are of a severity."""
        return sum(finding.severity is severity for finding in self.findings)


def verify(
    data_dir: Path,
    *,
    running: bool = False,
    quick: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Look at everything in a data directory.

    Args:
        data_dir: Of a daemon.
        running: Whether one may be at work on it.
        quick: Read the footers of files and check the log, but read no rows and no requests.
        progress: Called with a stage, how much of it is done, and how much there is.

    Raises:
        StorageError: there is no data directory, or it cannot be read.
    """
    report = Report(str(data_dir), running, quick)
    try:
        logs = survey_logs(data_dir, running=running, quick=quick, progress=progress)
        _count_logs(report, logs)
        tables = _survey_tables(report, data_dir, logs, progress)
    except OSError as error:
        raise StorageError(f"cannot read {error.filename or data_dir}: {error.strerror}") from error
    # Read after the tables: it says so before files leave their table.
    removed = read_removed(data_dir / _STATE_DIR)
    report.findings += _judge_requests(logs, tables, removed, running)
    order = list(Severity)
    report.findings.sort(key=lambda found: (order.index(found.severity), found.kind, found.where))
    return report


def survey_logs(
    data_dir: Path,
    *,
    running: bool = False,
    quick: bool = False,
    progress: Progress | None = None,
) -> list[ShardLog]:
    """Look at the logs only. Arguments as for `verify`.

    Raises:
        StorageError: there is no data directory.
        OSError: a file cannot be opened.
    """
    state_dir = data_dir / _STATE_DIR
    if not state_dir.is_dir():
        raise StorageError(
            f"{data_dir} is no data directory: there is no folder {_STATE_DIR} in it"
        )
    marks = TableMarks(data_dir)
    return LogSurvey(state_dir, marks, running=running, quick=quick, progress=progress).run()


def _count_logs(report: Report, logs: Sequence[ShardLog]) -> None:
    report.shards = len(logs)
    live = [file for log in logs for file in log.files if file.state == "live"]
    report.log_records = sum(file.records for file in live)
    report.log_bytes = sum(file.record_bytes for file in live)
    if not report.quick:
        report.uncommitted_records = sum(file.uncommitted_records or 0 for file in live)
    for log in logs:
        report.findings += log.findings


def _survey_tables(
    report: Report, data_dir: Path, logs: Sequence[ShardLog], progress: Progress | None
) -> list[TableReport]:
    staging = data_dir / _STATE_DIR / "staging"
    app_ids = {log.shard: log.app_id for log in logs if log.app_id is not None}
    survey = TableSurvey(
        data_dir,
        app_ids,
        staging,
        running=report.running,
        quick=report.quick,
        progress=progress,
    )
    folders = sorted(_table_folders(data_dir))
    tables = [survey.run(folder) for folder in folders]
    for table in tables:
        has_log = (data_dir / table.folder / delta.LOG_DIR).is_dir()
        report.tables += has_log
        report.files += table.files
        report.rows += table.rows
        report.size_bytes += table.size_bytes
        report.findings += table.findings
    report.findings += _judge_catalog(data_dir, folders)
    if not report.running:
        report.findings += _staged(staging)
    return tables


def _table_folders(data_dir: Path) -> Iterator[str]:
    """Every `{database}/{measurement}` that is there, whoever made it."""
    for database in data_dir.iterdir():
        if database.name != _STATE_DIR and database.is_dir():
            yield from (
                f"{database.name}/{folder.name}" for folder in database.iterdir() if folder.is_dir()
            )


def _judge_catalog(data_dir: Path, folders: Iterable[str]) -> Iterator[Finding]:
    """Tables that the catalog does not know: the next request would give them a schema anew."""
    with_log = [folder for folder in folders if (data_dir / folder / delta.LOG_DIR).is_dir()]
    path = data_dir / _STATE_DIR / "catalog.db"
    where = f"{_STATE_DIR}/{path.name}"
    if not path.exists():
        if with_log:
            what = f"there is no catalog, and there are {len(with_log)} tables"
            yield Finding(Severity.ERROR, "catalog", where, what)
        return
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            known = {row[0] for row in connection.execute(_LIST)}
    except sqlite3.Error as error:
        yield Finding(Severity.ERROR, "catalog", where, f"cannot be read: {error}")
        return
    for folder in with_log:
        if folder not in known:
            yield Finding(Severity.WARNING, "not_in_catalog", folder, "a table of somebody else")


def _staged(staging: Path) -> Iterator[Finding]:
    for path in sorted(staging.iterdir()) if staging.is_dir() else ():
        what = "left by a process that was killed; the next start removes it"
        yield Finding(Severity.NOTE, "staged", f"{_STATE_DIR}/staging/{path.name}", what)


def _judge_requests(
    logs: Sequence[ShardLog],
    tables: Sequence[TableReport],
    removed: Mapping[int, Sequence[Span]],
    running: bool,
) -> Iterator[Finding]:
    """Requests that are nowhere, though nobody removed them on purpose."""
    is_opaque = any(table.is_opaque for table in tables)
    by_shard = {log.shard: log for log in logs}
    shards = by_shard.keys() | {shard for table in tables for shard in table.spans}
    for shard in sorted(shards):
        log = by_shard.get(shard)
        spans = [*(log.spans if log else ()), *removed.get(shard, ())]
        for table in tables:
            spans += table.spans.get(shard, ())
        if running and log is not None:
            spans = up_to(spans, _highest_to_judge(log))
        yield from _judge_shard(shard, spans, is_opaque)


def _highest_to_judge(log: ShardLog) -> int:
    """What a daemon at work gave after that is in no log that we read, and maybe in no table."""
    latest = [last for _, last in log.spans if epoch_of(last) == log.epoch]
    return max(latest, default=make_lsn(log.epoch, 0))


def _judge_shard(shard: int, spans: Sequence[Span], is_opaque: bool) -> Iterator[Finding]:
    where = f"shard {shard:03d}"
    for gap in gaps(spans):
        what = f"{in_words(gap)} are in no table and not in the log"
        if is_opaque:
            what += ", unless they are in a file or table that does not say what it holds"
        severity = Severity.WARNING if is_opaque else Severity.ERROR
        yield Finding(severity, "gap", where, what)
    for head in heads(spans):
        what = f"{in_words(head)} are in no table and not in the log; deleted on purpose?"
        yield Finding(Severity.WARNING, "head", where, what)
