"""A body that shows a finding, made smaller for as long as it still shows it.

In: a target, a body and the key of its finding. Out: the smallest body that was found in the
time. Every try is a process of its own, forked, so that crashes and memory are as at first.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz.target import Finding, Judge, Target

#: A try that takes longer hangs.
TRY_S = 20.0


def minimise_file(target: Target, folder: Path, key: str, seconds: float) -> None:
    """Make `KEY.body` of a folder smaller, and say in `KEY.json` whether it shows it again."""
    body = (folder / f"{key}.body").read_bytes()
    told = json.loads((folder / f"{key}.json").read_text())

    def shows(candidate: bytes) -> bool:
        return key_of(target, candidate) == key

    told["confirmed"] = shows(body)
    if told["confirmed"]:
        body = minimise(body, shows, seconds)
    (folder / f"{key}.body").write_bytes(body)
    (folder / f"{key}.json").write_text(json.dumps(told))


def minimise(body: bytes, shows: Callable[[bytes], bool], seconds: float) -> bytes:
    """Drop ever smaller pieces, then make bytes plain, while the finding stays."""
    end_s = time.monotonic() + seconds
    size = len(body)
    while size >= 1 and time.monotonic() < end_s:
        smaller = _without_one_piece(body, size, shows, end_s)
        if smaller is None:
            size //= 2
        else:
            body = smaller
            size = min(size, len(body))
    for at in range(len(body)):
        if time.monotonic() > end_s:
            break
        plain = body[:at] + b"0" + body[at + 1 :]
        if plain != body and shows(plain):
            body = plain
    return body


def _without_one_piece(
    body: bytes, size: int, shows: Callable[[bytes], bool], end_s: float
) -> bytes | None:
    found = None
    at = 0
    while at < len(body) and time.monotonic() < end_s:
        smaller = body[:at] + body[at + size :]
        if shows(smaller):
            body = found = smaller
        else:
            at += size
    return found


def key_of(target: Target, body: bytes) -> str:
    """Key of the finding that a body shows in a fresh process, empty if none."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.write(writing, _key_here(target, body).encode())
        os._exit(0)
    os.close(writing)
    try:
        text = _read_all(reading)
    finally:
        os.close(reading)
    if text is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return hang(target).key
    status = os.waitpid(pid, 0)[1]
    return crash(target, os.WTERMSIG(status)).key if os.WIFSIGNALED(status) else text.decode()


def _read_all(descriptor: int) -> bytes | None:
    """Everything up to the end of a pipe; None: it does not end in time."""
    end_s = time.monotonic() + TRY_S
    parts: list[bytes] = []
    while select.select([descriptor], [], [], max(0.0, end_s - time.monotonic()))[0]:
        piece = os.read(descriptor, 4096)
        if not piece:
            return b"".join(parts)
        parts.append(piece)
    return None


def _key_here(target: Target, body: bytes) -> str:
    try:
        Judge(target)(body)
    except Finding as finding:
        return finding.key
    return ""


def crash(target: Target, number: int) -> Finding:
    """The finding that a process was ended by a signal."""
    name = signal.Signals(number).name
    return Finding("crash", f"{target.name}-{name}", f"the process ended by {name}")


def hang(target: Target) -> Finding:
    """The finding that a body takes no end."""
    return Finding("hang", target.name, f"not done after {TRY_S:g} s")
