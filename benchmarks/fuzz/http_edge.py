"""The target that is a whole daemon: bytes at its socket, and what it answers.

A body is everything that one connection sends. Its first byte says in how many pieces. Beside it
another client writes rows that are right, which all have to be in the files in the end. The
daemon is another process, so the engine sees none of its branches.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
from pathlib import Path
from typing import Any

import ormsgpack
import psutil
import pyarrow.dataset as ds

from benchmarks.fuzz.requests import is_whole, mutilate, session
from benchmarks.fuzz.target import Finding, Ran
from benchmarks.torture.daemon import Daemon, DaemonError

FLAGS = {
    "workers": "1",
    "durability": "page",
    "flush-age-s": "2",
    "memory-bytes": "128MiB",
    "max-body-bytes": "1MiB",
    "max-decompressed-bytes": "8MiB",
    "max-measurements": "200",
    "max-columns": "300",
    "max-hours": "40",
    "header-timeout-s": "2",
    "body-timeout-s": "2",
}
#: How often the valid client writes, in bodies, and how often the daemon is looked over.
VALID_EVERY = 50
LOOK_EVERY = 1_000
ROWS = 10
#: Of one connection; the daemon's own limits are far below.
ANSWER_S = 20.0
#: After which the daemon is taken to wait for more.
SHORT_S = 0.3

#: The daemon is told that nothing follows, so that it closes.
LAST = b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

_STATUS = re.compile(rb"HTTP/[0-9]\.[0-9] (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_START_US = 1_790_000_000_000_000


class HttpTarget:
    """A daemon of one worker."""

    name = "http"
    description = "the HTTP edge of a real daemon: heads, framing, pipelining, on every door"
    in_process = False
    max_bytes = 64 * 2**10
    cost = 10

    def open(self, folder: Path) -> None:
        """Start the daemon."""
        self._outside = folder
        options = [part for name, value in FLAGS.items() for part in (f"--{name}", value)]
        self._daemon = Daemon(folder / "data", *options, log_file=folder / "daemon.log")
        self._daemon.start()
        try:
            self._daemon.wait_until_ready()
        except DaemonError:
            self._daemon.close()
            raise
        self._address = self._daemon.address
        self._pids = dict(self._daemon.workers)
        self._worker = psutil.Process(self._pids[0])
        self._valid = http.client.HTTPConnection(*self._address, timeout=ANSWER_S)
        self._runs = 0
        self._acknowledged: list[int] = []
        self._refused = 0
        self._largest_lag_s = self._largest_rss = 0.0
        self._write_valid()

    def seed(self, rng: random.Random) -> bytes:
        """A connection's bytes."""
        return bytes([rng.randrange(4)]) + session(rng)

    def mutate(self, rng: random.Random, body: bytes) -> bytes:
        """Others."""
        return body[:1] + mutilate(rng, body[1:])

    def run(self, body: bytes) -> Ran:
        """Send them, read all answers, look at the daemon now and then."""
        self._runs += 1
        if self._runs % VALID_EVERY == 0:
            self._write_valid()
        if self._runs % LOOK_EVERY == 0:
            self._look()
        pieces, sent = (body[0] & 3 if body else 0), body[1:]
        used_s = self._cpu_s()
        whole = is_whole(sent)
        statuses = self._judge(self._exchange(sent + LAST if whole else sent, pieces, whole))
        used_s = self._cpu_s() - used_s
        label = "-".join(str(status) for status in statuses[:-1] if status < 400) or "refused"
        return Ran("taken" if label != "refused" else label, used_s)

    def _cpu_s(self) -> float:
        """CPU time of the worker's event loop so far, which is its first thread.

        Not the time until the answer, which waits for deadlines where a request is cut off, nor
        that of the process, whose other threads build and write files meanwhile.
        """
        try:
            threads = self._worker.threads()
        except psutil.Error:
            return 0.0  # it ended, or this system does not tell
        times = [
            each.user_time + each.system_time for each in threads if each.id == self._worker.pid
        ]
        return float(sum(times))

    def _exchange(self, sent: bytes, pieces: int, whole: bool) -> bytes:
        """Send, and read until the daemon closes."""
        answers: list[bytes] = []
        with socket.create_connection(self._address, timeout=ANSWER_S) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                size = len(sent) // (pieces + 1) + 1
                for at in range(0, len(sent), size):
                    link.sendall(sent[at : at + size])
                self._read(link, answers, is_over=not whole)
            except TimeoutError:
                said = f"no end of answers in {ANSWER_S:g} s"
                raise Finding("hang", self.name, said) from None
            except OSError:
                pass  # the daemon has said all that it wanted to, and closed
        return b"".join(answers)

    def _read(self, link: socket.socket, answers: list[bytes], is_over: bool) -> None:
        if is_over:
            link.shutdown(socket.SHUT_WR)
        link.settimeout(ANSWER_S if is_over else SHORT_S)
        while True:
            try:
                part = link.recv(65536)
            except TimeoutError:
                if is_over:
                    raise
                self._read(link, answers, is_over=True)  # it waits for more
                return
            if not part:
                return
            answers.append(part)

    def _judge(self, answers: bytes) -> list[int]:
        """The statuses of all answers, each of which must be in order."""
        statuses: list[int] = []
        at = 0
        while at < len(answers):
            found = _STATUS.match(answers, at)
            if found is None:
                shown = answers[max(0, at - 300) : at + 200]
                raise Finding("answer", "http-framing", f"no status line in {shown!r}")
            status = int(found[1])
            end = answers.find(b"\r\n\r\n", at) + 4
            if end < 4:
                break  # cut off with the connection
            length = _LENGTH.search(answers, at, end)
            size = int(length[1]) if length and not _STATUS.match(answers, end) else 0
            content = answers[end : end + size]
            if status >= 500 and status != 503:
                said = content.decode("utf-8", "replace")
                raise Finding("answer", f"http-{status}", f"status {status}: {said}")
            head = answers[at:end].lower()
            if status >= 400 and size and b"application/json" in head and len(content) == size:
                _check_error(status, content)
            if status >= 200:
                statuses.append(status)
            at = end + size
        return statuses

    # ------------------------------------------------------------------------- the daemon itself

    def _write_valid(self) -> None:
        """Rows of another client, which nothing may disturb."""
        first = (len(self._acknowledged) + self._refused) * ROWS
        numbers = list(range(first, first + ROWS))
        times = [_START_US + number for number in numbers]
        body = ormsgpack.packb({"m": "beside", "columns": {"time": times, "n": numbers}})
        for attempt in (1, 2):
            try:
                self._valid.request(
                    "POST", "/api/v1/write/msgpack", body, {"x-arc-database": "valid"}
                )
                reply = self._valid.getresponse()
                content = reply.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._valid.close()
                if attempt == 2:
                    raise Finding("end", "http-valid", f"a valid client: {error!r}") from error
        if reply.status == 204:
            self._acknowledged.append(first)
        elif reply.status == 503:
            self._refused += 1
        else:
            said = content.decode("utf-8", "replace")
            raise Finding("answer", "http-valid", f"a valid write: {reply.status} {said}")

    def _look(self) -> None:
        try:
            if self._daemon.workers != self._pids:
                self._pids = dict(self._daemon.workers)
                self._worker = psutil.Process(self._pids[0])
                raise Finding("crash", "http-worker", self._daemon.last_words())
            lag_s = self._daemon.metric("arc_loop_lag_max_seconds")
            held = self._daemon.metric("arc_bytes_buffered")
            held += self._daemon.metric("arc_bytes_in_flight")
            limit = self._daemon.metric("arc_memory_limit_bytes")
        except DaemonError as error:
            raise Finding("end", "http-daemon", str(error)) from error
        self._largest_lag_s = max(self._largest_lag_s, lag_s)
        for pid in self._pids.values():
            rss = psutil.Process(pid).memory_info().rss / 2**20
            self._largest_rss = max(self._largest_rss, rss)
        if held > limit:
            raise Finding("memory", "http-budget", f"{held:.0f} bytes held, over {limit:.0f}")

    def close(self) -> tuple[list[Finding], dict[str, object]]:
        """Stop the daemon, read its files and its log."""
        figures: dict[str, object] = {}
        findings: list[Finding] = []
        try:
            self._look()
            figures = {
                "largest lag ms": round(self._largest_lag_s * 1000),
                "worker MiB": round(self._largest_rss),
                "valid rows": len(self._acknowledged) * ROWS,
            }
            self._valid.close()
            status = self._daemon.stop()
            if status != 0:
                findings.append(Finding("end", f"http-exit-{status}", self._daemon.last_words()))
        except (Finding, DaemonError, AssertionError) as error:
            found = error if isinstance(error, Finding) else Finding("end", "http", repr(error))
            findings.append(found)
        finally:
            self._daemon.close()
        return findings + self._check_files() + self._check_log(), figures

    def _check_files(self) -> list[Finding]:
        found = []
        outside = {path.name for path in self._outside.iterdir()} - {"data", "daemon.log"}
        if outside:
            found.append(Finding("invariant", "http-outside", f"made {sorted(outside)}"))
        files = sorted(self._daemon.data_dir.glob("valid/beside/*/*/*/*/*.parquet"))
        table = ds.dataset([str(path) for path in files], format="parquet").to_table(["n"])
        stored = sorted(table.column("n").to_pylist())
        wanted = [first + number for first in self._acknowledged for number in range(ROWS)]
        if stored != wanted:
            said = f"{len(wanted)} acknowledged, {len(stored)} stored"
            found.append(Finding("invariant", "http-valid-rows", said))
        return found

    def _check_log(self) -> list[Finding]:
        """Errors that the daemon logged: each is a defect of ours."""
        found: dict[str, Finding] = {}
        for row in self._daemon.log_file.read_text(errors="replace").splitlines():
            event = _event(row)
            if event.get("level") in ("error", "critical"):
                finding = Finding("exception", f"http-log-{event.get('event')}", row[-4000:])
                found.setdefault(finding.key, finding)
        return list(found.values())


def _event(row: str) -> dict[str, Any]:
    try:
        event = json.loads(row)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _check_error(status: int, content: bytes) -> None:
    try:
        told = json.loads(content)
    except ValueError:
        raise Finding("answer", "http-json", f"status {status}: {content!r}") from None
    if not isinstance(told, dict) or not isinstance(told.get("error", told.get("message")), str):
        raise Finding("answer", "http-error", f"status {status}: {content!r}")


HTTP = HttpTarget()
