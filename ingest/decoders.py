"""Which decoder a body is for: the one place where the formats meet. Pure.

In: the head that the log keeps of a request, and its body, decompressed. Out: column batches, the
same whenever and wherever it is asked: when the request comes, and when its log is replayed.
Knows no door and no HTTP, and decodes nothing itself.
"""

from __future__ import annotations

import msgspec

from ingest import arrow_ipc, line_protocol, msgpack_decoder
from ingest.columns import ColumnBatch
from ingest.idempotency import body_digest
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.otlp import decoder as otlp
from ingest.otlp import fast as otlp_fast
from ingest.otlp.request import RefusedRecord, Signal
from ingest.timestamps import TimeUnit

#: Signal and encoding of the formats of OTLP.
_OTLP = {
    Format.OTLP_LOGS: (Signal.LOGS, False),
    Format.OTLP_TRACES: (Signal.TRACES, False),
    Format.OTLP_METRICS: (Signal.METRICS, False),
    Format.OTLP_LOGS_JSON: (Signal.LOGS, True),
    Format.OTLP_TRACES_JSON: (Signal.TRACES, True),
    Format.OTLP_METRICS_JSON: (Signal.METRICS, True),
}


class Parameters(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the log keeps of a request beside its body, as `RecordHead.params`.

    Attributes:
        measurement: Arrow: where the rows go.
        tags: Arrow: names of columns that are tags.
        digest: `body_digest` of the request as it came, if the body in the log is another: that of
            a request with rows that its tables refused (`ingest.quarantine`).
    """

    measurement: str = ""
    tags: tuple[str, ...] = ()
    digest: bytes = b""

    def to_bytes(self) -> bytes:
        """MessagePack; empty when there is nothing to keep."""
        return b"" if self == _NOTHING else _ENCODER.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Parameters:
        """What `to_bytes` made."""
        return _DECODER.decode(data) if data else _NOTHING


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Parameters)
_NOTHING = Parameters()


class Decoded(msgspec.Struct):
    """What is in a body.

    Attributes:
        batches: Rows that can be stored, if their tables take them.
        refused: OTLP only: records that no table could hold. On every other door one bad row
            refuses the request.
    """

    batches: list[ColumnBatch]
    refused: list[RefusedRecord] = msgspec.field(default_factory=list)


def decode(head: RecordHead, body: bytes, limits: Limits) -> Decoded:
    """Decode a body in the format that its head names.

    Args:
        head: Its arrival is the time of rows that have none.
        body: Decompressed.
        limits: Budgets of one request.

    Raises:
        ClientError: as the decoder of the format says.
    """
    now_us, unit = head.arrival_us, head.time_unit
    if head.format is Format.MSGPACK:
        return Decoded(msgpack_decoder.decode(body, now_us, limits, unit))
    if head.format is Format.LINE_PROTOCOL:
        return Decoded(line_protocol.decode(body, now_us, limits, unit or TimeUnit.NS))
    if head.format is Format.ARROW:
        given = Parameters.from_bytes(head.params)
        return Decoded(
            arrow_ipc.decode(body, now_us, limits, given.measurement, frozenset(given.tags), unit)
        )
    signal, is_json = _OTLP[head.format]
    request = otlp.decode(body, signal, is_json, now_us, limits)
    return Decoded(request.batches, request.refused)


def decode_fast(head: RecordHead, body: bytes, limits: Limits) -> Decoded | None:
    """Decode without the slow twins, in a time that grows with the bytes of the body alone.

    Arguments, result and errors as `decode` has them.

    Returns:
        None: `decode` has to look, and may take long.
    """
    # HOT, once a request: the usual format first.
    now_us, unit = head.arrival_us, head.time_unit
    if head.format is Format.MSGPACK:
        batches = msgpack_decoder.decode_fast(body, now_us, limits, unit)
    elif head.format is Format.LINE_PROTOCOL:
        batches = line_protocol.decode_fast(body, now_us, limits, unit or TimeUnit.NS)
    elif head.format is Format.ARROW:
        given = Parameters.from_bytes(head.params)
        tags = frozenset(given.tags)
        batches = arrow_ipc.decode_fast(body, now_us, limits, given.measurement, tags, unit)
    else:
        signal, is_json = _OTLP[head.format]
        batches = otlp_fast.decode_fast(body, signal, is_json, now_us, limits)
    return None if batches is None else Decoded(batches)


def request_digest(head: RecordHead, body: bytes) -> bytes:
    """What tells this request from others that come with its `Idempotency-Key`.

    Args:
        head: As it is logged.
        body: As it is logged, still compressed.

    Returns:
        As `body_digest`, of the request as it came.
    """
    original = Parameters.from_bytes(head.params).digest
    if original:
        return original
    is_plain = head.format is Format.MSGPACK and not head.params
    context = b"" if is_plain else bytes((head.format,)) + head.params
    return body_digest(head.database, head.time_unit, body, context)
