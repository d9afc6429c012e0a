"""Budgets of one request, in one place. Each says what it bounds and why it is that large."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """What one request may ask of the daemon.

    Attributes:
        max_columns: Columns of one measurement. Each is a buffer, a Parquet column chunk and a
            schema entry in every file.
        max_request_columns: Columns over all maps of one request. A map of one column of one
            value takes 12 bytes on the wire and some 700 in memory, so bytes alone bound
            nothing.
        max_decoded_bytes: Memory of all columns of one request. Strings and doubles take about
            as much as on the wire, but an integer of one byte takes eight and a null nine, so a
            body of 128 MiB could ask for a gigabyte.
        max_elements: Objects that the slow decoder may build for one request; 1 M of them are
            some 80 MB. The fast path builds none and is not bound by it.
        max_measurements: Measurements of one database, each with a folder and a buffer.
        max_hours: Hours that the rows of one request may cover, each of which is a file.
    """

    max_columns: int = 2_000
    max_request_columns: int = 100_000
    max_decoded_bytes: int = 256 * 2**20
    max_elements: int = 2_000_000
    max_measurements: int = 10_000
    max_hours: int = 1_000


#: A column name longer than this many bytes of UTF-8 is refused.
MAX_COLUMN_NAME_BYTES = 255
