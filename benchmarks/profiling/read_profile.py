"""Profiles as files, back into samples. Reads only.

In: a file of any of these kinds, told by its content. Out: a `Profile`: stacks with their samples,
and whether those are counts of independent looks.

* the flame graph (SVG) of scripts/profile_arc_ingestion.py and of `/debug/pprof/profile`, whose
  frames carry what is needed; lines of code are left out, as in the picture;
* speedscope JSON, "sampled" profiles, ours, py-spy's or others' (src/lib/file-format-spec.ts);
* collapsed stacks: `py-spy record --format raw`, `?format=collapsed`, stackcollapse of perf.

How many looks a profile is made of decides what its differences are worth. Ours and collapsed
stacks say it. In other speedscope files it is the sum of the weights by the smallest of them:
the number of stacks where all weights are alike, as py-spy's are, else a lower bound.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from arc.profiler.samples import (
    MAIN_THREAD,
    Frame,
    RawFormatError,
    Stack,
    parse_frame,
    parse_raw,
    pool_name,
)

_SVG = "{http://www.w3.org/2000/svg}"
_WORKER = re.compile(r"^[\w -]+ \(pid \d+\), ")
_PY_SPY_THREAD = re.compile(r'^Process \d+ Thread \w+ "(?P<name>.*)"$|^Thread \w+ "(?P<other>.*)"$')
_PROCESS = re.compile(r"^process \d+:")
#: What arc.profiler.speedscope says of itself.
_OURS = re.compile(r"^arc, ([1-9]\d*) samples a second$")
#: What py-spy leaves before a path in speedscope files, and shortens in its other formats.
_FOLDERS = re.compile(r"^/.*/(?:site-packages|python3\.\d+)/|^/.*/(?=(?:arc|ingest|benchmarks)/)")
#: A file larger than this is no profile that a person took.
MAX_FILE_BYTES = 512 * 2**20


class NotAProfileError(ValueError):
    """The file holds nothing that can be read as a profile; the message says what it is."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What one file holds.

    Attributes:
        path: The file.
        kind: What it is, in words.
        stacks: Samples by stack.
        seconds: What all samples stand for; None where the file does not say.
    """

    path: Path
    kind: str
    stacks: Mapping[Stack, int]
    seconds: float | None

    @property
    def samples(self) -> int:
        """How many looks it is made of."""
        return sum(self.stacks.values())


def read_profile(path: Path) -> Profile:
    """Read a file.

    Raises:
        NotAProfileError: it is no profile, is empty, or is damaged.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise NotAProfileError(f"{path}: {size} bytes is no profile: the limit is {MAX_FILE_BYTES}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise NotAProfileError(f"{path}: not a text file (a memray or pprof file?)") from None
    start = text.lstrip()[:1]
    if start == "<":
        profile = _read_svg(path, text)
    elif start == "{":
        profile = _read_speedscope(path, text)
    else:
        profile = _read_collapsed(path, text)
    if not profile.samples:
        raise NotAProfileError(f"{path}: {profile.kind} without a single sample")
    return profile


# ------------------------------------------------------------------------------- collapsed stacks


def _read_collapsed(path: Path, text: str) -> Profile:
    try:
        stacks = parse_raw(text)
    except RawFormatError as error:
        raise NotAProfileError(f"{path}: no SVG, no JSON, and {error}") from None
    return Profile(path, "collapsed stacks", _without_processes(stacks), None)


def _without_processes(stacks: Mapping[Stack, int]) -> dict[Stack, int]:
    """`--subprocesses` puts frames of processes first, before that of the thread."""
    plain: Counter[Stack] = Counter()
    for stack, count in stacks.items():
        frames = list(stack.frames)
        thread = stack.thread
        while frames and _PROCESS.match(frames[0].name):
            frames.pop(0)
        if frames and (found := re.match(r"^thread \(\w+\)(?:: (.*))?$", _text(frames[0]))):
            thread = pool_name(found[1] or "?")
            frames.pop(0)
        plain[Stack(thread, tuple(frames))] += count
    return dict(plain)


def _text(frame: Frame) -> str:
    return f"{frame.name} ({frame.file})" if frame.file else frame.name


# --------------------------------------------------------------------------------------- speedscope


class _Shared(msgspec.Struct):
    frames: list[dict[str, Any]]


class _Sampled(msgspec.Struct):
    type: str
    name: str = ""
    unit: str = "none"
    samples: list[list[int]] = []
    weights: list[float] = []


class _Speedscope(msgspec.Struct):
    shared: _Shared
    profiles: list[_Sampled]
    exporter: str = ""


_PER_SECOND = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}


def _read_speedscope(path: Path, text: str) -> Profile:
    try:
        file = msgspec.json.decode(text, type=_Speedscope)
        frames = [_speedscope_frame(frame) for frame in file.shared.frames]
        weighed = list(_weighed(file.profiles, frames))
    except msgspec.MsgspecError as error:
        raise NotAProfileError(f"{path}: JSON, but not of speedscope: {error}") from None
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise NotAProfileError(f"{path}: a damaged speedscope file: {error}") from None
    rate = _OURS.match(file.exporter)
    smallest = min((weight for _, weight in weighed if weight > 0), default=1.0)
    grain = 1 / int(rate[1]) if rate else smallest
    stacks: Counter[Stack] = Counter()
    for stack, weight in weighed:
        stacks[stack] += round(weight / grain)
    scale = _PER_SECOND.get(file.profiles[0].unit if file.profiles else "")
    seconds = scale * sum(weight for _, weight in weighed) if scale else None
    return Profile(path, "speedscope", dict(stacks), seconds)


def _weighed(profiles: list[_Sampled], frames: list[Frame]) -> Iterator[tuple[Stack, float]]:
    for profile in profiles:
        if profile.type != "sampled":
            raise ValueError(f"profile {profile.name!r} is {profile.type!r}, wanted 'sampled'")
        thread = _speedscope_thread(profile.name)
        for indices, weight in zip(profile.samples, profile.weights, strict=True):
            yield Stack(thread, tuple(frames[index] for index in indices)), weight


def _speedscope_frame(frame: dict[str, Any]) -> Frame:
    name, file = str(frame["name"]), _FOLDERS.sub("", str(frame.get("file") or ""))
    return Frame(name, file, int(frame.get("line") or 0)) if file else parse_frame(name)


def _speedscope_thread(name: str) -> str:
    found = _PY_SPY_THREAD.match(name)
    if found:
        return pool_name(found["name"] or found["other"] or "?")
    return pool_name(_WORKER.sub("", name))


# ------------------------------------------------------------------------------------ flame graphs


def _read_svg(path: Path, text: str) -> Profile:
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise NotAProfileError(f"{path}: not whole, or no SVG: {error}") from None
    samples = root.get("data-samples", "")
    if root.tag != f"{_SVG}svg" or not samples.isdigit():
        raise NotAProfileError(
            f"{path}: a page, but no flame graph of scripts/profile_arc_ingestion.py or of "
            "/debug/pprof/profile (of other tools', read the collapsed or speedscope form)"
        )
    rate_hz = float(root.get("data-rate") or 0)
    stacks = _stacks_of_boxes(
        [g.attrib for g in root.iter(f"{_SVG}g") if g.get("class") == "f"], int(samples)
    )
    return Profile(path, "flame graph", stacks, int(samples) / rate_hz if rate_hz else None)


def _stacks_of_boxes(boxes: list[dict[str, str]], whole: int) -> dict[Stack, int]:
    """Stacks whose own samples are those of a frame less those of the frames that stand on it."""
    placed = [(float(b["data-x"]), int(b["data-d"]), float(b["data-w"]), b) for b in boxes]
    placed.sort(key=lambda one: (one[0], one[1]))
    stacks: Counter[Stack] = Counter()
    path: list[tuple[int, str]] = []  # depth and name, from the root on
    own: dict[tuple[str, ...], int] = {}
    for _, depth, width, box in placed:
        while path and path[-1][0] >= depth:
            path.pop()
        key = tuple(name for _, name in path)
        path.append((depth, box["data-n"]))
        count = round(width * whole)
        own[(*key, box["data-n"])] = own.get((*key, box["data-n"]), 0) + count
        if key:
            own[key] -= count
    for names, count in own.items():
        if count > 0 and len(names) > 1:
            stacks[_stack(names)] += count
    return dict(stacks)


def _stack(names: tuple[str, ...]) -> Stack:
    thread = MAIN_THREAD if names[1] == "event loop" else names[1].removeprefix("thread ")
    return Stack(thread, tuple(parse_frame(name) for name in names[2:]))
