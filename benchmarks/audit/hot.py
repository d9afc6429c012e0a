"""Which functions are hot: called once a request, once a row, or for every byte of a flush.

In: the table below, reviewed by hand. Out: whether a function is in it. A name that no module has
is an error, so that the table cannot outlive the code.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TypeAlias

from benchmarks.audit.sources import Module

#: By file: qualified names of functions, or of classes for all of their methods. "*" stands for
#: every function of the file.
Table: TypeAlias = dict[str, tuple[str, ...]]

#: What is called once a start, once a schema change or on a failure is not here.
HOT_CALLS: Table = {
    # Once a log call, in the producer's own thread.
    "arc/client/client.py": ("Client.log",),
    "arc/client/series.py": ("Series.log_at", "Series._check_width", "Series._log_plain"),
    # Once a request.
    "arc/fast_door.py": ("Connection", "FastHead", "FastDoor.send", "FastDoor.send_answers"),
    "arc/write_door.py": (
        "WriteDoor.admit",
        "WriteDoor.release",
        "WriteDoor.store",
        "WriteDoor._write",
        "WriteDoor._decode",
    ),
    "ingest/arrow_writer.py": ("ArrowWriter.write", "ArrowWriter.keep", "ArrowWriter._fit_known"),
    "ingest/budget.py": ("*",),
    "ingest/buffer.py": ("MeasurementBuffer.append",),
    "ingest/decoders.py": ("decode", "decode_fast"),
    "ingest/decompress.py": ("*",),
    "ingest/msgpack_decoder.py": ("*",),
    "ingest/msgpack_rows.py": ("*",),
    "ingest/line_protocol.py": ("*",),
    "ingest/arrow_ipc.py": ("*",),
    "ingest/assemble.py": ("*",),
    "ingest/otlp/fast.py": ("*",),
    "ingest/timestamps.py": ("*",),
    "ingest/pipeline.py": ("Pipeline.admit", "Pipeline.write"),
    "ingest/wal.py": ("Wal.append",),
}

#: What handles every row of a flush, and is called once a file or a column.
HOT_FLUSHES: Table = {
    "ingest/parquet.py": ("*",),
    "ingest/table_build.py": ("*",),
}


def is_hot_call(file: str, function: str) -> bool:
    """Whether a function, or one around it, is called once a request or a row."""
    return _is_in(HOT_CALLS, file, function)


def is_hot(file: str, function: str) -> bool:
    """The same, or whether it handles the rows of a flush."""
    return _is_in(HOT_CALLS, file, function) or _is_in(HOT_FLUSHES, file, function)


def _is_in(table: Table, file: str, function: str) -> bool:
    names = table.get(file, ())
    return "*" in names or any(
        function == name or function.startswith(f"{name}.") for name in names
    )


def unknown(modules: Sequence[Module]) -> list[str]:
    """Names of the table that the modules do not have."""
    functions: dict[str, set[str]] = {
        module.file: {
            module.function(node)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        for module in modules
    }
    table = HOT_CALLS | HOT_FLUSHES
    out = [file for file in table if file not in functions]
    return out + [
        f"{file}: {name}"
        for file, names in table.items()
        for name in names
        if name != "*" and name not in functions.get(file, ())
    ]
