"""Settings of heap and collector, in processes of their own: they last for a process's life."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IS_GLIBC = platform.libc_ver()[0] == "glibc"

PAGE_FAULTS = """
import resource, sys
from arc.memory import tune_heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "tuned":
    tune_heap()
for times in range(53):
    if times == 3:
        before = faults()
    blocks = [bytes(1_000_000) for _ in range(20)]
    del blocks
print((faults() - before) // 50)
"""


def run(program: str, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    plain, tuned = int(run(PAGE_FAULTS, "plain")), int(run(PAGE_FAULTS, "tuned"))
    assert (tuned < plain / 10) == IS_GLIBC, (plain, tuned)


def test_the_heap_says_whether_it_took_the_settings() -> None:
    assert run("from arc.memory import tune_heap; print(tune_heap())") == str(IS_GLIBC)


def test_what_the_start_made_is_not_collected_again() -> None:
    program = (
        "import gc\nfrom arc.memory import settle_garbage_collector\n"
        "kept = [[] for _ in range(1000)]\nsettle_garbage_collector()\n"
        "print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000, gc.get_threshold()[0])"
    )
    assert run(program) == "True True 50000"


LOOKS_FOR_PANDAS = """
import sys
import pyarrow as pa
from arc.memory import leave_out_pandas

if sys.argv[1] == "left out":
    leave_out_pandas()
assert pa.array([1.0, None]).drop_null().to_numpy().tolist() == [1.0]
print(len([name for name in sys.modules if name.startswith("pandas.")]) > 0)
"""


def test_pyarrow_does_not_import_pandas_where_it_is_left_out() -> None:
    assert run(LOOKS_FOR_PANDAS, "as it is") == "True"
    assert run(LOOKS_FOR_PANDAS, "left out") == "False"
