"""Which part of the pipeline a stack belongs to. Pure.

In: the frames of a stack. Out: a `Stage`. The table `RULES` is the only place that knows names of
files; it never looks at line numbers.

The innermost frame that a rule knows decides. NumPy called by the decoder is decoding, and
pyarrow called by the flush is table building, since no rule names either; `pyarrow/parquet` is
Parquet whoever calls it. A compiled kernel or Arrow's C++ leaves no frame of its own: its time
shows on the line of Python that called it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

from arc.profiler.samples import Frame


class Stage(enum.StrEnum):
    """A part of the pipeline, in the order in which a row meets them."""

    HTTP = "HTTP"
    DECODE = "decode"
    SCHEMA = "schema"
    LOG = "log"
    LOCK = "lock"
    BUFFER = "buffer"
    TABLE = "table building"
    PARQUET = "Parquet"
    OTHER = "other"
    UNREAD = "not read"
    IDLE = "idle"


class Rule(NamedTuple):
    """Frames of `file` (and `function`) belong to `stage`.

    Attributes:
        stage: Where the time goes.
        file: Regular expression, matched from a directory border to the end of the path.
        function: Regular expression for the whole qualified name; None is any.
        innermost_only: Holds only for the innermost frame: what waits there does nothing else.
    """

    stage: Stage
    file: str
    function: str | None = None
    innermost_only: bool = False


#: The first rule that matches a frame counts. Special cases come before the folder they lie in.
RULES: tuple[Rule, ...] = (
    # A thread that waits for work. py-spy leaves out what the kernel has put to sleep; these are
    # the moments just before and after, and with --native the sleep itself.
    Rule(Stage.IDLE, r"selectors\.py", r".*\bselect", True),
    Rule(Stage.IDLE, r"threading\.py", r"(Condition|Event|Barrier)\.wait|Thread\.join", True),
    Rule(Stage.IDLE, r"concurrent/futures/thread\.py", r"_worker", True),
    Rule(Stage.IDLE, r"queue\.py", r".*\bget", True),
    # The log's thread: its loop itself only asks for the next job, at a queue without a frame.
    Rule(Stage.IDLE, r"ingest/wal\.py", r".*\b_work", True),
    Rule(Stage.IDLE, r"lib[\w.+-]*\.so[\d.]*", r"(__)?(epoll_p?wait2?|p?poll|p?select)\d*", True),
    Rule(Stage.IDLE, r".*", r"_queue_SimpleQueue_get\w*"),
    # Locks.
    Rule(
        Stage.LOCK, r"asyncio/locks\.py", r"(Lock|Condition|\w*Semaphore|_ContextManagerMixin)\..*"
    ),
    Rule(Stage.LOCK, r"threading\.py", r".*\b(acquire|__enter__|_acquire_restore)"),
    # Locks of C, seen with --native only, and then also while they wait.
    Rule(Stage.LOCK, r".*", r"take_gil|\w*PyThread_acquire_lock\w*|_PyMutex_Lock\w*"),
    Rule(Stage.LOCK, r".*", r"(__)?(pthread_mutex_lock|lll_lock_wait|sem_\w*wait)"),
    # Bytes to columns.
    Rule(Stage.DECODE, r"ingest/(msgpack_\w+|assemble|line_protocol|arrow_ipc|timestamps)\.py"),
    Rule(Stage.DECODE, r"ingest/otlp(/\w+)?\.py"),
    Rule(Stage.DECODE, r"ingest/kernels/msgpack\w*\.py"),
    Rule(Stage.SCHEMA, r"ingest/(schema|catalog)\.py"),
    Rule(Stage.LOG, r"ingest/wal\w*(/\w+)?\.py"),
    # Columns to files.
    Rule(Stage.TABLE, r"ingest/(table_build|kernels/sort\w*)\.py"),
    Rule(Stage.PARQUET, r"ingest/(parquet(_\w+)?|store|table_log)\.py"),
    Rule(Stage.PARQUET, r"pyarrow/(parquet/\w+|_parquet\w*)\.(py|pyx)"),
    Rule(Stage.PARQUET, r"deltalake(/\w+)+\.py"),
    Rule(Stage.PARQUET, r"ingest/arrow_writer\.py", r".*\b_stage(\.<locals>.*)?"),
    Rule(Stage.TABLE, r"ingest/arrow_writer\.py", r".*\b_flush_records(\.<locals>.*)?"),
    Rule(Stage.BUFFER, r"ingest/(buffer|arrow_writer|budget|pipeline)\.py"),
    # The process around the pipeline.
    Rule(Stage.HTTP, r"arc(/\w+)+\.py"),
    Rule(Stage.HTTP, r"(aiohttp|httptools|uvloop|asyncio|multidict|yarl)(/[\w.-]+)+"),
)

#: Of a stage in the flame graph: dark enough for white text, told apart by colour-blind readers
#: (after Okabe and Ito, 2008), grey for what is not the pipeline.
COLOURS: dict[Stage, str] = {
    Stage.HTTP: "#3b76af",
    Stage.DECODE: "#c8553d",
    Stage.SCHEMA: "#8a6fae",
    Stage.LOG: "#7a5c3e",
    Stage.LOCK: "#b3247a",
    Stage.BUFFER: "#2a9187",
    Stage.TABLE: "#9a6f00",
    Stage.PARQUET: "#4f8f3a",
    Stage.OTHER: "#7d8590",
    Stage.UNREAD: "#9aa1aa",
    Stage.IDLE: "#b9bfc7",
}

_Compiled = tuple[Stage, re.Pattern[str], re.Pattern[str] | None, bool]


def _compile(rule: Rule) -> _Compiled:
    function = re.compile(rf"^(?:{rule.function})$") if rule.function else None
    return rule.stage, re.compile(rf"(?:^|/)(?:{rule.file})$"), function, rule.innermost_only


_COMPILED = tuple(_compile(rule) for rule in RULES)


def stage_of_frame(frame: Frame, innermost: bool) -> Stage | None:
    """Stage that the frame alone stands for, or None where only its caller can tell."""
    for stage, file, function, innermost_only in _COMPILED:
        if innermost_only and not innermost:
            continue
        if file.search(frame.file) and (function is None or function.match(frame.name)):
            return stage
    return None


def stage_of(frames: Sequence[Frame]) -> Stage:
    """Stage of a stack, given outermost frame first: that of its innermost frame with a rule."""
    for distance, frame in enumerate(reversed(frames)):
        stage = stage_of_frame(frame, innermost=distance == 0)
        if stage is not None:
            return stage
    return Stage.OTHER
