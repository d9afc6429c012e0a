"""`saved-log`: a log that a killed daemon left, cut off at every byte, and with flipped bits.

A daemon at level `disk` is killed with all rows in its log. Then, in this process and on copies:

* the segment with the last records is cut off at every byte of these, once by an end of the file
  and once by zeros up to it, as in a preallocated file: every record that ends before the cut
  must be read, and nothing else;
* single bits are flipped at random places of all records: the record with the flipped bit must
  not be read and be reported, every other record must be read as it was.

And through a daemon that is started on a damaged copy, for a sample of both: the rows of all sound
records are stored, those of the damaged ones are not, `/metrics` and `.arc/shards/*/aside` say so.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.torture.load import Ledger, Load, Options, Outcome, Request, encode
from benchmarks.torture.oracle import Verdict, judge
from benchmarks.torture.program import Context
from ingest.log_reader import LogReader, Record, SegmentInfo

#: Nothing is flushed; small bodies, so that many records lie in a few bytes, in several segments.
FLAGS = (
    *("--workers", "1", "--durability", "disk", "--flush-age-s", "86400"),
    *("--log-segment-bytes", "256KiB"),
)
ROW_COUNTS = ((0.9, 1, 20), (0.1, 20, 60))
MEASUREMENTS = ("cpu", "disk/io")
#: Requests in the log, last records that are cut at every byte, flips, and daemons for each.
FULL = (600, 4, 1000, 20, 10)
QUICK = (60, 1, 40, 1, 0)
LOG = Path(".arc/shards/000/log")
ASIDE = Path(".arc/shards/000/aside")


class Place(NamedTuple):
    """A record, and where it lies."""

    path: Path
    record: Record

    @property
    def end(self) -> int:
        """The byte after it."""
        return self.record.offset + self.record.size_bytes


class SavedLog:
    """The program; see the module."""

    name = "saved-log"
    description = "a log cut off at every byte of its last records, and single-bit flips"
    default_rounds = 1
    record_rounds = 1
    group = 1

    def requirement(self) -> str | None:
        """It runs everywhere."""
        return None

    def round(self, context: Context) -> Verdict:
        """Make a log, then damage copies of it."""
        requests, tail, flips, cut_daemons, flip_daemons = QUICK if context.quick else FULL
        saved = context.folder / "saved"
        verdict = _make_log(context, saved, requests)
        places = read_all(saved / LOG)
        verdict.figures |= {"records": len(places), "segments": len({p.path for p in places})}
        verdict.require(len(places) >= requests, f"{len(places)} records, {requests} answers")
        _cut_everywhere(context, places, tail, verdict)
        _flip_bits(context, places, flips, verdict)
        for cut in _sample_of_cuts(context.chance, places, cut_daemons):
            _restart_on_cut(context, saved, places, cut, verdict)
        for place, bit in _sample_of_flips(context.chance, places, flip_daemons):
            _restart_on_flip(context, saved, places, place, bit, verdict)
        return verdict


def _make_log(context: Context, saved: Path, requests: int) -> Verdict:
    """Let a daemon take requests, and kill it; its data is moved to `saved`."""
    options = Options(
        seed=context.chance.randrange(1 << 30),
        row_counts=ROW_COUNTS,
        measurements=MEASUREMENTS,
        encodings=("",),
    )
    with context.daemon(*FLAGS) as daemon:
        daemon.start()
        daemon.wait_until_ready()
        with Load(daemon.address, context.ledger, options) as load:
            load.wait_for(requests)
        daemon.kill_tree()
    context.data_dir.rename(saved)
    rows = sum(r.count for r in context.ledger.requests if r.outcome == Outcome.ACKNOWLEDGED)
    verdict = Verdict(requests=len(context.ledger.requests), acknowledged_rows=rows)
    odd = {status: n for status, n in context.ledger.statuses().items() if status != 204}
    verdict.require(not odd, f"answers to the load by status: {odd}")
    return verdict


def read_all(log: Path) -> list[Place]:
    """Every record of a log, in order."""
    reader = LogReader(log)
    return [Place(path, record) for path in reader.segments for record in reader.records(path)]


def _read(path: Path) -> tuple[SegmentInfo, list[Record]]:
    reader = LogReader(path.parent)
    return reader.scan(path), list(reader.records(path))


# -------------------------------------------------------------------------------- cut, in process


def _cut_everywhere(context: Context, places: Sequence[Place], tail: int, verdict: Verdict) -> None:
    """Cut the last segment at every byte of its last records, from the end to the front."""
    last = [place for place in places if place.path == places[-1].path]
    start = last[-tail].record.offset if tail <= len(last) else last[0].record.offset
    for zeros in (False, True):
        path = _copy_of(context, last[0].path)
        for cut in range(last[-1].end, start - 1, -1):
            _cut(path, cut, zeros=zeros)
            whole = [place.record for place in last if place.end <= cut]
            info, records = _read(path)
            how = "zeros from" if zeros else "cut off at"
            verdict.require(records == whole, f"{how} byte {cut}: {_difference(whole, records)}")
            verdict.require(not info.corrupt, f"{how} byte {cut}: corrupt, {info.corrupt}")
        shutil.rmtree(path.parent)
    verdict.figures["bytes cut at"] = last[-1].end - start


def _cut(path: Path, cut: int, *, zeros: bool) -> None:
    size_bytes = path.stat().st_size
    os.truncate(path, cut)
    if zeros:
        os.truncate(path, size_bytes)


def _difference(wanted: Sequence[Record], got: Sequence[Record]) -> str:
    known = {record.lsn: record for record in wanted}
    missing = sorted(known.keys() - {record.lsn for record in got})
    changed = [r.lsn for r in got if r.lsn in known and r != known[r.lsn]]
    extra = [r.lsn for r in got if r.lsn not in known]
    return f"records missing {missing[:5]}, changed {changed[:5]}, not wanted {extra[:5]}"


# ------------------------------------------------------------------------------- flip, in process


def _flip_bits(context: Context, places: Sequence[Place], flips: int, verdict: Verdict) -> None:
    """Flip single bits, each on the sound log."""
    log = _copy_of(context, places[0].path).parent
    for path in {place.path for place in places[1:]} - {places[0].path}:
        shutil.copy(path, log)
    torn = 0
    for place, bit in _sample_of_flips(context.chance, places, flips):
        path = log / place.path.name
        flip(path, bit)
        info, records = _read(path)
        flip(path, bit)
        others = [p.record for p in places if p.path == place.path and p != place]
        told = f"bit {bit} of {path.name}, record {place.record.lsn}"
        verdict.require(records == others, f"{told}: {_difference(others, records)}")
        verdict.require(info.corrupt or info.torn_bytes, f"{told}: not reported")
        torn += not info.corrupt
    verdict.figures |= {"flips": flips, "flips called torn": torn}
    shutil.rmtree(log)


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over; twice leaves it as it was."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        (octet,) = os.pread(descriptor, 1, bit // 8)
        os.pwrite(descriptor, bytes([octet ^ 1 << bit % 8]), bit // 8)
    finally:
        os.close(descriptor)


def _sample_of_flips(
    chance: random.Random, places: Sequence[Place], count: int
) -> Iterator[tuple[Place, int]]:
    """Records, every byte of all of them as likely as any other, and a bit in their files."""
    weights = [place.record.size_bytes for place in places]
    for place in chance.choices(places, weights, k=count):
        yield place, place.record.offset * 8 + chance.randrange(place.record.size_bytes * 8)


def _copy_of(context: Context, path: Path) -> Path:
    """A segment alone in a new folder."""
    folder = context.folder / "log"
    folder.mkdir()
    return Path(shutil.copy(path, folder))


# ------------------------------------------------------------------------------ through a daemon


def _sample_of_cuts(chance: random.Random, places: Sequence[Place], count: int) -> list[int]:
    """Places to cut the last segment at: anywhere in its records, at both ends of one too."""
    last = [place for place in places if place.path == places[-1].path]
    edges = [last[-1].record.offset, last[-1].end, last[-1].end - 1, last[0].record.offset + 1]
    more = [chance.randrange(last[0].record.offset, last[-1].end) for _ in range(count)]
    return [*edges, *more][:count] if count >= len(edges) else more[:count]


def _restart_on_cut(
    context: Context, saved: Path, places: Sequence[Place], cut: int, verdict: Verdict
) -> None:
    path = places[-1].path
    gone = [place for place in places if place.path == path and place.end > cut]
    data_dir = _copy_of_data(context, saved)
    _cut(data_dir / LOG / path.name, cut, zeros=context.chance.random() < 0.5)
    corrupt = _restart(context, data_dir, gone, verdict, f"cut at byte {cut}")
    verdict.require(not corrupt, f"cut at byte {cut}: arc_log_corrupt_total is {corrupt:g}")
    shutil.rmtree(data_dir)


def _restart_on_flip(
    context: Context,
    saved: Path,
    places: Sequence[Place],
    place: Place,
    bit: int,
    verdict: Verdict,
) -> None:
    data_dir, told = _copy_of_data(context, saved), f"bit {bit} of {place.path.name}"
    path = data_dir / LOG / place.path.name
    flip(path, bit)
    info, _ = _read(path)
    corrupt = _restart(context, data_dir, [place], verdict, told)
    if info.corrupt:
        kept = list((data_dir / ASIDE).glob(f"{info.number:012d}-*"))
        verdict.require(kept, f"{told}: nothing was set aside")
        verdict.require(corrupt == 1, f"{told}: arc_log_corrupt_total is {corrupt:g}")
    shutil.rmtree(data_dir)


def _copy_of_data(context: Context, saved: Path) -> Path:
    shutil.copytree(saved, context.data_dir, ignore=shutil.ignore_patterns("*.sock"))
    return context.data_dir


def _restart(
    context: Context, data_dir: Path, gone: Sequence[Place], verdict: Verdict, told: str
) -> float:
    """Start a daemon on damaged data, stop it, and judge; returns how much it called corrupt."""
    with context.daemon("--workers", "1", data_dir=data_dir) as daemon:
        daemon.start()
        daemon.wait_until_ready()
        corrupt = daemon.metric("arc_log_corrupt_total")
        status = daemon.stop()
    found = judge(data_dir, _without(context.ledger, gone))
    found.requests = found.refused = found.acknowledged_rows = 0  # the same in every restart
    for name, count in found.faults().items():
        found.note(f"{told}: {count} {name}")
    verdict.require(status == 0, f"{told}: the daemon ended with status {status}")
    verdict.add(found)
    return corrupt


def _without(ledger: Ledger, gone: Sequence[Place]) -> Ledger:
    """The ledger as if what lay in some records had been refused: it must not be stored."""
    bodies = {place.record.body for place in gone}
    out = Ledger()
    for request in ledger.requests:
        out.add(_refused(request) if encode(request) in bodies else request)
    return out


def _refused(request: Request) -> Request:
    changed = {name: getattr(request, name) for name in Request.__slots__}
    return Request(**changed | {"outcome": Outcome.REFUSED})


PROGRAMS = (SavedLog(),)
