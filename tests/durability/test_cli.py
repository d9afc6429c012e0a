"""The command line of the torture harness: what it runs, keeps, tells and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.torture import cli
from benchmarks.torture.daemon import DaemonError
from benchmarks.torture.load import Part, Request
from benchmarks.torture.oracle import Verdict
from benchmarks.torture.program import Context, Program


class Fake:
    """A program that does what it is told, and starts nothing."""

    name = "fake"
    description = "does nothing"
    default_rounds = 3
    record_rounds = 7
    group = 2

    def __init__(self, *outcomes: Verdict | Exception, reason: str | None = None) -> None:
        self.outcomes = list(outcomes)
        self.reason = reason
        self.asked: list[tuple[int, int]] = []
        self.chances: list[float] = []

    def requirement(self) -> str | None:
        return self.reason

    def round(self, context: Context) -> Verdict:
        assert list(context.folder.iterdir()) == []
        self.asked.append((context.first_round, context.rounds))
        self.chances.append(context.chance.random())
        context.ledger.add(Request(1, 0, (Part("cpu", 1),)))
        outcome = self.outcomes.pop(0) if self.outcomes else Verdict()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def run(monkeypatch: pytest.MonkeyPatch, program: Program, *arguments: str) -> int:
    """The exit code of a run with one known program."""
    monkeypatch.setattr(cli, "programs", lambda: {program.name: program})
    return cli.main(arguments)


def test_every_program_says_what_it_is() -> None:
    known = cli.programs()
    assert {"kill", "kill-worker", "keys"} <= known.keys()
    for name, program in known.items():
        assert program.name == name
        assert program.description
        assert program.record_rounds >= program.default_rounds >= 1
        assert program.group >= 1


def test_rounds_are_done_in_groups_and_clean_ones_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Fake()
    assert run(monkeypatch, program, "fake", "--data-dir", str(tmp_path), "--seed", "5") == 0
    assert program.asked == [(0, 2), (2, 1)]
    assert list(tmp_path.iterdir()) == []
    told = capsys.readouterr().out
    assert "seed 5" in told
    assert "fake 1-2/3  clean" in told
    assert "fake 3/3  clean" in told


def test_a_seed_gives_the_same_choices_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, same, other = Fake(), Fake(), Fake()
    for program, seed in ((one, "5"), (same, "5"), (other, "6")):
        run(monkeypatch, program, "fake", "--data-dir", str(tmp_path), "--seed", seed)
    assert one.chances == same.chances != other.chances


def test_the_record_has_its_own_number_of_rounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = Fake()
    run(monkeypatch, program, "--record", "--data-dir", str(tmp_path))
    assert sum(rounds for _, rounds in program.asked) == 7


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Verdict(lost=12), "lost: 12"),
        (Verdict(broken=["it did not stop"]), "it did not stop"),
        (DaemonError("it did not start"), "it did not start"),
        (KeyError("a defect"), "a defect"),
    ],
)
def test_one_bad_verdict_makes_the_run_bad_and_keeps_its_data(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    outcome: Verdict | Exception,
    told: str,
) -> None:
    file = tmp_path / "report.json"
    data = tmp_path / "data"
    arguments = ("fake", "--rounds", "6", "--data-dir", str(data), "--json", str(file))
    assert run(monkeypatch, Fake(Verdict(), outcome), *arguments) == 1
    assert [path.name for path in data.iterdir()] == ["fake-0003"]
    assert len((data / "fake-0003" / "ledger.jsonl").read_text().splitlines()) == 1
    assert told in (out := capsys.readouterr().out)
    assert f"kept: {data / 'fake-0003'}" in out
    report = json.loads(file.read_text())
    assert report["clean"] is False
    assert report["totals"]["fake"]["rounds"] == 6
    assert report["totals"]["fake"]["clean"] == 4
    assert [line["kept"] is None for line in report["lines"]] == [True, False, True]


def test_what_cannot_run_here_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Fake(reason="it needs root")
    assert run(monkeypatch, program, "fake", "--data-dir", str(tmp_path)) == 2
    assert program.asked == []
    assert "fake skipped: it needs root" in capsys.readouterr().out
    assert run(monkeypatch, program, "--list") == 0
    assert "cannot run here: it needs root" in capsys.readouterr().out
