"""Data frames to requests by the client: every container, and the choices behind the encoder.

The frame is 200 000 rows of 7 columns: a time, a host of 1 000, a region of 3, four floats. Each
result is decoded by the daemon's own decoder and compared with the frame.

    python -m benchmarks.client.bench_frames                  everything, some minutes
    python -m benchmarks.client.bench_frames -k encode        frames to bodies
    python -m benchmarks.client.bench_frames -k daemon        what the daemon pays for a body
    python -m benchmarks.client.bench_frames -k stream        ways to write the stream
    python -m benchmarks.client.bench_frames -k nan           nulls of a column of pandas

In the names: rows of one request, for `daemon` and `stream` at 64 000.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from arc.client.frames import encode_frame
from arc.client.frames_pandas import _floats
from benchmarks.harness import Bench, main
from ingest.arrow_ipc import decode
from ingest.columns import ColumnBatch
from ingest.limits import Limits
from ingest.testing import column_values

ROWS = 200_000
REQUEST_ROWS = 64_000
BATCH_BYTES = 16 * 2**20
FIELDS = ("usage_user", "usage_system", "usage_idle", "load")
TAGS = ["host", "region"]
LIMITS = Limits()
NOW_US = 1_768_473_000_000_000

_RNG = np.random.default_rng(7)
_HOSTS = [f"host-{number:04d}" for number in range(1_000)]
_REGIONS = ["eu-west-1", "us-east-1", "ap-south-1"]
_CODES = {"host": _RNG.integers(0, 1_000, ROWS), "region": _RNG.integers(0, 3, ROWS)}
_FLOATS = {name: _RNG.random(ROWS) * 100 for name in FIELDS}
_TIMES = pd.date_range("2024-01-01", periods=ROWS, freq="10ms", tz="UTC")


def pandas_frame(dtype: Any = None) -> pd.DataFrame:
    """The frame, its tags categorical or of a dtype of text."""
    coded = {
        name: pd.Categorical.from_codes(_CODES[name], values)
        for name, values in (("host", _HOSTS), ("region", _REGIONS))
    }
    frame = pd.DataFrame({"time": _TIMES, **coded, **_FLOATS})
    return frame if dtype is None else frame.astype(dict.fromkeys(TAGS, dtype))


def polars_frame(kind: Any = pl.Categorical) -> pl.DataFrame:
    """The same in Polars."""
    frame = pl.from_arrow(pa.Table.from_pandas(pandas_frame(object)).cast(arrow_schema()))
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(pl.col(TAGS).cast(kind))


def arrow_schema() -> pa.Schema:
    """Types of the frame in Arrow."""
    types = {"time": pa.timestamp("us", "UTC")} | dict.fromkeys(TAGS, pa.string())
    return pa.schema(types | dict.fromkeys(FIELDS, pa.float64()))


def arrow_table() -> pa.Table:
    """The same in pyarrow, tags as plain text."""
    return pa.Table.from_pandas(pandas_frame(object), preserve_index=False).cast(arrow_schema())


# --------------------------------------------------------------------------------- frames to bodies


def encode_bench(name: str, frame: Any, rows: int) -> Bench:
    """All bodies of a frame."""

    def encode() -> list[bytes | bytearray]:
        made = encode_frame("cpu", frame, tags=TAGS, batch_rows=rows, batch_bytes=BATCH_BYTES)
        return [batch.body for batch in made]

    nbytes = sum(len(body) for body in encode())
    return Bench(f"encode {name} {rows}", encode, ROWS, nbytes, check_bodies)


def check_bodies(bodies: list[bytes | bytearray]) -> None:
    """The rows that the daemon reads are those of the frame."""
    found = [batch for body in bodies for batch in run_decode(bytes(body))]
    assert np.array_equal(
        np.concatenate([batch.time_us for batch in found]), _TIMES.as_unit("us").asi8
    )
    for name in FIELDS:
        values = np.concatenate([batch.columns[name].values for batch in found])
        assert np.array_equal(values, _FLOATS[name])
    hosts = [value for batch in found for value in column_values(batch.columns["host"])]
    assert hosts == [_HOSTS[code] for code in _CODES["host"]]
    assert all(batch.tags == set(TAGS) for batch in found)


def run_decode(body: bytes) -> list[ColumnBatch]:
    """What the daemon does with a body."""
    return decode(body, NOW_US, LIMITS, "cpu")


def encode_benches() -> list[Bench]:
    """Every container, in requests of four sizes."""
    frames = {
        "pandas category": pandas_frame(),
        "pandas str": pandas_frame("str"),
        "pandas object": pandas_frame(object),
        "polars categorical": polars_frame(),
        "polars string": polars_frame(pl.String),
        "polars lazy": polars_frame().lazy(),
        "pyarrow": arrow_table(),
    }
    sizes = (10_000, 32_000, REQUEST_ROWS, ROWS)
    return [encode_bench(name, frame, rows) for name, frame in frames.items() for rows in sizes]


# ----------------------------------------------------------------------------- what the daemon pays


def stream_of(table: pa.Table) -> bytes:
    """A table as one IPC stream, by the writer of pyarrow."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def sent_as(kinds: dict[str, Any], rows: int = REQUEST_ROWS) -> bytes:
    """A body whose columns have other types."""
    table = arrow_table().slice(0, rows)
    for name, kind in kinds.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, table.column(at).cast(kind))
    return stream_of(table.replace_schema_metadata({"arc:tags": '["host", "region"]'}))


def daemon_benches() -> list[Bench]:
    """Decoding of what could be sent, and of requests of four sizes."""
    coded = pa.dictionary(pa.int16(), pa.string())
    bodies = {
        "text": sent_as({}),
        "large text": sent_as(dict.fromkeys(TAGS, pa.large_string())),
        "dictionaries": sent_as(dict.fromkeys(TAGS, coded)),
        "float32": sent_as(dict.fromkeys(FIELDS, pa.float32())),
    }
    out = [daemon_bench(name, body, REQUEST_ROWS) for name, body in bodies.items()]
    return out + [
        daemon_bench(f"text {rows}", sent_as({}, rows), rows) for rows in (1_000, 10_000, 32_000)
    ]


def daemon_bench(name: str, body: bytes, rows: int) -> Bench:
    """One body decoded, over and over."""

    def check(found: list[ColumnBatch]) -> None:
        assert sum(batch.num_rows for batch in found) == rows

    return Bench(f"daemon {name}", lambda: run_decode(body), rows, len(body), check)


# ---------------------------------------------------------------------------- the stream, the nulls


def written(batch: pa.RecordBatch) -> bytes:
    """By the stream writer, whose memory grows, and which is copied at the end."""
    return stream_of(pa.Table.from_batches([batch]))


def joined(batch: pa.RecordBatch) -> bytes:
    """As the client does it: three messages, made apart."""
    head, end = batch.schema.serialize(), b"\xff\xff\xff\xff\0\0\0\0"
    return b"".join((head, batch.serialize(), end))


def written_in_place(batch: pa.RecordBatch) -> bytearray:
    """By the stream writer into a bytearray that is large enough, zeroed first."""
    body = bytearray(batch.schema.serialize().size + pa.ipc.get_record_batch_size(batch) + 8)
    with (
        pa.FixedSizeBufferWriter(pa.py_buffer(body)) as sink,
        pa.ipc.new_stream(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    return body


def written_to_arrow(batch: pa.RecordBatch) -> memoryview:
    """By the stream writer into memory of pyarrow, which stays there."""
    size = batch.schema.serialize().size + pa.ipc.get_record_batch_size(batch) + 8
    body = pa.allocate_buffer(size)
    with pa.FixedSizeBufferWriter(body) as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(body)


def stream_benches() -> list[Bench]:
    """Ways to the bytes of a body."""
    (batch,) = arrow_table().slice(0, REQUEST_ROWS).combine_chunks().to_batches()
    wanted = written(batch)

    def check(found: Any) -> None:
        assert bytes(found) == wanted

    def bench(name: str, way: Callable[[pa.RecordBatch], Any]) -> Bench:
        return Bench(f"stream {name}", lambda: way(batch), REQUEST_ROWS, len(wanted), check)

    return [
        bench("written", written),
        bench("joined", joined),
        bench("written in place", written_in_place),
        bench("written to arrow", written_to_arrow),
    ]


def nan_benches() -> list[Bench]:
    """One column of floats of pandas, without NaN and with one in ten."""
    full = _FLOATS["load"]
    holed = np.where(_RNG.random(ROWS) < 0.1, np.nan, full)
    out = []
    for name, numbers in (("none", full), ("one in ten", holed)):
        for way, make in (("numpy", _floats), ("pyarrow", _from_pandas)):
            out.append(nan_bench(f"nan {name} {way}", make, numbers))
    return out


def _from_pandas(numbers: Any) -> Any:
    return pa.array(numbers, from_pandas=True)


def nan_bench(name: str, make: Callable[[Any], Any], numbers: Any) -> Bench:
    """One way to find them."""

    def check(found: pa.Array) -> None:
        assert found.null_count == np.isnan(numbers).sum()

    return Bench(name, lambda: make(numbers), ROWS, numbers.nbytes, check)


def benches() -> list[Bench]:
    """All of them."""
    return [*encode_benches(), *daemon_benches(), *stream_benches(), *nan_benches()]


if __name__ == "__main__":
    raise SystemExit(main(benches()))
