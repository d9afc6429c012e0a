"""The kernels by themselves: what they read and write, and that no request waits for a compiler.

The bounds are checked by running the same code uncompiled, in a process of its own, where NumPy
refuses every index outside an array: 3 s, where compiling it with Numba's bounds checks takes 12.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.data import workload_body
from ingest.errors import IngestError
from ingest.kernels import msgpack as kernels
from ingest.limits import Limits
from ingest.msgpack_decoder import decode
from ingest.testing import (
    array_forms,
    bin_forms,
    columnar,
    float_forms,
    int_forms,
    map_forms,
    random_body,
    str_forms,
    timestamp_forms,
)

ROOT = Path(__file__).resolve().parent.parent


def as_buffer(body: bytes) -> NDArray[np.uint8]:
    """A body as the decoder hands it to the kernels."""
    return np.frombuffer(body, dtype=np.uint8)


def plan_of(body: bytes, rows: int = 400) -> NDArray[np.int64]:
    """The plan of a body that the kernels take."""
    plan = np.empty((rows, kernels.PLAN_WIDTH), dtype=np.int64)
    assert kernels.scan(as_buffer(body), plan) == kernels.OK
    return plan[: plan[0, kernels.T_ROWS]]


def fast_bodies(count: int) -> list[bytes]:
    """Random bodies that the kernels take."""
    made = (random_body(random.Random(seed)) for seed in itertools.count())
    plan = np.empty((400, kernels.PLAN_WIDTH), dtype=np.int64)
    taken = (body for body in made if kernels.scan(as_buffer(body), plan) == kernels.OK)
    return list(itertools.islice(taken, count))


# ------------------------------------------------------------------------------------- bounds

UNCOMPILED = """
import random
from ingest import testing
from ingest.errors import IngestError
from ingest.kernels import msgpack as kernels
from ingest.limits import Limits
from ingest.msgpack_decoder import decode, decode_fast
from ingest.msgpack_slow import decode_slow

assert type(kernels.scan).__name__ == "function", "compiled after all"

def outcome(decoder, body):
    try:
        return decoder(body, 5, Limits())
    except IngestError as error:
        return type(error), str(error)

def check(body):
    found, wanted = outcome(decode, body), outcome(decode_slow, body)
    if isinstance(found, tuple) or isinstance(wanted, tuple):
        assert found == wanted, (found, wanted)
        return 0
    testing.assert_same_batches(found, wanted)
    return decode_fast(body, 5, Limits()) is not None

fast = sum(check(testing.random_body(random.Random(seed), 2, 3, 20)) for seed in range(150))
assert fast > 100, fast
for seed in range(100):
    check(testing.random_body(random.Random(seed), 2, 3, 20, faults=2))
values = [None, True, 5, -5, 2**40, -(2**40), 1.5, "abc", "x" * 40, b"abc"]
cells = [form for value in values for form in testing.forms(value)]
for cell in [*cells, *testing.timestamp_forms(5, 0)]:
    for name in ("v", "time"):
        body = testing.columnar("a", {name: [testing.Encoded(cell)] * 2})
        for end in range(len(body) - 2 * len(cell), len(body) + 1):
            check(body[:end])
for size in range(70):
    for texts in (["", "x" * size], ["ab", None, "x" * size], [None, "", "x" * size, "", "abc"]):
        check(testing.columnar("a", {"v": texts}))
        blobs = [b"x" * size, b"", b"a", b"", b""][: len(texts)]
        check(testing.columnar("a", {"v": texts, "w": blobs}))
for form in [form for value in (5, 300, 70_000, -5, 2**40) for form in testing.forms(value)]:
    for more in range(10):
        check(testing.columnar("a", {"v": [testing.Encoded(form)] * 2 + [1] * more}))
for seed in range(200):
    rng = random.Random(seed)
    body = bytearray(testing.random_body(rng, 1, 3, 10))
    body[rng.randrange(len(body))] = rng.getrandbits(8)
    check(bytes(body))
"""


def test_uncompiled_kernels_never_leave_an_array_and_agree_with_the_twin() -> None:
    environment = dict(os.environ, NUMBA_DISABLE_JIT="1")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNCOMPILED],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("after", [0x00, 0xA5, 0xC0, 0xFF])
def test_bytes_behind_the_body_change_nothing(after: int) -> None:
    for body in fast_bodies(40):
        longer = as_buffer(body + bytes([after]) * 64)
        buf = longer[: len(body)]
        plan = np.empty((400, kernels.PLAN_WIDTH), dtype=np.int64)
        assert kernels.scan(buf, plan) == kernels.OK
        assert filled(buf, plan) == filled(as_buffer(body), plan_of(body))


def filled(buf: NDArray[np.uint8], plan: NDArray[np.int64]) -> list[bytes]:
    """The buffers of every column, after a look that nothing beside the arena was written."""
    words = int(plan[0, kernels.T_ARENA]) // 8
    room = np.full(words + 16, 0x5555555555555555, dtype=np.int64)
    assert kernels.fill(buf, plan, room[8 : 8 + words]) == kernels.OK
    assert (room[:8] == 0x5555555555555555).all()
    assert (room[8 + words :] == 0x5555555555555555).all()
    return [each for row in plan[1 : plan[0, 0]] for each in column_buffers(row, room[8:])]


def column_buffers(row: NDArray[np.int64], arena: NDArray[np.int64]) -> list[bytes]:
    kind, at, values = (int(row[i]) for i in (kernels.C_KIND, kernels.C_AT, kernels.C_VALUES))
    if kind in (kernels.KIND_MAP, kernels.KIND_NULL):
        return []
    raw = arena.view(np.uint8)
    found = []
    if kind in (kernels.KIND_UTF8, kernels.KIND_BINARY):
        found.append(arena.view(np.int32)[at : at + values + 1].tobytes())
        found.append(raw[row[kernels.C_BYTES] : row[kernels.C_BYTES_END]].tobytes())
    elif kind == kernels.KIND_BOOL:
        found.append(raw[at : at + values].tobytes())
    else:
        found.append(arena[at : at + values].tobytes())
    if row[kernels.C_VALIDITY] >= 0:
        found.append(raw[row[kernels.C_VALIDITY] :][:values].tobytes())
    return found


def test_buffers_of_a_plan_lie_apart_and_fill_the_arena() -> None:
    for body in fast_bodies(60):
        plan = plan_of(body)
        end = 0
        for row in plan[1:]:
            for start, size in places(row):
                assert end <= start < end + 8
                assert start % 8 == 0
                end = start + size
        assert end <= plan[0, kernels.T_ARENA] < end + 8


def places(row: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First byte and size of each buffer of a column."""
    kind, at, values = (int(row[i]) for i in (kernels.C_KIND, kernels.C_AT, kernels.C_VALUES))
    if kind in (kernels.KIND_MAP, kernels.KIND_NULL):
        return []
    if kind in (kernels.KIND_UTF8, kernels.KIND_BINARY):
        start, end = int(row[kernels.C_BYTES]), int(row[kernels.C_BYTES_END])
        found = [(4 * at, 4 * (values + 1)), (start, end - start)]
    else:
        found = [(at, values) if kind == kernels.KIND_BOOL else (8 * at, 8 * values)]
    if row[kernels.C_VALIDITY] >= 0:
        found.append((int(row[kernels.C_VALIDITY]), values))
    return found


def test_a_plan_that_is_too_small_asks_for_more_room_and_stays_inside() -> None:
    body = as_buffer(columnar("a", {"v": [1], "w": [2]}) * 3)
    for rows in range(1, 10):
        room = np.full((rows + 1, kernels.PLAN_WIDTH), -7, dtype=np.int64)
        assert kernels.scan(body, room[:rows]) == kernels.MORE_ROOM
        assert (room[rows] == -7).all()
    assert kernels.scan(body, np.empty((10, kernels.PLAN_WIDTH), dtype=np.int64)) == kernels.OK


# ------------------------------------------------------------------------------------- UTF-8


def test_utf8_is_judged_as_python_judges_it() -> None:
    heads = (0x00, 0x61, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0)
    edges = (*heads, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF7, 0xF8, 0xFF)
    found = [
        bytes(text)
        for size in (1, 2, 3, 4)
        for text in itertools.product(*[edges if size < 4 else edges[7:]] * size)
    ]
    for text in found:
        assert is_utf8(text) == decodable(text), text
    for text in found[:: len(found) // 500]:
        for before, after in ((b"a" * 40, b""), (b"", b"a" * 40), ("é".encode() * 30, b"\x80")):
            assert is_utf8(before + text + after) == decodable(before + text + after)


def is_utf8(text: bytes) -> bool:
    """The kernel's judgement of `text` where other bytes stand around it."""
    answer: bool = kernels._is_utf8(as_buffer(b"\xf0" + text + b"\x80"), 1, 1 + len(text))
    return answer


def decodable(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


# -------------------------------------------------------------------------------------- walking

SCALARS = [
    *(b"\xc0", b"\xc2", b"\xc3", *int_forms(5), *int_forms(-5), *int_forms(2**40)),
    *(*float_forms(1.5), *str_forms("abc"), *bin_forms(b"abc"), *timestamp_forms(5, 0)),
    *(b"\xd4\x01a", b"\xd5\x01ab", b"\xd6\x01abcd", b"\xd7\x01" + b"a" * 8),
    *(b"\xd8\x01" + b"a" * 16, b"\xc7\x03\x01abc", b"\xc8\x00\x03\x01abc"),
    b"\xc9\x00\x00\x00\x03\x01abc",
]
ARRAYS = [head + b"\x01\xc0\xa1a" for head in array_forms(3)]
MAPS = [head + b"\x01\xc0\x02\x91\x80" for head in map_forms(2)]


@pytest.mark.parametrize(
    ("item", "inside"),
    [(item, 0) for item in SCALARS] + [(item, 3) for item in ARRAYS] + [(item, 5) for item in MAPS],
)
def test_walking_steps_over_any_object_and_sees_where_it_is_cut_off(
    item: bytes, inside: int
) -> None:
    msgspec.msgpack.decode(item)
    assert kernels.walk(as_buffer(item), 0, 1) == (len(item), 1, 1 + inside)
    assert kernels.walk(as_buffer(item * 3), 0, 2) == (2 * len(item), 2, 2 + 2 * inside)
    for cut in range(1, len(item)):
        assert kernels.walk(as_buffer(item[:cut]), 0, 9)[1] == -1


def test_the_unused_type_byte_is_found() -> None:
    assert kernels.walk(as_buffer(b"\x92\x01\xc1"), 0, 9) == (2, -1, 2)


# ----------------------------------------------------------------------------------- compiling


def test_warming_up_compiles_everything_that_a_body_can_ask_for() -> None:
    kernels.warm()
    for seed in range(30):
        body = random_body(random.Random(seed), faults=seed % 2)
        try:
            decode(body, 5, Limits())
        except IngestError:
            continue
    decode(workload_body("mixed", 100), 5, Limits())
    for name in ("scan", "fill", "walk"):
        assert len(getattr(kernels, name).signatures) == 1, name
