"""How late the event loop runs what is due: the sign that something blocks it."""

from __future__ import annotations

import asyncio

from arc.metrics import SlotFloatGauge, SlotHistogram

#: Often enough to see a pause of a tenth of a second, at 10 wake-ups a second.
INTERVAL_S = 0.1
#: The largest lag is kept for one to two windows, which two scrapes of 10 s cannot both miss.
WINDOW_S = 10.0


class LagProbe:
    """Wakes up on a timer and records how much later than asked."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, lag: SlotHistogram, largest: SlotFloatGauge
    ) -> None:
        self._loop = loop
        self._lag = lag
        self._largest = largest
        self._window_end_s = loop.time() + WINDOW_S
        self._this_window_s = 0.0
        self._last_window_s = 0.0
        self._wake_up_at(loop.time() + INTERVAL_S)

    def stop(self) -> None:
        """Stop measuring."""
        self._timer.cancel()

    def _wake_up_at(self, due_s: float) -> None:
        self._timer = self._loop.call_at(due_s, self._record, due_s)

    def _record(self, due_s: float) -> None:
        now_s = self._loop.time()
        lag_s = max(now_s - due_s, 0.0)
        if now_s >= self._window_end_s:
            self._last_window_s, self._this_window_s = self._this_window_s, 0.0
            self._window_end_s = now_s + WINDOW_S
        self._this_window_s = max(self._this_window_s, lag_s)
        self._lag.observe(lag_s)
        self._largest.set(max(self._this_window_s, self._last_window_s))
        self._wake_up_at(now_s + INTERVAL_S)
