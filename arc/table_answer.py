"""A table as `GET /api/v1/measurements` and `arc tables` show it. Pure."""

from __future__ import annotations

import datetime
from typing import Any

from ingest.table_list import TableEntry

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def measurement_entry(entry: TableEntry) -> dict[str, Any]:
    """What is said of a table.

    Returns:
        Names, `file_count`, `size_bytes` and `total_size_mb` (10^6 bytes), `rows` (null when its
        log does not say), `min_time` and `max_time` in RFC 3339 (null without rows), and
        `files_per_hour`: files for each hour that the table has rows of.
    """
    content = entry.content
    return {
        "database": entry.table.database,
        "measurement": entry.table.measurement,
        "file_count": content.num_files,
        "total_size_mb": round(content.size_bytes / 1e6, 6),
        "storage_path": entry.directory,
        "size_bytes": content.size_bytes,
        "rows": content.num_rows,
        "min_time": _rfc3339(content.min_us),
        "max_time": _rfc3339(content.max_us),
        "files_per_hour": round(entry.files_per_hour, 3),
    }


def _rfc3339(time_us: int | None) -> str | None:
    if time_us is None:
        return None
    moment = _EPOCH + datetime.timedelta(microseconds=time_us)
    return moment.isoformat().replace("+00:00", "Z")
