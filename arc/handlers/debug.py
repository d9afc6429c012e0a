"""What the operator asks when the daemon is slow: where its time goes, seen by itself.

`GET /debug/pprof/profile?seconds=10&format=svg` answers with the flame graph of all workers, once
they have sampled themselves for so long. For those with the admin token only. One profile at a
time; it ends when its client goes away. It changes nothing but the speed, and that little
(docs/profiling/README.md has the figures).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from aiohttp import web

from arc.admin import AdminGuard
from arc.json_answer import JSON, json_error
from arc.profiler import collapsed, flamegraph, speedscope
from arc.profiler_socket import MAX_SECONDS, BusyError, NobodyError, Profile, gather
from arc.resources import Expect

PATH = "/debug/pprof/profile"
DEFAULT_SECONDS = 10
RATE_HZ = 100

#: Format to content type and file ending.
FORMATS = {
    "svg": ("image/svg+xml", "svg"),
    "speedscope": (JSON, "speedscope.json"),
    "collapsed": ("text/plain", "txt"),
}

#: The picture runs a script of its own, and may reach nothing.
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'",
}

#: How soon a client is noticed to be gone.
_LOOK_EVERY_S = 0.25


class DebugHandlers:
    """Profiles of the whole daemon.

    Args:
        guard: Says who may.
        run_dir: Of the daemon.
        num_workers: How many it has.
    """

    def __init__(self, guard: AdminGuard, run_dir: Path, num_workers: int) -> None:
        self._guard = guard
        self._run_dir = run_dir
        self._num_workers = num_workers

    def add_routes(self, app: web.Application, expect: Expect | None = None) -> None:
        """Answer the path; `expect` answers the header Expect."""
        app.router.add_get(PATH, self.profile, expect_handler=expect, allow_head=False)

    async def profile(self, request: web.Request) -> web.Response:
        """`GET /debug/pprof/profile`: 200 with the picture, or why there is none."""
        refusal = self._guard.refusal(request)
        if refusal is not None:
            return refusal
        try:
            seconds, form = _read(request)
        except ValueError as error:
            return json_error(400, str(error))
        gathering = asyncio.ensure_future(
            gather(self._run_dir, self._num_workers, seconds, RATE_HZ)
        )
        try:
            while not gathering.done():
                await asyncio.wait([gathering], timeout=_LOOK_EVERY_S)
                if _is_gone(request):
                    return web.Response(status=499)  # to nobody
            return await _answer(gathering.result(), form)
        except BusyError as error:
            return json_error(429, str(error), {"Retry-After": f"{error.left_s:.0f}"})
        except NobodyError as error:
            return json_error(503, str(error), {"Retry-After": "1"})
        finally:
            gathering.cancel()
            await asyncio.wait([gathering])


def _read(request: web.Request) -> tuple[int, str]:
    """Seconds and format of a request.

    Raises:
        ValueError: a parameter is not one of ours, or its value is out of bounds.
    """
    if unknown := sorted(request.query.keys() - {"seconds", "format"}):
        raise ValueError(f"parameter {unknown[0][:40]!r}: there are seconds and format")
    text = request.query.get("seconds", str(DEFAULT_SECONDS))
    is_number = text.isascii() and text.isdigit() and len(text) < 9
    if not is_number or not 1 <= int(text) <= MAX_SECONDS:
        raise ValueError(f"seconds {text[:20]!r}: wanted a whole number from 1 to {MAX_SECONDS}")
    form = request.query.get("format", "svg")
    if form not in FORMATS:
        raise ValueError(f"format {form[:20]!r}: wanted one of {', '.join(FORMATS)}")
    return int(text), form


async def _answer(profile: Profile, form: str) -> web.Response:
    """The profile in its format. Drawn on a thread: writes do not wait for it."""
    name = f"arc-profile-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    content_type, ending = FORMATS[form]
    body = await asyncio.to_thread(partial(render, profile, form, name))
    shown = f'inline; filename="{name}.{ending}"'
    return web.Response(
        body=body,
        content_type=content_type,
        charset="utf-8",
        headers=_HEADERS | {"Content-Disposition": shown},
    )


def render(profile: Profile, form: str, name: str) -> bytes:
    """A profile as one of `FORMATS`."""
    workers = profile.workers
    if form == "collapsed":
        return collapsed.collapsed(workers).encode()
    if form == "speedscope":
        return msgspec.json.encode(speedscope.speedscope_file(workers, name))
    took_s = max(worker.rounds / worker.rate_hz for worker in workers)
    cpu_s = sum(worker.cpu_s for worker in workers)
    own = sum(worker.own_s for worker in workers) / cpu_s if cpu_s else 0.0
    title = f"Arc, {len(workers)} workers merged: processor time"
    subtitle = (
        f"{took_s:.0f} s, {cpu_s:.1f} CPU-seconds, of which sampling took {100 * own:.1f} %; "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    )
    if profile.missing:
        missing = ", ".join(map(str, profile.missing))
        subtitle += f"; nothing was heard of worker {missing}"
    return flamegraph.render(workers, title, subtitle).encode()


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
