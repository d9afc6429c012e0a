"""The client of asyncio programs: the verbs of `Client`, none of which holds the event loop up.

`log` and series handles are the same plain calls; what they return needs to be awaited only where
the queue may fill up. `write_*`, `flush` and `close` are awaited: encoding and waiting happen in
threads of the client's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from arc.client.client import WRITE_TIMEOUT_S, Client, OnError, _deadline
from arc.client.errors import ArcClientError
from arc.client.reports import together
from arc.client.series import Series, checked_shape
from arc.client.stats import Stats
from arc.client.ticket import Ticket
from arc.client.times import to_ns

if TYPE_CHECKING:
    from arc.client.batch import Batch
    from arc.client.buffered import AsyncBufferedWriter
    from arc.client.intake import RowQueue

T = TypeVar("T")

#: Encoding and waiting at once; further calls queue.
MAX_THREADS = 8


class _Done:
    """Awaited at no cost: the row is in the queue."""

    def __await__(self) -> Generator[Any, None, None]:
        return cast("Generator[Any, None, None]", iter(()))


class _Room:
    """Awaited until the queue has room again. The row is in it already."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()


Awaited = _Done | _Room


class AsyncClient:
    """A producer for one event loop, or several: it belongs to none."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        database: str = "default",
        *,
        on_error: OnError | None = None,
        ssl_context: Any = None,
        **settings: Any,
    ) -> None:
        """Make a client; arguments and errors as for `Client`."""
        self._use(
            Client(url, token, database, on_error=on_error, ssl_context=ssl_context, **settings)
        )

    @classmethod
    def from_env(cls, **settings: Any) -> Self:
        """As `Client.from_env`."""
        self = cls.__new__(cls)
        self._use(Client.from_env(**settings))
        return self

    def _use(self, client: Client) -> None:
        self._client, self._engine = client, client._engine
        self._queues = client._queues
        self._done = _Done()
        self._new_threads()
        self.settings = client.settings

    def _new_threads(self) -> None:
        self._pid = os.getpid()
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="arc-client-call")

    # ----------------------------------------------------------------------------- one row

    def log(self, measurement: str, /, **values: Any) -> Awaited:
        """Take one row now, as `Client.log`.

        Returns:
            Something to await where the queue may be full: under "block" and "spill" it waits for
            room. The row is taken whether it is awaited or not.

        Raises:
            QueueFullError: as `Client.log`.
            ClosedError: as `Client.log`.
        """
        try:
            queue = self._queues[len(values)]
        except IndexError:
            queue = self._client._new_queue(len(values))
        rows = queue.rows
        done = self._done if len(rows) < queue.mark else self._more(queue)
        rows += [measurement, time_ns(), *values, *values.values()]
        return done

    def _more(self, queue: RowQueue) -> Awaited:
        if self._engine.intake.overshoot(queue):
            return self._done
        return _Room(self._wait_for_room)

    async def _wait_for_room(self) -> None:
        loop = asyncio.get_running_loop()
        room = loop.create_future()

        def wake() -> None:
            if not room.done():
                room.set_result(None)

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
                loop.call_soon_threadsafe(wake)

        self._engine.intake.when_room(tell)
        await room

    def declare(
        self, measurement: str, *, tags: Iterable[str] = (), fields: Iterable[str] = ()
    ) -> None:
        """As `Client.declare`."""
        self._client.declare(measurement, tags=tags, fields=fields)

    def series(
        self,
        measurement: str,
        tags: Mapping[str, str] | None = None,
        fields: Sequence[str] = ("value",),
    ) -> AsyncSeries:
        """As `Client.series`; what its `log` returns is as for `AsyncClient.log`."""
        return AsyncSeries(self, measurement, {} if tags is None else tags, fields)

    # -------------------------------------------------------------------------- many rows

    async def write_columnar(
        self,
        measurement: str,
        columns: Mapping[str, Any],
        *,
        tags: Iterable[str] | Mapping[str, str] = (),
        time_unit: str | None = None,
        wait: bool = True,
        timeout: float | None = WRITE_TIMEOUT_S,
    ) -> int:
        """As `Client.write_columnar`. The arrays must not change before it returns."""
        encoders = self._engine.encoders
        return await self._write(
            lambda: encoders.columnar(measurement, columns, tags, time_unit), wait, timeout
        )

    async def write_dataframe(
        self,
        df: Any,
        measurement: str,
        *,
        tags: Iterable[str] | None = None,
        time_column: str | None = None,
        time_unit: str | None = None,
        wait: bool = True,
        timeout: float | None = WRITE_TIMEOUT_S,
    ) -> int:
        """As `Client.write_dataframe`. The frame must not change before it returns."""
        encoders = self._engine.encoders
        return await self._write(
            lambda: encoders.dataframe(df, measurement, tags, time_column, time_unit), wait, timeout
        )

    async def write_records(
        self,
        records: Iterable[Mapping[str, Any]],
        measurement: str | None = None,
        *,
        time_unit: str | None = None,
        wait: bool = True,
        timeout: float | None = WRITE_TIMEOUT_S,
    ) -> int:
        """As `Client.write_records`."""
        encoders = self._engine.encoders
        return await self._write(
            lambda: encoders.records(records, measurement, time_unit), wait, timeout
        )

    async def write_line_protocol(
        self,
        lines: str | bytes | Iterable[str],
        precision: str = "ns",
        *,
        wait: bool = True,
        timeout: float | None = WRITE_TIMEOUT_S,
    ) -> int:
        """As `Client.write_line_protocol`."""
        encoders = self._engine.encoders
        return await self._write(lambda: encoders.lines(lines, precision), wait, timeout)

    def buffered(
        self, batch_size: int = 10_000, flush_interval: float = 5.0
    ) -> AsyncBufferedWriter:
        """As `Client.buffered`."""
        from arc.client.buffered import AsyncBufferedWriter

        return AsyncBufferedWriter(self, batch_size, flush_interval)

    async def _write(
        self, encode: Callable[[], Iterable[Batch]], wait: bool, timeout: float | None
    ) -> int:
        if not wait:
            return await self._in_thread(lambda: self._engine.put_unwatched(encode()))
        ticket = Ticket()
        deadline_s = _deadline(timeout)
        try:
            num_rows = await self._in_thread(
                lambda: self._engine.put_all(encode(), ticket, deadline_s)
            )
            await self._wait_for(ticket, deadline_s, timeout)
        except BaseException:
            self._engine.outbox.withdraw(ticket)
            raise
        return num_rows

    async def _wait_for(
        self, ticket: Ticket, deadline_s: float | None, timeout: float | None
    ) -> None:
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        settled = asyncio.shield(asyncio.wrap_future(ticket.future))
        try:
            errors = await asyncio.wait_for(settled, left_s)
        except TimeoutError:
            errors = []
            if (error := self._engine.overdue(ticket, timeout or 0.0)) is not None:
                raise error from None
        if errors:
            raise together(errors)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if self._engine.intake.is_closed:  # the call says so, or gives back what is left
            return await self._in_own_thread(call)
        if self._pid != os.getpid():  # a forked child has none of its parent's threads
            self._new_threads()
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _in_own_thread(self, call: Callable[[], T]) -> T:
        """As `_in_thread`, for what must not wait until other calls have found room."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="arc-client-call")
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, call)
        finally:
            thread.shutdown(wait=False)

    # ------------------------------------------------------------------------- all of them

    async def flush(self, timeout: float | None = None) -> bool:
        """As `Client.flush`."""
        return await self._in_own_thread(lambda: self._client.flush(timeout))

    async def checkpoint(self, timeout: float | None = None) -> bool:
        """As `Client.checkpoint`."""
        return await self._in_own_thread(lambda: self._client.checkpoint(timeout))

    async def close(self, timeout: float | None = None) -> bool:
        """As `Client.close`."""
        try:
            return await self._in_own_thread(lambda: self._client.close(timeout))
        finally:
            self._threads.shutdown(wait=False)

    def stats(self) -> Stats:
        """As `Client.stats`."""
        return self._client.stats()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except ArcClientError as refusal:
            if error is None:
                raise
            error.add_note(f"while closing the client: {refusal}")

    def __repr__(self) -> str:
        return f"Async{self._client!r}"


class AsyncSeries(Series):
    """A series whose calls never wait; made by `AsyncClient.series`.

    Attributes:
        log: As `Series.log`; returns what `AsyncClient.log` returns.
    """

    def __init__(
        self,
        client: AsyncClient,
        measurement: str,
        tags: Mapping[str, str],
        fields: Sequence[str],
    ) -> None:
        shape = checked_shape(measurement, tags, fields)
        queue, make = client._client._queue_of(shape, is_async=True)
        self._async_client = client
        super().__init__(client._client, shape, tags, queue, make, (client._done, client._more))

    def log_at(self, time: Any, /, *values: Any) -> Awaited:  # type: ignore[override]
        """As `Series.log_at`; returns what `AsyncClient.log` returns."""
        self._check_width(values)
        queue, moment = self._queue, to_ns(time, None)
        done: Awaited = self._async_client._done
        if len(queue.rows) >= queue.mark:
            done = self._async_client._more(queue)
        queue.rows.extend((self._values, moment, *values))
        return done

    async def write_columnar(self, columns: Mapping[str, Any], **how: Any) -> int:  # type: ignore[override]
        """Send columns with the tags of this series: `AsyncClient.write_columnar`."""
        return await self._async_client.write_columnar(
            self._shape.measurement, columns, tags=self.tags, **how
        )
