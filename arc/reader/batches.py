"""Record batches of any size to batches of one size, as they come.

In: an iterator of batches, and what is to be let go at the end. Out: batches of exactly so many
rows, the last one excepted, and none that is empty. At most the rows of one batch that goes out and
one that comes in are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import pyarrow as pa


class BatchStream(Iterator[pa.RecordBatch]):
    """Batches, once. Close it, use it as a context manager, or read it to its end.

    For one thread at a time.

    Attributes:
        schema: Of every batch.
    """

    def __init__(
        self,
        schema: pa.Schema,
        batches: Iterator[pa.RecordBatch],
        batch_rows: int,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.schema = schema
        self._batches = rebatched(batches, batch_rows)
        self._close = close

    def __next__(self) -> pa.RecordBatch:
        """The next batch.

        Raises:
            StopIteration: There is none.
            ReadError: It cannot be read; the batches before it are sound.
        """
        try:
            return next(self._batches)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of files and connection; there are no batches any more."""
        self._batches = iter(())
        close, self._close = self._close, None
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def rebatched(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of exactly `rows` rows, the last one excepted.

    A batch that lies within one that came in shares its memory; others are copied together.
    """
    held: list[pa.RecordBatch] = []
    num_held = 0
    for batch in batches:
        start = 0
        while num_held + batch.num_rows - start >= rows:
            taken = rows - num_held
            held.append(batch.slice(start, taken))
            yield _together(held)
            held, num_held, start = [], 0, start + taken
        if start < batch.num_rows:
            held.append(batch.slice(start))
            num_held += batch.num_rows - start
    if held:
        yield _together(held)


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
