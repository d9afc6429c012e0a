"""What an inspection reports, and arithmetic on ranges of log sequence numbers. Pure.

In: ranges of numbers, in any order. Out: the same as few ranges, and what is missing between
them. Nothing here reads a file or decides what is wrong.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from ingest.lsn import epoch_of, make_lsn, seq_of

#: First and last log sequence number, both in the range, of one epoch.
Span: TypeAlias = tuple[int, int]


class Severity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "error"  # rows are lost, doubled, or not readable as the table says
    WARNING = "warning"  # nothing is wrong with the rows that are there, but a person should look
    NOTE = "note"  # what a crash leaves, and the next start cleans up


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be.

    Attributes:
        severity: How bad.
        kind: Short word, the same for all findings of a sort.
        where: A file or folder below the data directory, or a shard.
        what: For people: what was found, and what was wanted.
    """

    severity: Severity
    kind: str
    where: str
    what: str


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same numbers as few ranges, ascending: none touches another."""
    out: list[Span] = []
    for first, last in sorted(spans):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def up_to(spans: Iterable[Span], highest: int) -> list[Span]:
    """The ranges without what lies above a number."""
    return [(first, min(last, highest)) for first, last in spans if first <= highest]


def gaps(spans: Iterable[Span]) -> Iterator[Span]:
    """What is missing between the lowest and the highest number of each epoch."""
    for (_, before), (after, _) in itertools.pairwise(merged(spans)):
        if epoch_of(before) == epoch_of(after):
            yield before + 1, after - 1


def heads(spans: Iterable[Span]) -> Iterator[Span]:
    """What is missing before the lowest number of each epoch, whose first is 1."""
    seen: set[int] = set()
    for first, _ in merged(spans):
        epoch = epoch_of(first)
        if epoch not in seen and seq_of(first) > 1:
            yield make_lsn(epoch, 1), first - 1
        seen.add(epoch)


def in_words(span: Span) -> str:
    """A range for a message."""
    first, last = span
    return f"requests {seq_of(first)} to {seq_of(last)} of epoch {epoch_of(first)}"
