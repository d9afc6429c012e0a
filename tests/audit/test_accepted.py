"""The list of accepted findings: what it covers, what is stale, and that today's is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.audit.accepted import AcceptedError, Entry, read, split
from benchmarks.audit.rules import check
from benchmarks.audit.schema import Finding
from benchmarks.audit.sources import parse
from tests.audit.this_tree import all_findings

TWO = "def f():\n    return deque(), deque()\n\ndef g():\n    return deque()\n"


def two_and_one() -> list[Finding]:
    return check(parse(TWO, "arc/a.py"))


def entry(function: str = "f", times: int = 2, file: str = "arc/a.py") -> Entry:
    return Entry("unbounded-queue", file, function, "bounded before it", times)


def test_an_entry_covers_the_findings_of_its_function_alone() -> None:
    left, accepted, stale = split(two_and_one(), [entry()])
    assert [finding.function for finding in left] == ["g"]
    assert (accepted, stale) == (2, [])


@pytest.mark.parametrize("times", [1, 3])
def test_an_entry_with_another_number_of_findings_is_stale_and_covers_none(times: int) -> None:
    left, accepted, stale = split(two_and_one(), [entry(times=times)])
    assert (len(left), accepted) == (3, 0)
    assert f"lists {times}, there are 2" in stale[0]


@pytest.mark.parametrize("gone", [entry("h", 1), entry(file="arc/b.py")])
def test_an_entry_without_a_finding_is_stale(gone: Entry) -> None:
    _, _, stale = split(two_and_one(), [entry(), gone])
    assert len(stale) == 1
    assert "there are 0" in stale[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "unknown field"),
        ("[[accepted]]\nrule = 'copy'", "missing required field"),
        ("[[accepted]", "Expected"),
        ("[[accepted]]\nrule='no'\nfile='f'\nfunction='f'\nreason='r'", "'no' is no rule"),
        ("[[accepted]]\nrule='copy'\nfile='f'\nfunction='f'\nreason=' '", "no reason is given"),
        (2 * "[[accepted]]\nrule='copy'\nfile='f'\nfunction='f'\nreason='r'\n", "listed 2 times"),
    ],
)
def test_a_list_that_is_wrong_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text(text)
    with pytest.raises(AcceptedError, match=words):
        read(path)


def test_nothing_in_the_list_of_this_tree_is_stale() -> None:
    _, accepted, stale = split(all_findings(), read())
    assert stale == []
    assert accepted
