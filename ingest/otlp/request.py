"""What a decoder of OTLP is asked and what it answers: the types only."""

from __future__ import annotations

import enum

import msgspec

from ingest.columns import ColumnBatch
from ingest.errors import ClientError


class Signal(enum.StrEnum):
    """What a request exports. The value is the last part of its path."""

    LOGS = "logs"
    TRACES = "traces"
    METRICS = "metrics"


class RefusedRecord(msgspec.Struct, frozen=True):
    """A log record, span or data point that no table can hold; the others of the request stay.

    Attributes:
        table: Where it would have gone.
        index: Which record of the request it is, from 0, in the order of the body; data points
            are counted one by one over all metrics.
        error: Why.
        body: An OTLP request in JSON with this record alone, its resource and its scope: what can
            be sent again once it is mended.
    """

    table: str
    index: int
    error: ClientError
    body: bytes


class OtlpRequest(msgspec.Struct):
    """A decoded request.

    Attributes:
        batches: One for each table that gets a row, in the order of `schema.TABLES`. An empty
            request is valid and has none.
        refused: In the order of the body.
    """

    batches: list[ColumnBatch]
    refused: list[RefusedRecord]
