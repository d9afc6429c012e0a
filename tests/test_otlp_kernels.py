"""The kernels of OTLP by themselves: that they stay inside their arrays, and what they write.

The bounds are checked by running the same code uncompiled, in a process of its own, where NumPy
refuses every index outside an array.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ingest.kernels import otlp as kernels
from ingest.kernels import otlp_json
from ingest.otlp import fast
from ingest.otlp.parts import Budget
from ingest.otlp.request import Signal
from tests.support.otlp_requests import LIMITS, NOW_US, agrees, regular_request, spelled

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------------- bounds

UNCOMPILED = """
import random
import numpy as np
from ingest.kernels import otlp, otlp_json
from ingest.otlp.request import Signal
from ingest.testing.otlp import random_request
from tests.support.otlp_requests import agrees, damaged, regular_request, spelled

assert type(otlp.walk).__name__ == "function", "compiled after all"
assert type(otlp_json.transcode).__name__ == "function", "compiled after all"
np.seterr(over="ignore")  # of uint64, which is meant to wrap

taken = 0
for seed in range(40):
    rng = random.Random(seed)
    signal = (Signal.LOGS, Signal.TRACES)[seed % 2]
    request = regular_request(rng, signal, 2)
    odd = random_request(rng, signal, 2, faults=seed % 3)
    for is_json in (False, True):
        body = spelled(request, is_json)
        taken += agrees(body, signal, is_json)
        agrees(spelled(odd, is_json), signal, is_json)
        for _ in range(3):
            agrees(damaged(rng, body), signal, is_json)
            agrees(body[: rng.randrange(len(body))], signal, is_json)
assert taken == 80, taken
for is_json in (False, True):
    body = spelled(regular_request(random.Random(8), Signal.LOGS, 1), is_json)
    for end in range(0, len(body), 1 + 4 * is_json):
        agrees(body[:end], Signal.LOGS, is_json)
"""


def test_uncompiled_kernels_never_leave_an_array_and_agree_with_the_twin() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNCOMPILED],
        cwd=ROOT,
        env=dict(os.environ, NUMBA_DISABLE_JIT="1"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def requests(count: int, signal: Signal, is_json: bool = False) -> list[bytes]:
    """Bodies that the kernels take."""
    made = (regular_request(random.Random(seed), signal, 3) for seed in range(count))
    return [spelled(request, is_json) for request in made]


def counted(body: NDArray[np.uint8], signal: Signal = Signal.LOGS) -> kernels.Tables:
    """The tables of a request after the first walk."""
    layout = fast._LAYOUTS[signal]
    t = kernels.tables(layout.kinds, layout.num_record, NOW_US)
    assert kernels.walk(body, layout.number, t) == kernels.OK
    return t


def filled(body: NDArray[np.uint8], signal: Signal, spare: int = 16) -> NDArray[np.int64]:
    """The arena of a request, after a look that nothing beside it was written."""
    layout, t = fast._LAYOUTS[signal], counted(body, signal)
    words = fast._place(t, Budget(LIMITS))
    assert words is not None
    t = kernels.to_fill(t, words)
    room = np.full(words + 2 * spare, 0x5555555555555555, dtype=np.int64)
    arena = room[spare : spare + words]
    arena[:] = 0
    t = t._replace(arena=arena, raw=arena.view(np.uint8), offsets=arena.view(np.int32))
    assert kernels.walk(body, layout.number, t) == kernels.OK
    kernels.end_strings(t)
    assert (room[:spare] == 0x5555555555555555).all()
    assert (room[spare + words :] == 0x5555555555555555).all()
    return arena


@pytest.mark.parametrize("signal", [Signal.LOGS, Signal.TRACES])
@pytest.mark.parametrize("after", [0x00, 0x0A, 0x80, 0xFF])
def test_bytes_behind_the_body_change_nothing(signal: Signal, after: int) -> None:
    for body in requests(30, signal):
        alone = np.frombuffer(body, dtype=np.uint8)
        longer = np.frombuffer(body + bytes([after]) * 64, dtype=np.uint8)[: len(body)]
        assert np.array_equal(filled(longer, signal), filled(alone, signal))


def test_a_table_of_what_is_left_out_that_is_too_small_is_not_written_beyond() -> None:
    request = ExportLogsServiceRequest()
    for _ in range(5):
        request.resource_logs.add().scope_logs.add().log_records.add().body.int_value = 1
    body = np.frombuffer(request.SerializeToString(), dtype=np.uint8)
    layout = fast._LAYOUTS[Signal.LOGS]
    for room in range(7):
        t = kernels.tables(layout.kinds, layout.num_record, NOW_US)
        rests = np.full((room + 1, kernels.R_WIDTH), -7, dtype=np.int64)
        t = t._replace(rests=rests[:room])
        status = kernels.walk(body, layout.number, t)
        assert status == (kernels.OK if room >= 5 else kernels.FALLBACK)
        assert (rests[room] == -7).all()


# --------------------------------------------------------------------------------- UTF-8


def test_utf8_is_judged_as_python_judges_it() -> None:
    edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1)
    heads = (*edges, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF)
    for size in (1, 2, 3):
        for text in itertools.product(heads, repeat=size):
            raw = bytes(text)
            assert is_utf8(raw) == decodable(raw), raw


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_string_that_begins_inside_a_character_is_found(cut: int) -> None:
    blob = np.frombuffer(bytearray("aé日🎉".encode()), dtype=np.uint8)
    whole = np.array([0, 1, 3, 6, 10], dtype=np.int32)
    assert kernels.are_utf8(whole, blob)
    whole[2] -= 1
    assert not kernels.are_utf8(whole, blob)
    assert not kernels.are_utf8(np.array([0, 6 + cut, 10], dtype=np.int32), blob)


def is_utf8(text: bytes) -> bool:
    """The kernel's judgement of one string."""
    blob = np.frombuffer(bytearray(text), dtype=np.uint8)
    return bool(kernels.are_utf8(np.array([0, blob.size], dtype=np.int32), blob))


def decodable(text: bytes) -> bool:
    """Python's judgement."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---------------------------------------------------------------------------- transcoding


def transcoded(body: bytes, signal: Signal, room: int | None = None) -> bytes | None:
    """A request in JSON as protobuf; None: not taken."""
    layout = fast._LAYOUTS[signal]
    size = len(body) + otlp_json.SPARE_BYTES if room is None else room
    out = np.full(size + 16, 0x55, dtype=np.uint8)
    late = np.zeros((len(body) // otlp_json.LATE_BYTES + 1, otlp_json.L_WIDTH), dtype=np.int64)
    stack = np.empty((otlp_json.MAX_DEPTH, otlp_json.S_WIDTH), dtype=np.int64)
    nexts = np.full(otlp_json.NUM_NEXTS, -1, dtype=np.int64)
    buf = np.frombuffer(body, dtype=np.uint8)
    used, num_late = otlp_json.transcode(buf, layout.json_number, out[:size], late, stack, nexts)
    assert (out[size:] == 0x55).all()
    if used == otlp_json.FALLBACK:
        return None
    for start, end, to in late[:num_late].tolist():
        out[to : to + 8] = np.frombuffer(np.float64(float(body[start:end])).tobytes(), np.uint8)
    return out[:used].tobytes()


@pytest.mark.parametrize(
    ("signal", "message"),
    [(Signal.LOGS, ExportLogsServiceRequest), (Signal.TRACES, ExportTraceServiceRequest)],
)
def test_json_written_anew_is_the_same_request(signal: Signal, message: Any) -> None:
    for body, json_body in zip(requests(60, signal), requests(60, signal, True), strict=True):
        anew = transcoded(json_body, signal)
        assert anew is not None
        assert message.FromString(anew) == message.FromString(body)


def test_with_too_little_room_the_request_is_not_taken_and_nothing_is_written_beyond() -> None:
    (body,) = requests(1, Signal.LOGS, is_json=True)
    whole = transcoded(body, Signal.LOGS)
    assert whole is not None
    for room in range(0, len(whole), 7):
        assert transcoded(body, Signal.LOGS, room) is None


# ----------------------------------------------------------------------------------- compiling


def test_warming_up_compiles_everything_that_a_request_can_ask_for() -> None:
    kernels.warm()
    otlp_json.warm()
    for signal in (Signal.LOGS, Signal.TRACES):
        for is_json in (False, True):
            for body in requests(10, signal, is_json):
                assert agrees(body, signal, is_json)
    for kernel in (kernels.walk, kernels.end_strings, kernels.are_utf8, otlp_json.transcode):
        compiled: Any = kernel
        assert len(compiled.signatures) == 1, compiled
