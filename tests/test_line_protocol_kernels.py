"""The kernels of line protocol by themselves: what they read and write, and what they answer.

The bounds are checked by running the same code uncompiled, in a process of its own, where NumPy
refuses every index outside an array.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.kernels import line_protocol as kernels
from ingest.kernels.msgpack import FALLBACK, MORE_ROOM, OK
from ingest.limits import Limits
from ingest.line_protocol import decode, decode_fast
from ingest.line_protocol_slow import decode_slow
from ingest.testing import assert_same_batches
from ingest.testing.line_protocol import random_line_body

ROOT = Path(__file__).resolve().parent.parent
SCALE = np.array([-(2**62), 2**62, 0])


def as_buffer(body: bytes) -> NDArray[np.uint8]:
    """A body as the decoder hands it to the kernels."""
    return np.frombuffer(body, dtype=np.uint8)


class Room:
    """Arrays for one scan, with a border around them that must stay as it is."""

    def __init__(self, slots: int = 64, cells: int = 400, table: int = 256) -> None:
        self.all_slots = np.full((slots + 2, kernels.SLOT_WIDTH), -7, dtype=np.int64)
        self.all_codes = np.full(cells + 2, -7, dtype=np.int32)
        self.all_values = np.full(cells + 2, -7, dtype=np.int64)
        self.slots = self.all_slots[1:-1]
        self.codes = self.all_codes[1:-1]
        self.values = self.all_values[1:-1]
        self.table = np.zeros(table, dtype=np.int32)

    def scan(self, body: bytes | NDArray[np.uint8]) -> int:
        """The answer of the kernel."""
        buf = as_buffer(body) if isinstance(body, bytes) else body
        return kernels.scan(buf, 5, SCALE, self.slots, self.table, self.codes, self.values)

    def is_intact(self) -> bool:
        """Whether nothing beside the arrays was written."""
        arrays: tuple[NDArray[Any], ...] = (self.all_slots, self.all_codes, self.all_values)
        return all((array[end] == -7).all() for array in arrays for end in (0, -1))


def scanned(body: bytes | NDArray[np.uint8]) -> Room:
    """A body that the kernels take."""
    room = Room()
    assert room.scan(body) == OK
    assert kernels.plan(room.slots) == OK
    assert room.is_intact()
    return room


def filled(body: bytes | NDArray[np.uint8]) -> bytes:
    """The arena of a body, after a look that nothing beside it was written."""
    room = scanned(body)
    words = int(room.slots[0, kernels.T_ARENA]) // 8
    arena = np.zeros(words + 4, dtype=np.int64)
    arena[:2] = arena[-2:] = 0x5555555555555555
    buf = as_buffer(body) if isinstance(body, bytes) else body
    kernels.fill(buf, room.slots, room.codes, room.values, arena[2:-2])
    assert (arena[:2] == 0x5555555555555555).all()
    assert (arena[-2:] == 0x5555555555555555).all()
    return arena[2:-2].tobytes()


def fast_bodies(count: int) -> list[bytes]:
    """Random bodies that the kernels take."""
    found: list[bytes] = []
    seed = 0
    while len(found) < count:
        body = random_line_body(random.Random(seed), 8)
        seed += 1
        if decode_fast(body, 5, Limits()) is not None:
            found.append(body)
    return found


# ------------------------------------------------------------------------------------- bounds

UNCOMPILED = """
import random
import numpy as np
from ingest.errors import IngestError
from ingest.kernels import line_protocol as kernels
from ingest.limits import Limits
from ingest.line_protocol import decode, decode_fast
from ingest.line_protocol_slow import decode_slow
from ingest.testing import assert_same_batches
from ingest.testing.line_protocol import random_line_body

assert type(kernels.scan).__name__ == "function", "compiled after all"
np.seterr(over="ignore")

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
    assert_same_batches(found, wanted)
    return decode_fast(body, 5, Limits()) is not None

fast = sum(check(random_line_body(random.Random(seed), 5)) for seed in range(60))
assert fast > 30, fast
for seed in range(60):
    check(random_line_body(random.Random(seed), 4, faults=1))
line = b'cpu,host=a\\\\ b,a_longer_tag=longer_value x="q\\\\"",f=-12.25e-1,i=-7i,b=true'
line += b',u=18446744073709551615u,long=0.12345678901234567890123,sub=5e-320'
line += b',g=1.7976931348623157e308,h=123456789012345678 -1'
for end in range(len(line) + 1):
    check(line[:end])
    check(line + b"\\n" + line[:end])
for size in range(40):
    for value in (b"x" * size, b"x" * size + b"\\\\,", b"x" * size + b"\\\\"):
        check(b"m,t=" + value + b" v=1\\nm,t=ab v=1\\nm v=2\\nm,t=" + value + b" v=1")
        check(b'm s="' + value + b'"\\nm v=1\\nm s="' + value + b'",v=1')
    check(b"m v=" + b"1" * size + b"\\nm w=" + b"9" * size + b"i,x=0." + b"7" * size)
    check(b"m" * (size + 1) + b" " + b"k" * (size + 1) + b"=t 5\\n" + b"m" * (size + 1) + b" k=f")
for seed in range(150):
    rng = random.Random(seed)
    body = bytearray(random_line_body(rng, 3))
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


@pytest.mark.parametrize("after", [b"\0", b" ", b"1", b",", b"\n", b'"', b"\\", b"\xff"])
def test_bytes_behind_the_body_change_nothing(after: bytes) -> None:
    for body in fast_bodies(30):
        longer = as_buffer(body + after * 64)
        assert filled(longer[: len(body)]) == filled(body)


def test_room_that_is_too_small_is_said_and_not_left() -> None:
    body = b"m,t=a v=1,w=2\nn v=1\n"
    for slots in range(1, 7):
        room = Room(slots)
        assert room.scan(body) == MORE_ROOM
        assert room.is_intact()
    for cells in range(1, 6):
        room = Room(7, cells)
        assert room.scan(body) == MORE_ROOM
        assert room.is_intact()
    assert Room(7, 6).scan(body) == OK


def test_keys_made_to_collide_end_in_a_fall_back_and_not_in_a_long_search() -> None:
    keys = [b"k%d" % i for i in range(600)]
    body = b"".join(b"m " + b",".join(b"%s=1" % key for key in keys) + b"\n" for _ in range(3))
    room = Room(1024, 4000, 1024)  # a table as full as it can be, where it should have 4 096
    assert room.scan(body) in (OK, FALLBACK)
    crowded = Room(1024, 4000, 1024)
    crowded.table[:900] = 1  # places that lead to another key
    assert crowded.scan(b"n v=1\n" + body) == FALLBACK


# ------------------------------------------------------------------------------------ numbers


def test_powers_of_five_are_the_first_128_bits() -> None:
    for power in (*range(kernels._LEAST_POWER, 0, 7), *range(0, kernels._MOST_POWER + 1, 7)):
        high, low = (int(word) for word in kernels._FIVES[power - kernels._LEAST_POWER])
        bits = high << 64 | low
        assert bits.bit_length() == 128
        exact = 5**power if power >= 0 else None
        if exact is not None:
            assert bits == exact << 128 >> exact.bit_length()
        else:
            divisor = 5**-power
            quotient = (1 << 127 + divisor.bit_length()) // divisor
            assert bits - quotient == (power >= -27)


def test_every_power_of_ten_and_its_neighbours_are_the_nearest_doubles() -> None:
    float_bits: Any = kernels._float_bits
    rng = random.Random(1)
    for power in range(-345, 312):
        for digits in (1, 2**53 + 1, 10**19 - 1, rng.getrandbits(63), rng.getrandbits(30) | 1):
            wanted = struct.unpack("Q", struct.pack("d", float(f"{digits}e{power}")))[0]
            found = float_bits(np.uint64(digits), power)
            assert int(found) == wanted, (digits, power)


def test_words_are_searched_up_to_the_lowest_match() -> None:
    name_marks: Any = kernels._name_marks
    lowest: Any = kernels._first
    rng = random.Random(2)
    stops = set(b"=\\") | set(range(45))
    for _ in range(3000):
        text = bytes(rng.choice((*b'ab=\\,- \n"', *rng.randbytes(2))) for _ in range(8))
        word = np.uint64(int.from_bytes(text, "little"))
        marks = name_marks(word)
        first = next((i for i, byte in enumerate(text) if byte in stops), None)
        assert (None if marks == 0 else lowest(np.uint64(marks))) == first


# ----------------------------------------------------------------------------------- compiling


def test_warming_up_compiles_everything_that_a_body_can_ask_for() -> None:
    kernels.warm()
    for body in fast_bodies(30):
        assert_same_batches(decode(body, 5, Limits()), decode_slow(body, 5, Limits()))
    for name in ("scan", "plan", "fill"):
        assert len(getattr(kernels, name).signatures) == 1, name
