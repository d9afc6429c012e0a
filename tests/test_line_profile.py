"""The line profiler: which names have lines, and that every way to a function is timed."""

from __future__ import annotations

import functools
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import launcher
from benchmarks.lines import cli, drive
from benchmarks.lines.functions import TWINS, NoLinesError, named, profile
from benchmarks.lines.stats import Line, Lines, Timed
from benchmarks.lines.worker import GLOB, LineOptions
from benchmarks.load.daemon import start
from benchmarks.load.generator import run_load
from benchmarks.load.spec import FORMATS, LoadSpec

SOURCE = '''
"""A module to be timed."""
import functools

def doubled(x, *, add=1):
    y = 2 * x
    return y + add

def generated(n):
    for i in range(n):
        yield i

async def awaited(x):
    return x

class Base:
    def value(self):
        return 1

class Thing(Base):
    def value(self):
        below = super().value()
        return below + 1

    @staticmethod
    def fixed(x):
        return x

    @property
    def shown(self):
        return 3

@functools.lru_cache
def cached(x):
    return x + 1

table = {"double": doubled}
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """SOURCE as a module of its own, new for each test, since functions stay changed."""
    import importlib
    import sys

    (tmp_path / "to_be_timed.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module("to_be_timed")
    del sys.modules["to_be_timed"]


def hits(lines: Lines, name: str) -> list[int]:
    """Hits of the lines of a function."""
    [timed] = [timed for timed in lines.functions if timed.name.endswith(name)]
    return [line.hits for line in timed.lines]


# ------------------------------------------------------------------------------------------- names


def test_names_of_every_kind_are_found(module: ModuleType) -> None:
    for path in ("doubled", "Thing.value", "Thing.fixed", "Thing.shown", "cached", "awaited"):
        [function] = named(f"to_be_timed:{path}")
        assert function.__name__ == path.rpartition(".")[2]
    names = [function.__name__ for function in named("to_be_timed:*")]
    assert names == [
        *("doubled", "generated", "awaited", "value", "value", "fixed", "shown", "cached")
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("doubled", "module:function"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("to_be_timed:doubbled", "doubled"),
        ("to_be_timed:Thing", "module:Class.method"),
        ("math:floor", "no function of Python"),
        ("math:*", "no function of Python"),
    ],
)
def test_a_name_without_lines_is_refused_with_what_to_write(
    module: ModuleType, name: str, said: str
) -> None:
    with pytest.raises(NoLinesError, match=said):
        named(name)


def test_a_compiled_function_is_refused_in_clear_words_with_its_plain_twin() -> None:
    with pytest.raises(NoLinesError, match=r"compiled by Numba.*--plain ingest\.msgpack_slow"):
        named("ingest.kernels.msgpack:scan")


def test_the_plain_twins_that_are_offered_have_lines() -> None:
    for twin in set(TWINS.values()):
        assert named(twin)


# ------------------------------------------------------------------------------------------- times


def test_every_way_to_a_function_is_timed(module: ModuleType) -> None:
    held_before: Callable[..., int] = module.doubled
    bound = functools.partial(module.doubled, add=5)
    profiler = profile(["to_be_timed:doubled"])
    assert module.doubled(1) == 3
    assert held_before(2, add=0) == 4
    assert bound(3) == 11
    assert module.table["double"](4) == 9
    assert hits(Lines.of(profiler), "doubled") == [4, 4]


def test_methods_generators_coroutines_and_caches_work_as_before(module: ModuleType) -> None:
    import asyncio

    profiler = profile(["to_be_timed:*"])
    thing = module.Thing()
    assert (thing.value(), thing.fixed(7), thing.shown, module.cached(1)) == (2, 7, 3, 2)
    assert list(module.generated(3)) == [0, 1, 2]
    assert asyncio.run(module.awaited(5)) == 5
    lines = Lines.of(profiler)
    assert [f.name for f in lines.functions if not f.was_called] == ["doubled"]


def test_threads_that_are_in_a_function_together_are_all_timed(module: ModuleType) -> None:
    profiler = profile(["to_be_timed:doubled"])
    gate = threading.Barrier(4)

    def work() -> None:
        gate.wait()
        for x in range(2_000):
            assert module.doubled(x) == 2 * x + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hits(Lines.of(profiler), "doubled") == [8_000, 8_000]


def test_lines_of_several_processes_are_put_together() -> None:
    one = Lines([Timed("a.py", 1, "f", [Line(2, 1, 0.5)]), Timed("a.py", 9, "g", [])])
    two = Lines([Timed("a.py", 1, "f", [Line(2, 2, 0.25), Line(3, 1, 1.0)])])
    both = Lines.merged([one, Lines.from_bytes(two.to_bytes())])
    assert both.processes == 2
    assert both.functions[0].lines == [Line(2, 3, 0.75), Line(3, 1, 1.0)]
    assert both.functions[0].seconds == 1.75
    assert not both.functions[1].was_called


def test_what_was_counted_before_is_taken_off() -> None:
    before = Lines([Timed("a.py", 1, "f", [Line(2, 1, 0.5), Line(3, 4, 1.0)])])
    after = Lines([Timed("a.py", 1, "f", [Line(2, 3, 0.75), Line(3, 4, 1.0)])])
    assert after.less(before).functions[0].lines == [Line(2, 2, 0.25)]


# ------------------------------------------------------------------------------------------ bodies


@pytest.mark.parametrize("form", FORMATS)
def test_generated_bodies_of_every_format_are_stored(form: str) -> None:
    workload = {"otlp-logs": "logs", "otlp-logs-json": "logs"}.get(form, "agent")
    from benchmarks.data import WORKLOADS

    columns = WORKLOADS[workload].num_columns
    spec = LoadSpec(form, workload, rows=10, columns=columns, bodies=2, compression="gzip")
    requests = drive.generated(spec, 2)
    began: list[int] = []
    assert drive.run(requests, 3, "memory", lambda: began.append(1)) == 2 * 3 * 10
    assert began == [1]


def test_a_recorded_body_is_told_from_a_compressed_one(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.lp", tmp_path / "a.lp.gz"
    plain.write_bytes(b"m,host=a v=1 1700000000000000000\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    requests = [drive.recorded(path, "line-protocol", "m", None) for path in (plain, packed)]
    assert [request.encoding for request in requests] == ["", "gzip"]
    assert drive.run(requests, 1, "memory", lambda: None) == 2


def test_a_body_that_the_pipeline_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.msgpack"
    path.write_bytes(b"\xc1\xc1\xc1")
    with pytest.raises(drive.BodyError, match=r"broken\.msgpack: "):
        drive.run([drive.recorded(path, "columnar", "m", None)], 1, "memory", lambda: None)


# ------------------------------------------------------------------------------------ command line


def test_lines_over_two_payloads_are_counted_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # `ingest.paths:hour_dir` is cheap, is called by every flush, and stays exchanged in this
    # process: it does what it did.
    out = tmp_path / "lines.json"
    arguments = ["ingest.paths:hour_dir", "ingest.paths:file_name", "--repeats", "2"]
    payloads = ["--payload", "columnar", "--payload", "rows", "--rows", "50", "--bodies", "3"]
    assert cli.main([*arguments, *payloads, "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Function: hour_dir" in said
    assert "12 requests, 600 rows" in said
    figures = json.loads(out.read_text())
    assert {function["name"] for function in figures["functions"]} >= {"hour_dir", "file_name"}
    assert all(line["hits"] for f in figures["functions"] for line in f["lines"])


def test_a_function_that_is_never_called_is_named_and_fails(
    capsys: pytest.CaptureFixture[str], module: ModuleType
) -> None:
    arguments = ["to_be_timed:doubled", "--rows", "5", "--bodies", "1", "--repeats", "1"]
    assert cli.main(arguments) == 1
    assert "never called by this load: doubled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ingest.kernels.msgpack:scan"], "compiled by Numba"),
        (["ingest.paths:hour_dir", "--payload", "nothing.bin"], "no such file, and no kind"),
        (["ingest.paths:hour_dir", "--daemon", "--payload", "nothing.bin"], "one kind of payload"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


# -------------------------------------------------------------------------------- a whole daemon


@pytest.mark.e2e
def test_workers_of_a_daemon_keep_the_times_of_their_lines(tmp_path: Path) -> None:
    names = ("ingest.table_build:build_tables", "ingest.arrow_writer:ArrowWriter.write")
    command = launcher.command(
        "benchmarks.lines.worker", LineOptions(str(tmp_path), names).to_argument()
    )
    flags = ["--workers", "1", "--query-concurrency", "0", "--durability", "memory"]
    spec: Any = LoadSpec(rate=100_000, seconds=0.3, warmup_s=0.0, connections=1, bodies=1)
    daemon = start(tmp_path / "data", flags, set(), command)
    try:
        load = run_load(spec, daemon.address)
        exit_code, _ = daemon.stop()
    finally:
        daemon.abandon()
    [path] = tmp_path.glob(GLOB)
    lines = Lines.from_bytes(path.read_bytes())
    requests = load.acknowledged_rows() // spec.rows
    assert exit_code == 0
    assert max(hits(lines, "write")) >= requests > 0
    assert min(hits(lines, "build_tables")) >= 0
    assert "def build_tables(" in lines.text()
