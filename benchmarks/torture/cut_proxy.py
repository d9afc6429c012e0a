"""A TCP proxy that cuts what passes through it, on demand.

In: where the server listens, and orders. Out: an address for clients. Bytes are passed on as they
come, and never looked into, but for the one thing that `blank_keys` says. What it does to a
connection is what networks do: an abrupt end (RST) at a chosen byte of the request or of the
answer, silence, a port where nobody listens. Bytes that were under way when the silence began
arrive after it, as a retransmission would: also when the client has long asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

_CHUNK_BYTES = 65_536
_BACKLOG = 64
#: l_onoff = 1, l_linger = 0: close() sends RST and throws away what was not sent, socket(7).
_ABRUPTLY = struct.pack("ii", 1, 0)
_ORDER_TIMEOUT_S = 10.0
_KEY_HEADER = re.compile(rb"(?i)idempotency-key:")
_BLANK_HEADER = b"x-ignored-by-it:"  # as long

_T = TypeVar("_T")


class Cut(enum.StrEnum):
    """Where an armed cut falls."""

    REQUEST = "request"  # after so many bytes from the client have been passed on
    ANSWER = "answer"  # after so many bytes from the server have been passed on; 0: before any


class _Pair:
    """A connection of a client, and the one made for it to the server."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.task: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """End both at once; neither side gets what was under way."""
        for one in (self.near, self.far):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPTLY)
        self.close()

    def close(self) -> None:
        """End both in order."""
        self.near.close()
        self.far.close()


class CutProxy:
    """The proxy, running in a thread of its own while its context lasts.

    Args:
        upstream: Where the server listens; may be set to another address at any time.
        blank_keys: Take the name off every `Idempotency-Key` header, so that the server sees
            none: for a control, which has to see rows twice.

    Attributes:
        address: Where clients connect to; the same as long as the context lasts.
        cuts: What was done so far, by kind, in connections.
    """

    def __init__(self, upstream: tuple[str, int], *, blank_keys: bool = False) -> None:
        self.upstream = upstream
        self.cuts: Counter[str] = Counter()
        self._blank_keys = blank_keys
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._pairs: set[_Pair] = set()  # touched in the loop only, like all below
        self._passing = {cut: asyncio.Event() for cut in Cut}  # by direction
        self._armed: tuple[Cut, int] | None = None
        self._cut = threading.Event()  # the armed one has fallen
        self._is_listening = False
        self._listener = _bound(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()

    def __enter__(self) -> CutProxy:
        self._thread.start()
        self._do(self._heal())
        return self

    def __exit__(self, *exception: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------------------------------- orders

    def reset_connections(self) -> int:
        """Cut every connection now; returns how many there were."""
        return self._do(self._reset_connections("reset"))

    def arm(self, cut: Cut, after_bytes: int) -> None:
        """Cut the connection on which the byte with this number passes, counted from now."""
        self._do(self._arm(cut, after_bytes))

    def wait_for_cut(self, timeout_s: float) -> bool:
        """Wait until the armed cut has fallen; False: it did not, and is disarmed."""
        if self._cut.wait(timeout_s):
            return True
        self._do(self._disarm())
        return self._cut.is_set()

    def black_hole(self) -> None:
        """Pass no byte in either direction until `heal`; connections are still accepted."""
        self._do(self._hold("black hole", *Cut))

    def mute(self) -> None:
        """Pass requests and hold every answer back until `heal`."""
        self._do(self._hold("mute", Cut.ANSWER))

    def refuse(self) -> None:
        """Cut every connection, and refuse new ones until `heal`."""
        self._do(self._refuse())

    def heal(self) -> None:
        """Pass everything again, what was held back first."""
        self._do(self._heal())

    # --------------------------------------------------------------------------------- in the loop

    def _do(self, order: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(order, self._loop).result(_ORDER_TIMEOUT_S)

    async def _arm(self, cut: Cut, after_bytes: int) -> None:
        self._armed = (cut, after_bytes)
        self._cut.clear()

    async def _disarm(self) -> None:
        self._armed = None

    async def _hold(self, what: str, *directions: Cut) -> None:
        for direction in directions:
            self._passing[direction].clear()
        self.cuts[what] += 1

    async def _refuse(self) -> None:
        self._stop_listening()
        await self._reset_connections("refusal")
        self._listener = _bound(self.address)  # and not listening: the kernel refuses

    async def _heal(self) -> None:
        for event in self._passing.values():
            event.set()
        if not self._is_listening:
            self._is_listening = True
            self._listener.listen(_BACKLOG)
            self._loop.add_reader(self._listener, self._accept)

    async def _close(self) -> None:
        self._stop_listening()
        await self._reset_connections("end")

    def _stop_listening(self) -> None:
        if self._is_listening:
            self._loop.remove_reader(self._listener)
        self._is_listening = False
        self._listener.close()

    async def _reset_connections(self, why: str) -> int:
        pairs = list(self._pairs)
        tasks = [pair.task for pair in pairs if pair.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pair in pairs:
            pair.reset()
        self._pairs.difference_update(pairs)
        self.cuts[why] += len(pairs)
        return len(pairs)

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:  # gone again
            return
        near.setblocking(False)
        pair = _Pair(near, socket.socket())
        pair.far.setblocking(False)
        self._pairs.add(pair)
        pair.task = self._loop.create_task(self._serve(pair))

    async def _serve(self, pair: _Pair) -> None:
        """Connect to the server, pass bytes in both directions, end both when one ends."""
        for one in (pair.near, pair.far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(pair.far, self.upstream)
            if pair.far.getsockname() == self.upstream:  # nobody listens, and it met itself
                raise ConnectionRefusedError
            await self._pass_both(pair)
            pair.close()
        except OSError:  # one side was reset, or a cut fell: so is the other one
            pair.reset()
        self._pairs.discard(pair)

    async def _pass_both(self, pair: _Pair) -> None:
        up = asyncio.create_task(self._pass(pair.near, pair.far, Cut.REQUEST))
        down = asyncio.create_task(self._pass(pair.far, pair.near, Cut.ANSWER))
        try:
            await asyncio.gather(up, down)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _pass(self, source: socket.socket, sink: socket.socket, cut: Cut) -> None:
        """One direction, up to the end of it. Raises ConnectionResetError where a cut falls."""
        while data := await self._loop.sock_recv(source, _CHUNK_BYTES):
            await self._passing[cut].wait()
            if self._blank_keys and cut is Cut.REQUEST:
                data = _KEY_HEADER.sub(_BLANK_HEADER, data)
            passed = self._until_cut(cut, data)
            await self._loop.sock_sendall(sink, data[:passed])
            if passed < len(data):
                self._fall(cut)
                raise ConnectionResetError
        await self._passing[cut].wait()
        sink.shutdown(socket.SHUT_WR)

    def _until_cut(self, cut: Cut, data: bytes) -> int:
        """How many of these bytes come before the armed cut; all of them when none is near."""
        if self._armed is None or self._armed[0] is not cut:
            return len(data)
        left = self._armed[1]
        self._armed = (cut, max(0, left - len(data)))
        return min(left, len(data))

    def _fall(self, cut: Cut) -> None:
        self._armed = None
        self.cuts[cut.value] += 1
        self._cut.set()


def _bound(address: tuple[str, int]) -> socket.socket:
    """A socket with this address, not listening yet."""
    out = socket.socket()
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    out.setblocking(False)
    out.bind(address)
    return out
