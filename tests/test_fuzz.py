"""The fuzzer: every target runs, a planted defect is found, kept, made small and told."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fuzz import cli
from benchmarks.fuzz.decoders import DecoderTarget
from benchmarks.fuzz.engines import OWN, Recorder, engine_for, run_own
from benchmarks.fuzz.http_edge import HttpTarget
from benchmarks.fuzz.minimise import key_of, minimise
from benchmarks.fuzz.mutators import Mutator, arrow, frames, json_text, lines, plain
from benchmarks.fuzz.requests import is_whole, mutilate, request, session
from benchmarks.fuzz.runner import Settings, fuzz
from benchmarks.fuzz.state import SharedState
from benchmarks.fuzz.target import Finding, Judge, Target
from benchmarks.fuzz.trees import fields, msgpack, protobuf
from tests.support import planted

TARGETS = {name: target for name, (_, target) in cli.targets().items()}
#: Bodies for a target of the tests: a second, the daemon and the large bodies aside.
RUNS = 150


@pytest.fixture
def recorder_of(tmp_path: Path) -> Iterator[list[Target]]:
    """Targets that were opened, closed again."""
    opened: list[Target] = []
    yield opened
    for target in opened:
        target.close()


# --- the targets -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "http"])
def test_a_short_run_of_every_target_finds_nothing(
    name: str, tmp_path: Path, recorder_of: list[Target]
) -> None:
    target = TARGETS[name]
    work = tmp_path / "work"
    work.mkdir()
    target.open(work)
    recorder_of.append(target)
    wanted = max(2, RUNS // target.cost)
    recorder = Recorder(target, tmp_path, wanted, 0)
    run_own(recorder, seed=1, corpus=None)
    # That a machine is busy is no fault of the decoder.
    found = [each for each in recorder.findings.values() if each.kind != "slow"]
    assert [str(each) for each in found] == []
    assert recorder.runs == sum(recorder.labels.values()) == wanted
    if target.cost == 1:
        assert len(recorder.labels) > 1


@pytest.mark.e2e
def test_a_short_run_at_the_http_edge_finds_nothing(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    target = HttpTarget()
    target.open(work)
    try:
        recorder = Recorder(target, tmp_path, 60, 0)
        run_own(recorder, seed=1, corpus=None)
    finally:
        findings, figures = target.close()
    kept = [*recorder.findings.values(), *findings]
    assert [str(each) for each in kept if each.kind != "slow"] == []
    assert figures["valid rows"] == 20  # two writes of ten


def test_seeds_are_taken_by_their_decoders(tmp_path: Path) -> None:
    for target in TARGETS.values():
        if isinstance(target, DecoderTarget):
            target.open(tmp_path)
            rng = random.Random(3)
            labels = [target.run(target.seed(rng)).label for _ in range(40)]
            assert sum(label.startswith("taken") for label in labels) > 8, (target.name, labels)


# --- what is found -----------------------------------------------------------------------------


def test_a_planted_exception_is_found_kept_and_made_small(tmp_path: Path) -> None:
    spec = "tests.support.planted:RAISES"
    line = fuzz(spec, planted.RAISES, Settings(20_000, 0, 5, minimise_s=5), tmp_path)
    assert (line.runs, line.engine, line.restarts) == (20_000, OWN, 0)
    (finding,) = line.findings
    assert finding["kind"] == "exception"
    assert finding["confirmed"]
    assert "ZeroDivisionError" in finding["message"]
    assert Path(finding["body"]).read_bytes() == planted.MARK
    assert line.figures == {"seen": "it"}
    assert sum(line.labels.values()) == 20_000


def test_a_crash_is_found_and_the_run_goes_on(tmp_path: Path) -> None:
    spec = "tests.support.planted:CRASHES"
    line = fuzz(spec, planted.CRASHES, Settings(1_500, 0, 5, minimise_s=5), tmp_path)
    (finding,) = line.findings
    assert finding["kind"] == "crash"
    assert "SIGSEGV" in finding["message"]
    assert Path(finding["body"]).read_bytes() == planted.MARK
    assert line.restarts >= 1
    assert line.runs == 1_500


def test_a_finding_makes_the_exit_code_1_and_is_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"disagrees": ("tests.support.planted:DISAGREES", planted.DISAGREES)}
    monkeypatch.setattr(cli, "targets", lambda: known)
    report = tmp_path / "report.json"
    given = ["--runs", "5000", "--seed", "1", "--findings", str(tmp_path / "found")]
    assert cli.main([*given, "--json", str(report)]) == 1
    content = json.loads(report.read_text())
    assert not content["clean"]
    assert content["runs"] == 5_000
    (finding,) = content["targets"][0]["findings"]
    assert finding["kind"] == "disagreement"
    assert "one and the other" in capsys.readouterr().out


def test_a_clean_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"sound": ("tests.support.planted:SOUND", planted.SOUND)}
    monkeypatch.setattr(cli, "targets", lambda: known)
    found = tmp_path / "found"
    assert cli.main(["all", "--runs", "100", "--seed", "1", "--findings", str(found)]) == 0
    assert list(found.iterdir()) == []


def test_bodies_are_kept_in_the_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (tmp_path / "found").mkdir()
    settings = Settings(300, 0, 1, corpus)
    line = fuzz("tests.support.planted:SOUND", planted.SOUND, settings, tmp_path / "found")
    assert line.findings == []
    assert list((corpus / "sound").iterdir()) != []


def test_a_decode_that_is_slow_three_times_is_a_finding() -> None:
    with pytest.raises(Finding, match="500 ms for 1 bytes"):
        Judge(planted.SLOW)(b"a")
    assert Judge(planted.SOUND)(b"a") == "taken"


def test_memory_over_the_bound_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(planted.SOUND, base_bytes=1)
    with pytest.raises(Finding, match="memory in sound"):
        judge(b"a")


@pytest.mark.parametrize(
    ("target", "key"),
    [
        (planted.RAISES, "exception-ZeroDivisionError-planted._raise"),
        (planted.CRASHES, "crash-crashes-SIGSEGV"),
        (planted.DISAGREES, "disagreement-planted"),
        (planted.SOUND, ""),
    ],
)
def test_a_body_is_judged_in_a_process_of_its_own(target: Target, key: str) -> None:
    assert key_of(target, planted.MARK) == key


def test_a_body_is_made_as_small_as_it_can_be() -> None:
    body = bytes(range(64, 128)) + b"ab" + bytes(range(128, 256))
    assert minimise(body, lambda each: b"a" in each and b"\xff" in each, 5.0) == b"a\xff"


def test_an_engine_that_is_not_installed_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert {engine_for(target) for target in TARGETS.values()} == {OWN}


def test_the_present_body_can_be_read_from_another_process(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    one, other = SharedState(path, 8), SharedState(path, 8)
    assert other.read() == (0, 0.0, b"")
    one.begin(3, 1.5, b"a longer body")
    assert other.read() == (3, 1.5, b"a longer")
    one.close()
    other.close()


# --- what makes bodies -------------------------------------------------------------------------

MUTATORS: dict[str, Mutator] = {
    "plain": plain,
    "lines": lines,
    "json": json_text,
    "arrow": arrow,
    "frames": frames,
    "msgpack": msgpack,
    "protobuf": protobuf,
    "http": mutilate,
}


@pytest.mark.parametrize("name", MUTATORS)
def test_a_mutator_takes_any_bytes_and_makes_others(name: str) -> None:
    mutate = MUTATORS[name]
    for seed in range(150):
        rng = random.Random(seed)
        body = rng.randbytes(rng.randrange(60))
        for _ in range(3):
            body = mutate(rng, body)[:4_000]
        assert mutate(random.Random(seed), b"\x81\xa1m\xa1x") is not None


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("http", "large", "log")])
def test_mutation_leaves_many_bodies_that_are_still_taken(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    target.open(tmp_path)
    rng = random.Random(2)
    labels = [target.run(target.mutate(rng, target.seed(rng))).label for _ in range(60)]
    taken = sum(label.startswith(("taken", "plain")) for label in labels)
    assert 3 <= taken <= 57, labels


def test_protobuf_is_taken_apart_and_put_together_unchanged() -> None:
    target = TARGETS["otlp-metrics-protobuf"]
    from benchmarks.fuzz.trees import _joined

    for seed in range(50):
        body = target.seed(random.Random(seed))[1:]
        found = fields(body)
        assert found is not None
        assert _joined(found) == body


def test_requests_are_whole_until_they_are_mutilated() -> None:
    rng = random.Random(1)
    sessions = [session(rng) for _ in range(100)]
    assert sum(map(is_whole, sessions)) > 80
    assert not is_whole(sessions[0][:-1] + b"")
    assert is_whole(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not is_whole(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc")
    assert request(rng).count(b"\r\n\r\n") >= 1
