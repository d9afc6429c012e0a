"""Every program of `benchmarks/`, run as it is typed, with the sizes of an audit.

In: the folder, and the table below. Out: a `Benchmark` each: medians where the program writes JSON,
the end of its output otherwise. One that finds a wrong result, or dies, says so and fails the
audit; one that takes too long is stopped and has no figures.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.audit.schema import Benchmark, Figure, measured, missing
from benchmarks.load.daemon import REPOSITORY

TIMEOUT_S = 180.0
QUICK_TIMEOUT_S = 20.0
OUTPUT_CHARS = 4_000
_TERM_S = 10.0

#: Of the harness: five samples of 10 ms each, short of what a written figure needs.
SAMPLES = ("--repeats", "5", "--min-sample-s", "0.01")
QUICK_SAMPLES = ("--repeats", "3", "--min-sample-s", "0.002")


@dataclass(frozen=True)
class Program:
    """How one program is run.

    Attributes:
        module: Its name below `benchmarks`.
        full: Arguments of a full audit.
        quick: Of a quick one; None: not run.
        json: It takes `--json FILE`, in the format of the harness, of `benchmarks.bench_otlp` or
            of `benchmarks.client`.
    """

    module: str
    full: tuple[str, ...] = SAMPLES
    quick: tuple[str, ...] | None = None
    json: bool = True


def _quick(word: str) -> tuple[str, ...]:
    return ("-k", word, *QUICK_SAMPLES)


def _text(module: str, *full: str) -> Program:
    return Program(module, full, json=False)


#: Those whose arguments differ from the usual ones (`_usual`); most are too much as they are.
SPECIAL = (
    Program("bench_arrow_ipc", ("-k", " c ", *SAMPLES)),
    Program("bench_buffer", SAMPLES, QUICK_SAMPLES),
    _text("bench_compaction", "--hours", "2"),
    Program("bench_decode", ("-k", "decode", *SAMPLES)),
    _text("bench_deletion", "--rows", "200000"),
    _text("bench_durability", "--repeat", "1", "--seconds", "2", "--situation", "full64"),
    _text("bench_flush", "--rounds", "5"),
    Program("bench_line_protocol", ("-k", "decode", *SAMPLES)),
    Program("bench_metrics", SAMPLES, QUICK_SAMPLES),
    Program("bench_otlp", ("-k", "10000", "--quick", "--repeats", "3")),
    Program("bench_parquet", ("-k", "c ", *SAMPLES)),
    _text("bench_query_beside_writes", "--rounds", "2", "--rows", "300000", "--seconds", "1"),
    _text("bench_query_http", "--repeats", "3"),
    Program("bench_reader", ("--repeats", "3")),
    _text("bench_recovery", "--mib", "64", "--repeat", "1"),
    Program("bench_schema", SAMPLES, QUICK_SAMPLES),
    Program("bench_table_build", ("-k", " c", *SAMPLES)),
    Program("bench_time_units", SAMPLES, QUICK_SAMPLES),
    Program("client", ("--quick",)),  # its cases are modules without a command line
    Program("client.bench_rows", ("--repeats", "3")),
    _text("profiling.bench_overhead", "--rounds", "1"),
    _text("profiling.bench_sampler", "--rounds", "1"),
)
FOLDER = REPOSITORY / "benchmarks"


def programs(folder: Path = FOLDER) -> list[Program]:
    """All programs of a folder: `bench_*.py` that can be run, and `client`, by name."""
    special = {program.module: program for program in SPECIAL}
    found = {program.module: program for program in SPECIAL if program.module == "client"}
    for path in folder.rglob("bench_*.py"):
        text = path.read_text(encoding="utf-8")
        if "__main__" not in text:
            continue  # cases of another program
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        found[module] = special.get(module) or _usual(module, text)
    return [found[module] for module in sorted(found)]


def _usual(module: str, text: str) -> Program:
    """The arguments of the harness for a program that is run by it, none for another one."""
    imports = re.search(r"^from benchmarks\.harness import .*\bmain\b", text, re.MULTILINE)
    return Program(module) if imports else _text(module)


def run_all(quick: bool, tell: Callable[[str], None]) -> tuple[list[Benchmark], list[str]]:
    """Every program, one after another, and what was wrong."""
    found, wrong = [], []
    for program in programs():
        tell(program.module)
        benchmark, fault = run(program, quick)
        found.append(benchmark)
        wrong += [fault] if fault else []
    return found, wrong


def run(program: Program, quick: bool) -> tuple[Benchmark, str]:
    """One program, and what was wrong with it; "" when nothing was."""
    arguments = program.quick if quick else program.full
    module = f"benchmarks.{program.module}"
    if arguments is None:
        why = "not run by --quick"
        return Benchmark(module, program.full, missing("s", why), why=why), ""
    with tempfile.TemporaryDirectory(prefix="arc-audit-") as folder:
        report = Path(folder) / "out.json"
        tail = ("--json", str(report)) if program.json else ()
        timeout_s = QUICK_TIMEOUT_S if quick else TIMEOUT_S
        code, output, took_s = _run([sys.executable, "-m", module, *arguments, *tail], timeout_s)
        if code is None:
            why = f"it was stopped after {timeout_s:g} s"
            return Benchmark(module, arguments, missing("s", why), why=why, output=output), ""
        seconds = measured("s", took_s)
        if code:
            why = f"it ended with {code}: {_last_line(output)}"
            benchmark = Benchmark(module, arguments, seconds, why=why, output=output)
            return benchmark, f"{module}: {why}"
        if not report.exists():
            return Benchmark(module, arguments, seconds, output=output), ""
        return Benchmark(module, arguments, seconds, results_of(json.loads(report.read_text()))), ""


def _run(command: Sequence[str], timeout_s: float) -> tuple[int | None, str, float]:
    """Exit code (None: stopped), the end of the output, seconds.

    A session of its own, so that daemons which a program started are stopped with it.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                _stop(process)
        output.seek(0)
        text = output.read().decode(errors="replace")[-OUTPUT_CHARS:]
        return code, text, time.perf_counter() - started


def _stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # lets a program remove its files
    try:
        process.wait(_TERM_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def results_of(report: dict[str, Any]) -> dict[str, Figure]:
    """Medians by name, from any of the formats of JSON that the programs write."""
    if "figures" in report:
        return {_title(each): _of_client(each) for each in report["figures"]}
    out = {}
    for each in report.get("results", ()):
        if "median_s" in each:
            samples = [sample / each["rows"] * 1e9 for sample in each["samples_s"]]
            out[each["name"]] = measured("ns/row", each["ns_per_row"], samples)
        elif "cpu_s" in each:
            ns = each["cpu_s"] / each["rows"] * 1e9
            out[f"{each['cell']} {each['stage']}"] = measured("ns/row, CPU", ns)
    return out


def _title(figure: dict[str, Any]) -> str:
    return ": ".join(str(figure[key]) for key in ("group", "whose", "name") if figure.get(key))


def _of_client(figure: dict[str, Any]) -> Figure:
    unit = str(figure.get("unit", ""))
    if figure.get("median") is None:
        return missing(unit, str(figure.get("why") or "no figure and no reason"))
    return measured(unit, figure["median"])
