"""The command: what it writes, what it says, how it ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks.audit import accepted, cli, parts
from benchmarks.audit.progress import Steps
from benchmarks.audit.schema import Findings, encode, read
from tests.audit.made_up import HOST, A, B, C, cell, findings
from tests.audit.this_tree import ROOT


def saved(folder: Path, name: str, found: Findings) -> str:
    path = folder / name
    path.write_bytes(encode(found))
    return str(path)


def test_the_script_writes_findings_and_a_page_and_says_where(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/perf_audit.py", "--quick", "--only", "static"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "findings.json") in done.stdout
    assert "static" in done.stderr
    assert "\r" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["findings.json", "report.html"]
    found = read(tmp_path / "findings.json")
    assert found.summary.quick
    assert found.summary.accepted_findings == sum(entry.times for entry in accepted.read())
    assert found.summary.host.versions["pyarrow"]
    for finding in found.findings:
        assert (ROOT / finding.file).is_file()


@pytest.fixture
def no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository without a module, and so without anything to accept: it is read in no time."""
    monkeypatch.setattr(parts, "modules", lambda root: [])
    monkeypatch.setattr(accepted, "read", lambda: [])


@pytest.mark.usefixtures("no_code")
def test_what_was_not_asked_for_is_null_with_that_reason(tmp_path: Path) -> None:
    assert cli.main(["--quick", "--only", "static", "--output", str(tmp_path)]) == 0
    found = read(tmp_path / "findings.json")
    metrics = found.metrics
    figures = [share.figure for share in (*metrics.stages, *metrics.limits, *metrics.imports)]
    figures += [metrics.wheel_bytes, metrics.memory.allocated]
    figures += [figure for curve in metrics.scaling for _, figure in curve.points]
    assert {(figure.value, figure.why) for figure in figures} == {(None, parts.NOT_ASKED)}
    assert (found.hotspots, found.summary.why_no_hotspots) == ((), parts.NOT_ASKED)


@pytest.mark.usefixtures("no_code")
def test_a_stale_entry_stops_it_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = accepted.Entry("copy", "arc/gone.py", "f", "it was right")
    monkeypatch.setattr(accepted, "read", lambda: [entry])
    assert cli.main(["--only", "static", "--output", str(tmp_path / "out")]) == cli.UNUSABLE
    assert "copy in arc/gone.py, f: accepted.toml lists 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_change_that_is_accepted_ends_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = saved(tmp_path, "before.json", findings([cell(A), cell(B), cell(C)]))
    after = saved(tmp_path, "after.json", findings([cell(A, p95=50), cell(B, p95=50), cell(C)]))
    assert cli.main(["--compare", before, "--after", after]) == 0
    assert "accepted: 2 cells are better, none is worse" in capsys.readouterr().out


def test_a_change_that_is_not_accepted_ends_with_1_and_a_table_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = saved(tmp_path, "before.json", findings([cell(A), cell(B)]))
    after = saved(tmp_path, "after.json", findings([cell(A, p95=200), cell(B, p95=50)]))
    assert cli.main(["--compare", before, "--after", after]) == 1
    said = capsys.readouterr().out
    assert "not accepted: 1 cells are worse than the noise" in said
    assert "+100.0%, noise 10.0%" in said


def test_files_of_two_machines_end_with_2_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = msgspec.structs.replace(HOST, cpu="another")
    before = saved(tmp_path, "before.json", findings([cell(A)]))
    after = saved(tmp_path, "after.json", findings([cell(A)], host=other))
    assert cli.main(["--compare", before, "--after", after]) == 2
    assert "another processor: cpu before, another after" in capsys.readouterr().err


def test_a_quick_file_is_refused_before_a_full_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = saved(tmp_path, "before.json", findings([cell(A)], quick=True))
    assert cli.main(["--compare", before, "--output", str(tmp_path / "out")]) == 2
    assert "it is of a quick one, this run is not" in capsys.readouterr().err


def test_a_file_that_is_not_there_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--compare", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--after", "x"], ["--compare", "x", "--only", "static"], ["--only", "nothing"]]
)
def test_options_that_do_not_fit_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_results_that_are_wrong_are_said_and_never_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = findings([cell(A)], wrong=("3 rows are gone",))
    monkeypatch.setattr(cli, "run", lambda args: wrong)
    assert cli.main(["--output", str(tmp_path)]) == 1
    assert "WRONG  3 rows are gone" in capsys.readouterr().out
    assert "3 rows are gone" in (tmp_path / "report.html").read_text()


def test_a_terminal_sees_one_line_that_never_wraps() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=60, legacy_windows=False)
    steps = Steps(2, console)
    with steps.shown():
        steps.part("matrix")
        steps.step("a name that is much longer than the width of the terminal " * 3)
    lines = text.getvalue().replace("\r", "\n").split("\n")
    assert max(len(line) for line in lines if "matrix" in line) < 200
    assert "matrix" in text.getvalue()


def test_without_a_terminal_there_are_plain_lines_and_few() -> None:
    text = io.StringIO()
    steps = Steps(300, Console(file=text, width=80))
    with steps.shown():
        for part in ("one", "two"):
            steps.part(part)
            for i in range(100):
                steps.step(f"step {i}")
    assert text.getvalue() == "[0/300] one\n[100/300] two\n"
