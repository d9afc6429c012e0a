"""The profiler: what it makes of recorded stacks, and one real busy worker from end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc.profiler import flamegraph, speedscope, summary
from arc.profiler.samples import (
    Frame,
    RawFormatError,
    Stack,
    WorkerSamples,
    parse_frame,
    parse_raw,
)
from arc.profiler.stages import COLOURS, RULES, Stage, stage_of
from benchmarks.profiling import advice, daemon, pyspy, report

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "profile_arc_ingestion.py"
SVG = "{http://www.w3.org/2000/svg}"

LOOP = "thread (7): MainThread;<module> (arc/worker.py:90);Runner.run (asyncio/runners.py:118)"
REQUEST = f"{LOOP};handle (aiohttp/web_app.py:400);write_msgpack (arc/handlers/msgpack.py:60)"
FLUSH = (
    "thread (9): arc-flush_0;Thread._bootstrap (threading.py:1012);"
    "_worker (concurrent/futures/thread.py:92);"
    "ArrowWriter._flush_records (ingest/arrow_writer.py:300)"
)
RECORDED = f"""
{LOOP} 40
{REQUEST} 30
{REQUEST};decode (ingest/msgpack_decoder.py:100) 100
{REQUEST};decode (ingest/msgpack_decoder.py:120) 150
{REQUEST};decode (ingest/msgpack_decoder.py:130);_sum (numpy/_core/_methods.py:49) 50
{FLUSH};build_tables (ingest/table_build.py:20) 80
{FLUSH};write (ingest/parquet.py:60);write_table (pyarrow/parquet/core.py:2000) 200
"""


def worker(raw: str = RECORDED, **changes: Any) -> WorkerSamples:
    """One worker of 1000 rounds at 100 Hz, 10 of them lost, with these recorded stacks."""
    values: dict[str, Any] = {
        "shard": 0,
        "pid": 7,
        "rate_hz": 100,
        "rounds": 1000,
        "lost": 10,
        "stacks": parse_raw(raw),
        "cpu_s": 6.6,
    }
    return WorkerSamples(**values | changes)


# ------------------------------------------------------------------------------- recorded stacks


def test_a_raw_line_becomes_a_thread_and_its_frames() -> None:
    stacks = parse_raw("thread (9): MainThread;<module> (a b.py:3);f (numpy/x.py:12) 66\n")
    assert stacks == {
        Stack("MainThread", (Frame("<module>", "a b.py", 3), Frame("f", "numpy/x.py", 12))): 66
    }


def test_threads_of_one_pool_are_one() -> None:
    raw = "thread (1): arc-flush_0;f (x.py:1) 2\nthread (2): arc-flush_1;f (x.py:1) 3\n"
    assert parse_raw(raw) == {Stack("arc-flush", (Frame("f", "x.py", 1),)): 5}


def test_threads_without_a_name_are_told_by_their_number() -> None:
    [stack] = parse_raw("thread (0x7F);f (x.py:1) 2")
    assert stack.thread == "thread 0x7F"


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("epoll_wait (libc.so.6)", Frame("epoll_wait", "libc.so.6")),
        ("0x7f7e449278ec (libc.so.6)", Frame("0x7f7e449278ec", "libc.so.6")),
        ("f<int>::operator()(x) (lib.so:3)", Frame("f<int>::operator()(x)", "lib.so", 3)),
        ("<lambda> (<string>:1)", Frame("<lambda>", "<string>", 1)),
        ("nothing known", Frame("nothing known", "")),
    ],
)
def test_frames_of_every_kind_are_read(text: str, frame: Frame) -> None:
    assert parse_frame(text) == frame


@pytest.mark.parametrize("line", ["no count", "f (x.py:1) many", "12"])
def test_a_line_of_another_format_is_refused(line: str) -> None:
    with pytest.raises(RawFormatError, match="raw format"):
        parse_raw(line)


@given(st.text())
def test_any_text_is_read_or_refused_but_never_breaks(text: str) -> None:
    try:
        stacks = parse_raw(text)
    except RawFormatError:
        return
    assert all(count >= 0 for count in stacks.values())


# ----------------------------------------------------------------------------------- attribution


@pytest.mark.parametrize(
    ("raw", "stage"),
    [
        (LOOP, Stage.HTTP),
        (REQUEST, Stage.HTTP),
        (f"{LOOP};HttpParser.feed_data (aiohttp/http_parser.py:8)", Stage.HTTP),
        (f"{REQUEST};decode (ingest/msgpack_decoder.py:9)", Stage.DECODE),
        (f"{REQUEST};decode (ingest/msgpack_slow.py:9)", Stage.DECODE),
        (
            f"{REQUEST};decode (ingest/msgpack_decoder.py:9);g (ingest/kernels/msgpack.py:8)",
            "decode",
        ),
        (f"{REQUEST};decode (/opt/arc/ingest/msgpack_decoder.py:9)", Stage.DECODE),
        (f"{REQUEST};decode (ingest/msgpack_decoder.py:9);_sum (numpy/a.py:8)", Stage.DECODE),
        (f"{REQUEST};fit (ingest/schema.py:9)", Stage.SCHEMA),
        (f"{REQUEST};Catalog.evolve (ingest/catalog.py:9)", Stage.SCHEMA),
        (f"{REQUEST};append (ingest/wal.py:9)", Stage.LOG),
        (f"{REQUEST};ArrowWriter.write (ingest/arrow_writer.py:9)", Stage.BUFFER),
        (
            f"{REQUEST};ArrowWriter.write (ingest/arrow_writer.py:9);f (ingest/buffer.py:1)",
            "buffer",
        ),
        (
            f"{REQUEST};ArrowWriter.write (ingest/arrow_writer.py:9);fit (ingest/schema.py:1)",
            "schema",
        ),
        (f"{REQUEST};Lock.acquire (asyncio/locks.py:93)", Stage.LOCK),
        (f"{REQUEST};Event.set (asyncio/locks.py:192)", Stage.HTTP),
        (f"{REQUEST};_RLock.acquire (threading.py:150)", Stage.LOCK),
        (f"{LOOP};lock_PyThread_acquire_lock (libpython3.13.so.1.0);0x7f (libc.so.6)", Stage.LOCK),
        (f"{LOOP};take_gil (libpython3.13.so.1.0);pthread_cond_timedwait (libc.so.6)", Stage.LOCK),
        (FLUSH, Stage.TABLE),
        (f"{FLUSH};ArrowWriter._stage.<locals>.<lambda> (ingest/arrow_writer.py:9)", Stage.PARQUET),
        (f"{LOOP};ArrowWriter._try_flush (ingest/arrow_writer.py:9)", Stage.BUFFER),
        (f"{FLUSH};build_tables (ingest/table_build.py:20)", Stage.TABLE),
        (
            f"{FLUSH};build_tables (ingest/table_build.py:20);f (ingest/kernels/sort.py:3)",
            Stage.TABLE,
        ),
        (f"{FLUSH};write (ingest/parquet.py:60)", Stage.PARQUET),
        (f"{FLUSH};write_table (pyarrow/parquet/core.py:2000)", Stage.PARQUET),
        (f"{FLUSH};fsync (ingest/store.py:20)", Stage.PARQUET),
        ("thread (3): arc-x_0;run (somewhere/else.py:1)", Stage.OTHER),
        ("thread (3): MainThread", Stage.OTHER),
        (f"{LOOP};select (selectors.py:400)", Stage.IDLE),
        (f"{LOOP};EpollSelector.select (selectors.py:400)", Stage.IDLE),
        (f"{LOOP};uv__io_poll (uvloop/loop.so);epoll_pwait (libc.so.6)", Stage.IDLE),
        ("thread (3): arc-flush_0;_worker (concurrent/futures/thread.py:89)", Stage.IDLE),
        ("thread (3): x_0;Condition.wait (threading.py:359)", Stage.IDLE),
    ],
)
def test_the_innermost_known_frame_decides_the_stage(raw: str, stage: str) -> None:
    [stack] = parse_raw(f"{raw} 1")
    assert stage_of(stack.frames) == stage


def test_files_that_only_end_alike_are_not_ours() -> None:
    assert stage_of([Frame("f", "digest/schema.py", 1)]) is Stage.OTHER
    assert stage_of([Frame("f", "notarc/app.py", 1)]) is Stage.OTHER


def test_every_stage_has_a_colour_and_every_working_stage_a_rule() -> None:
    assert set(COLOURS) == set(Stage)
    assert len(set(COLOURS.values())) == len(Stage)
    assert {rule.stage for rule in RULES} == set(Stage) - {Stage.OTHER, Stage.UNREAD}


def test_rules_name_files_of_this_repository() -> None:
    ours = [str(path.relative_to(ROOT)) for path in (ROOT / "ingest").rglob("*.py")]
    found = {stage_of([Frame("f", path)]) for path in ours}
    wanted = {Stage.DECODE, Stage.SCHEMA, Stage.BUFFER, Stage.TABLE, Stage.PARQUET}
    assert wanted <= found


# --------------------------------------------------------------------------------------- figures


def test_seconds_of_all_stages_are_the_loops_wall_time_and_the_threads_running_time() -> None:
    times = {time.stage: time for time in summary.stage_times([worker(), worker(shard=1)])}
    assert times[Stage.HTTP].total_s == pytest.approx(2 * 0.70)
    assert times[Stage.DECODE].event_loop_s == pytest.approx(2 * 3.00)
    assert times[Stage.TABLE].other_threads_s == pytest.approx(2 * 0.80)
    assert times[Stage.PARQUET].other_threads_s == pytest.approx(2 * 2.00)
    assert times[Stage.UNREAD].total_s == pytest.approx(2 * 0.10)
    assert times[Stage.IDLE].total_s == pytest.approx(2 * (10.00 - 3.70 - 0.10))
    assert sum(time.event_loop_s for time in times.values()) == pytest.approx(20.0)
    assert sum(time.share for time in times.values()) == pytest.approx(1.0)
    assert sum(time.share_of_busy for time in times.values()) == pytest.approx(1.0)


def test_waiting_counts_for_event_loops_and_not_for_pools() -> None:
    waiting = f"{LOOP};EpollSelector.select (selectors.py:400) 50\n"
    waiting += "thread (3): arc-flush_0;_worker (concurrent/futures/thread.py:89) 900\n"
    times = {time.stage: time for time in summary.stage_times([worker(waiting, lost=0)])}
    assert times[Stage.IDLE].event_loop_s == pytest.approx(10.0)
    assert sum(time.total_s for time in times.values()) == pytest.approx(10.0)
    assert summary.busy_s(worker(waiting, lost=0)) == 0.0


def test_no_samples_at_all_are_all_idle() -> None:
    times = {time.stage: time for time in summary.stage_times([worker("", lost=0)])}
    assert times[Stage.IDLE].share == 1.0
    assert summary.top_functions([worker("")]) == []


def test_functions_are_ranked_by_their_own_time_whatever_their_line() -> None:
    top = summary.top_functions([worker(), worker(shard=1)], limit=3)
    assert [time.function.name for time in top] == ["decode", "write_table", "build_tables"]
    assert top[0].hottest_line == 120
    assert top[0].stage is Stage.DECODE
    assert top[0].self_s == pytest.approx(2 * 2.50)
    assert top[0].total_s == pytest.approx(2 * 3.00)
    assert top[0].self_share == pytest.approx(250 / 650)


def test_recursion_counts_once_in_the_total() -> None:
    [only] = summary.top_functions([worker("thread (1): MainThread;f (x.py:1);f (x.py:2) 50")])
    assert only.total_s == only.self_s == pytest.approx(0.5)


def test_tables_and_remarks_name_what_was_seen() -> None:
    workers = [worker(ended_early=True), worker(shard=1, cpu_s=30.0)]
    rows = report.stage_table(summary.stage_times(workers), gil=False)
    assert rows.row_count == len(Stage) + 1
    assert report.function_table(summary.top_functions(workers)).row_count == 6
    assert report.worker_table(workers).row_count == 2
    text = "\n".join(report.remarks(workers, gil=False))
    assert "worker 0 (pid 7) went away" in text
    assert "in no sample" in text
    assert list(report.remarks([worker()], gil=False)) == []
    assert "waiting for a processor" in "".join(report.remarks([worker(cpu_s=2.0)], gil=False))


# --------------------------------------------------------------------------------------- pictures


def boxes(svg: str) -> list[dict[str, str]]:
    """The frames of a flame graph, as its script reads them."""
    root = ET.fromstring(svg)
    return [dict(g.attrib) for g in root.iter(f"{SVG}g") if g.get("class") == "f"]


def test_the_flame_graph_shows_each_path_in_its_share() -> None:
    found = boxes(flamegraph.render([worker(), worker(shard=1)], "title", "subtitle"))
    widths = {box["data-n"]: float(box["data-w"]) for box in found}
    assert widths["2 workers"] == 1.0
    assert widths["event loop"] == pytest.approx(370 / 650, abs=1e-6)
    assert widths["thread arc-flush"] == pytest.approx(280 / 650, abs=1e-6)
    assert widths["decode (ingest/msgpack_decoder.py)"] == pytest.approx(300 / 650, abs=1e-6)
    stages = {box["data-n"]: box["data-s"] for box in found}
    assert stages["_sum (numpy/_core/_methods.py)"] == Stage.DECODE
    assert stages["ArrowWriter._flush_records (ingest/arrow_writer.py)"] == Stage.TABLE


def test_stacks_that_lost_their_callers_stand_together() -> None:
    torn = "thread (7): MainThread;decode (ingest/msgpack_decoder.py:100) 5\n"
    found = boxes(flamegraph.render([worker(RECORDED + torn)], "", ""))
    [box] = [box for box in found if box["data-n"] == "[callers not read]"]
    assert float(box["data-w"]) == pytest.approx(5 / 655, abs=1e-6)
    assert box["data-d"] == "2"


def test_callees_stay_within_their_callers() -> None:
    placed = flamegraph.layout(flamegraph.build_tree([worker()]))
    for box in placed[1:]:
        assert any(
            below.depth == box.depth - 1
            and below.x <= box.x + 1e-9
            and box.x + box.width <= below.x + below.width + 1e-9
            for below in placed
        )


def test_a_frame_says_its_hottest_lines() -> None:
    svg = flamegraph.render([worker()], "", "")
    assert "lines: 120 (50.0 %), 100 (33.3 %), 130 (16.7 %)" in svg


def test_what_waits_is_not_in_the_picture() -> None:
    waiting = "thread (3): arc-flush_0;_worker (concurrent/futures/thread.py:89) 900\n"
    assert "_worker" not in flamegraph.render([worker(waiting)], "", "")


def test_a_thread_without_frames_has_its_time_and_nothing_on_it() -> None:
    raw = "thread (7): MainThread 5\nthread (7): MainThread;_run_code (<frozen runpy>:88) 5\n"
    [root, thread] = boxes(flamegraph.render([worker(raw)], "", ""))
    assert (root["data-w"], thread["data-w"]) == ("1.000000", "1.000000")


def test_the_picture_of_nothing_says_so() -> None:
    svg = flamegraph.render([worker("")], "", "")
    assert "No thread was running" in svg
    assert [box["data-w"] for box in boxes(svg)] == ["1.000000"]


def test_the_flame_graph_needs_nothing_but_itself() -> None:
    svg = flamegraph.render([worker()], "", "")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", svg))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|@import|url)\s*\(", svg)
    assert {"href", "src"}.isdisjoint(
        attribute.rpartition("}")[2]
        for node in ET.fromstring(svg).iter()
        for attribute in node.attrib
    )


@given(st.text(st.characters(codec="utf-8", exclude_characters=";\n\r"), min_size=1))
def test_names_of_any_kind_leave_the_picture_well_formed(name: str) -> None:
    stacks = {Stack("MainThread", (Frame(name, "<a>&'\".py", 1),)): 100}
    [*_, box] = boxes(flamegraph.render([worker(stacks=stacks)], name, name))
    assert box["data-n"].endswith(" (<a>&'\".py)")


@pytest.mark.parametrize(
    ("width_px", "text"), [(20.0, ""), (33.0, "abc…"), (80.0, "abcdefghij"), (500.0, "abcdefghij")]
)
def test_a_text_is_cut_to_its_box(width_px: float, text: str) -> None:
    assert flamegraph.fit("abcdefghij", width_px) == text


def test_the_speedscope_file_keeps_to_its_format() -> None:
    made = json.loads(json.dumps(speedscope.speedscope_file([worker(), worker(shard=1)], "name")))
    check_speedscope(made)
    names = [profile["name"] for profile in made["profiles"]]
    assert names[:2] == ["worker 0 (pid 7), MainThread", "worker 0 (pid 7), arc-flush"]
    assert [p["endValue"] for p in made["profiles"][:2]] == pytest.approx([3.7, 2.8])
    files = {frame["name"]: frame["file"] for frame in made["shared"]["frames"]}
    assert files["decode"] == "ingest/msgpack_decoder.py"


def check_speedscope(made: dict[str, Any]) -> None:
    """Hold a file to the types of speedscope's src/lib/file-format-spec.ts."""
    assert made["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert made.keys() <= {
        *("$schema", "shared", "profiles", "name", "activeProfileIndex", "exporter")
    }
    assert all(
        frame.keys() <= {"name", "file", "line", "col"} for frame in made["shared"]["frames"]
    )
    assert all(isinstance(frame["name"], str) for frame in made["shared"]["frames"])
    for profile in made["profiles"]:
        assert profile.keys() == {
            *("type", "name", "unit", "startValue", "endValue", "samples", "weights")
        }
        assert (profile["type"], profile["unit"]) == ("sampled", "seconds")
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["endValue"] - profile["startValue"] == pytest.approx(sum(profile["weights"]))
        indices = {index for stack in profile["samples"] for index in stack}
        assert indices <= set(range(len(made["shared"]["frames"])))


# ------------------------------------------------------------------------- the daemon and py-spy


def write_state(data_dir: Path, workers: dict[int, int], pid: int | None = None) -> Path:
    """Write what a supervisor writes: its own pid (ours unless given), pids of workers by shard."""
    path = daemon.state_path(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "pid": os.getpid() if pid is None else pid,
        "url": "http://127.0.0.1:8000",
        "workers": [{"shard": shard, "pid": number} for shard, number in workers.items()],
        "version": "0.1.0",
        "durability": "memory",
        "started_at": "2026-01-01T00:00:00Z",
    }
    path.write_text(json.dumps(state), encoding="utf-8")
    return path


def gone_pid() -> int:
    """Number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_a_running_daemon_is_found(tmp_path: Path) -> None:
    write_state(tmp_path, {0: 11, 1: 12})
    state = daemon.find_daemon(tmp_path)
    assert [(found.shard, found.pid) for found in state.workers] == [(0, 11), (1, 12)]


def test_no_state_and_a_dead_supervisor_are_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(daemon.NoDaemonError, match=r"there is no .*daemon\.json"):
        daemon.find_daemon(tmp_path)
    write_state(tmp_path, {}, pid=gone_pid())
    with pytest.raises(daemon.NoDaemonError, match="which is gone"):
        daemon.find_daemon(tmp_path)


def test_a_process_younger_than_the_state_is_another_one(tmp_path: Path) -> None:
    path = write_state(tmp_path, {})
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with pytest.raises(daemon.NoDaemonError, match="which is gone"):
        daemon.find_daemon(tmp_path)


def test_a_damaged_state_is_no_daemon(tmp_path: Path) -> None:
    write_state(tmp_path, {}).write_text("{", encoding="utf-8")
    with pytest.raises(daemon.NoDaemonError, match="not the state of a daemon"):
        daemon.find_daemon(tmp_path)


def test_a_replaced_worker_is_named_with_its_successor(tmp_path: Path) -> None:
    write_state(tmp_path, {0: 11, 1: 12, 2: 13})
    before = daemon.find_daemon(tmp_path)
    write_state(tmp_path, {0: 11, 1: 99})
    changes = daemon.replaced_workers(before, tmp_path)
    assert [(old.pid, new.pid if new else None) for old, new in changes] == [(12, 99), (13, None)]


def test_py_spy_is_asked_not_to_stop_the_process_unless_it_must() -> None:
    path = Path("out")
    plain = pyspy.command("py-spy", 5, pyspy.Options(rate_hz=50, duration_s=3), path)
    assert "--nonblocking" in plain
    assert plain[plain.index("--rate") + 1] == "50"
    native = pyspy.command("py-spy", 5, pyspy.Options(native=True, gil=True), path)
    assert "--nonblocking" not in native
    assert {"--native", "--gil"} <= set(native)


def ended(tmp_path: Path, log: str, raw: str | None = None) -> pyspy.Recording:
    """A py-spy that has ended and left these texts."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "log").write_text(log, encoding="utf-8")
    if raw is not None:
        (tmp_path / "raw").write_text(raw, encoding="utf-8")
    return pyspy.Recording(
        daemon.Worker(0, os.getpid()), process, tmp_path / "raw", tmp_path / "log", 1.0, 3.5
    )


@pytest.mark.parametrize(
    "log",
    [
        "Permission Denied: Try running again with elevated permissions by going 'sudo env ...'",
        "Error: Failed to suspend process\nReason: EPERM: Operation not permitted",
        "Error: Failed to get process executable name.\n\nCaused by:\n    0: x (os error 13)",
    ],
)
def test_a_refusal_of_the_kernel_is_told_from_other_failures(tmp_path: Path, log: str) -> None:
    with pytest.raises(pyspy.NotPermittedError, match="may not be read"):
        pyspy.collect(ended(tmp_path, log), pyspy.Options())


def test_another_failure_is_told_in_the_words_of_py_spy(tmp_path: Path) -> None:
    with pytest.raises(pyspy.SamplingError, match="Check that the process is running") as caught:
        pyspy.collect(
            ended(tmp_path, "Error: Check that the process is running\n"), pyspy.Options()
        )
    assert not isinstance(caught.value, pyspy.NotPermittedError)


def test_what_was_sampled_before_an_early_end_is_kept(tmp_path: Path) -> None:
    log = "py-spy> Stopped sampling because process exited\npy-spy> Samples: 229 Errors: 30\n"
    recording = ended(tmp_path, log, RECORDED)
    recording.started_at, recording.ended_at = 100.0, 112.5
    kept = pyspy.collect(recording, pyspy.Options(rate_hz=100, duration_s=60))
    assert kept.ended_early
    assert (kept.rounds, kept.lost, kept.cpu_s) == (1250, 30, 2.5)
    assert kept.stacks == parse_raw(RECORDED)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_noted_and_not_raised_wherever_it_comes(number: signal.Signals) -> None:
    program = (
        f"import os, sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import profile_arc_ingestion as script\n"
        "with script.Interrupts() as interrupts:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    print(interrupts.came)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_advice_names_the_whole_command() -> None:
    command = ["/v/bin/python", "/r/a script.py", "60"]
    text = advice.not_permitted("process 5 may not be read", command, False, 1)
    assert "  sudo /v/bin/python '/r/a script.py' 60\n" in text
    assert "sudo sysctl kernel.yama.ptrace_scope=0" in text
    assert "sysctl" not in advice.not_permitted("x", command, False, None)
    assert "SYS_PTRACE" in advice.not_permitted("x", command, True, None)


# ------------------------------------------------------------------------------------ end to end

BUSY_DECODER = '''
def decode(count: int) -> int:
    """Burn processor time where the decoder would."""
    total = 0
    for value in range(count):
        total += value * value
    return total
'''
BUSY_WORKER = """
from ingest.msgpack_decoder import decode
print("ready", flush=True)
while True:
    decode(50_000)
"""


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A folder with a decoder that does nothing else."""
    folder = tmp_path / "ingest"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "msgpack_decoder.py").write_text(BUSY_DECODER, encoding="utf-8")
    return folder


@pytest.fixture
def busy_pid(decoder: Path, tmp_path: Path) -> Iterator[int]:
    """A process that looks to a profiler like a worker which only decodes."""
    command = [sys.executable, "-c", BUSY_WORKER]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def may_trace(pid: int) -> bool:
    """Whether the kernel lets py-spy read this process."""
    done = subprocess.run(
        [pyspy.find_py_spy(), "dump", "--pid", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return "permi" not in (done.stdout + done.stderr).lower()


def profile(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the profiler on the data directory of this test, its temporary files below it."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    places = ["--data-dir", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out")]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments, *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "120"},
    )


def needs_ptrace(pid: int) -> None:
    """Skip where nobody could profile anything."""
    if not may_trace(pid):
        pytest.skip("this user may not trace processes (kernel.yama.ptrace_scope, or a container)")


def test_a_busy_worker_is_profiled_and_a_dead_one_reported(tmp_path: Path, busy_pid: int) -> None:
    needs_ptrace(busy_pid)
    write_state(tmp_path / "data", {0: busy_pid, 1: gone_pid()})
    process = profile(tmp_path, "1")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "decode (ingest/msgpack_decoder.py:" in stdout
    assert "not sampled: worker 1" in stderr
    [picture] = (tmp_path / "out").glob("profile_ingestion_*Z.svg")
    widths = {b["data-n"]: float(b["data-w"]) for b in boxes(picture.read_text(encoding="utf-8"))}
    assert widths["decode (ingest/msgpack_decoder.py)"] > 0.5
    [scope] = (tmp_path / "out").glob("profile_ingestion_*Z.speedscope.json")
    check_speedscope(json.loads(scope.read_text(encoding="utf-8")))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_interrupt_keeps_what_was_sampled(tmp_path: Path, busy_pid: int) -> None:
    needs_ptrace(busy_pid)
    write_state(tmp_path / "data", {0: busy_pid})
    process = profile(tmp_path, "60")
    log = wait_for_log(process, tmp_path / "tmp")
    assert "Sampling process" in log
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "stopped early" in stdout
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert not [
        child for child in psutil.Process().children(recursive=True) if "py-spy" in child.name()
    ]


TREE = """
import subprocess, sys
with subprocess.Popen([sys.executable, sys.argv[1]], stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    print(child.pid, flush=True)
    try:
        sys.stdin.read()
    finally:
        child.kill()
"""


@pytest.fixture
def family(decoder: Path, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A process with a busy one below it, as a supervisor has: both their numbers."""
    (tmp_path / "tree.py").write_text(TREE, encoding="utf-8")
    (tmp_path / "busy.py").write_text(BUSY_WORKER, encoding="utf-8")
    command = [sys.executable, "tree.py", "busy.py"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())


def test_a_whole_tree_is_profiled_from_its_root(tmp_path: Path, family: tuple[int, int]) -> None:
    root, below = family
    needs_ptrace(below)
    write_state(tmp_path / "data", {0: below}, pid=root)
    process = profile(tmp_path, "1", "--subprocesses")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "decode (ingest/msgpack_decoder.py:" in stdout
    [scope] = (tmp_path / "out").glob("profile_ingestion_*Z.speedscope.json")
    names = [p["name"] for p in json.loads(scope.read_text(encoding="utf-8"))["profiles"]]
    assert f"worker 0 (pid {below})" in {name.partition(",")[0] for name in names}


def wait_for_log(process: subprocess.Popen[str], directory: Path) -> str:
    """What py-spy printed once it had begun, or all when the profiler ended before."""
    text = ""
    while "Sampling process" not in text and process.poll() is None:
        text = "".join(log.read_text(encoding="utf-8") for log in directory.glob("*/worker-0.log"))
    return text


def test_without_a_daemon_it_says_how_to_start_one(tmp_path: Path) -> None:
    process = profile(tmp_path, "1")
    _, stderr = process.communicate()
    assert process.returncode == 3
    assert "./start.sh native" in stderr
