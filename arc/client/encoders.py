"""What the `write_*` verbs take, as batches: the one place that `Client` and `AsyncClient` share.

In: columns, a frame, records, lines. Out: batches within the limits of the settings, made as they
are asked for. The modules behind each verb are imported with its first use: data frames need
pyarrow, nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arc.client.batch import Batch
from arc.client.columns import ColumnsEncoder
from arc.client.rows import Dialect
from arc.client.settings import Settings

#: Rows of one request of a data frame, at least: 59 -> 42 ns of CPU a row against 10 000
#: (docs/profiling/2026-11-20-client-frames.md).
FRAME_ROWS = 65_536


class Encoders:
    """The encoders of one client, and what they remember between two calls."""

    def __init__(self, settings: Settings, dialects: Mapping[str, Dialect]) -> None:
        """Remember nothing yet.

        Args:
            settings: Their limits of rows and bytes hold for every batch.
            dialects: What was declared, by measurement; read when rows are encoded.
        """
        self._dialects = dialects
        self._rows, self._bytes = settings.batch_rows, settings.batch_bytes
        self._columns = ColumnsEncoder()

    def columnar(
        self,
        measurement: str,
        columns: Mapping[str, Any],
        tags: Iterable[str] | Mapping[str, str],
        time_unit: str | None,
    ) -> Iterable[Batch]:
        """Batches of `write_columnar`."""
        return self._columns.encode(
            measurement,
            columns,
            tags=tags,
            time_unit=time_unit,
            batch_rows=self._rows,
            batch_bytes=self._bytes,
        )

    def dataframe(
        self,
        df: Any,
        measurement: str,
        tags: Iterable[str] | None,
        time_column: str | None,
        time_unit: str | None,
    ) -> Iterable[Batch]:
        """Batches of `write_dataframe`."""
        from arc.client.frames import encode_frame

        return encode_frame(
            measurement,
            df,
            tags=tags,
            time_column=time_column,
            time_unit=time_unit,
            batch_rows=max(self._rows, FRAME_ROWS),
            batch_bytes=self._bytes,
        )

    def records(
        self,
        records: Iterable[Mapping[str, Any]],
        measurement: str | None,
        time_unit: str | None,
    ) -> Iterable[Batch]:
        """Batches of `write_records`.

        Records that are in memory are all looked at before the first is sent, so that a bad one
        refuses the call; what comes from an iterator is sent as it comes.
        """
        from arc.client.records import encode_records

        batches = encode_records(
            records,
            measurement,
            time_unit=time_unit,
            dialects=self._dialects,
            batch_rows=self._rows,
            batch_bytes=self._bytes,
        )
        return list(batches) if isinstance(records, Sequence) else batches

    def lines(self, lines: str | bytes | Iterable[str], precision: str) -> Iterable[Batch]:
        """Batches of `write_line_protocol`; checked and sent as `records` are."""
        from arc.client.records import encode_lines

        batches = encode_lines(lines, precision, batch_rows=self._rows, batch_bytes=self._bytes)
        return list(batches) if isinstance(lines, Sequence) else batches
