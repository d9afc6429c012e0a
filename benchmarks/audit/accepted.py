"""Findings that were looked at and are right as they stand, each with its reason.

In: accepted.toml and the findings of the rules. Out: the findings that no entry covers, and what is
stale: an entry without a finding, or with another number of them, since then the code is no longer
what somebody judged. Nothing here decides what is a trap.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.audit.rules import RULES
from benchmarks.audit.schema import Finding

FILE = Path(__file__).with_name("accepted.toml")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One judgement.

    Attributes:
        rule: Name of the rule.
        file: Below the repository's root.
        function: Qualified name; "<module>" outside of one.
        reason: Why it is right.
        times: Findings of the rule in the function.
    """

    rule: str
    file: str
    function: str
    reason: str
    times: int = 1

    @property
    def key(self) -> tuple[str, str, str]:
        """What it covers."""
        return self.rule, self.file, self.function


class _File(msgspec.Struct, forbid_unknown_fields=True):
    accepted: list[Entry] = msgspec.field(default_factory=list)


class AcceptedError(ValueError):
    """The list is not right; the message names every entry that is not, and what to do."""


def read(path: Path = FILE) -> list[Entry]:
    """The list.

    Raises:
        AcceptedError: it is no such list, names a rule that is not there, or says a thing twice.
    """
    try:
        entries = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File).accepted
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise AcceptedError(f"{path}: {error}") from error
    rules = {rule.name for rule in RULES}
    wrong = [f"{entry.rule!r} is no rule" for entry in entries if entry.rule not in rules]
    wrong += [f"{_words(e)}: no reason is given" for e in entries if not e.reason.strip()]
    counts = Counter(entry.key for entry in entries)
    wrong += [f"{_words(e)}: listed {counts[e.key]} times" for e in entries if counts[e.key] > 1]
    if wrong:
        raise AcceptedError(f"{path}: " + "; ".join(dict.fromkeys(wrong)))
    return entries


def split(
    findings: Sequence[Finding], entries: Sequence[Entry]
) -> tuple[list[Finding], int, list[str]]:
    """Findings that are left, how many are accepted, and what is stale, in words."""
    found = Counter((f.rule, f.file, f.function) for f in findings)
    covered = {entry.key for entry in entries if found[entry.key] == entry.times}
    left = [f for f in findings if (f.rule, f.file, f.function) not in covered]
    stale = [
        f"{_words(entry)}: accepted.toml lists {entry.times}, there are {found[entry.key]}: look "
        "at the code again, then mend the entry or take it out"
        for entry in entries
        if entry.key not in covered
    ]
    return left, len(findings) - len(left), stale


def _words(entry: Entry) -> str:
    return f"{entry.rule} in {entry.file}, {entry.function}"
