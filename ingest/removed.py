"""Which requests' files were removed on purpose, so that a look at the logs does not miss them.

In: the ranges of the log that files held which a delete or a retention policy took away. Out: the
same, merged, by shard. `arc verify` reads them. A row is never here.

Kept in one small JSON file below `.arc`. It is written before the files leave their table: a crash
in between leaves ranges of files that are still there, which does no harm. Whoever writes holds
the lock of `ingest.turn`, so that nobody else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from ingest.disk import refusals, replace_file
from ingest.errors import StorageError
from ingest.findings import Span, merged

_NAME = "removed.json"

#: By number of the shard; JSON has text for keys.
_FILE = msgspec.json.Decoder(dict[int, list[Span]], strict=False)


def read_removed(state_dir: Path) -> dict[int, list[Span]]:
    """The ranges of sequence numbers (`ingest.lsn`), both ends included, by shard.

    Args:
        state_dir: The folder `.arc`.

    Raises:
        StorageError: the file cannot be read.
    """
    path = state_dir / _NAME
    with refusals(path, "read"):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
    try:
        return _FILE.decode(content)
    except msgspec.MsgspecError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def note_removed(state_dir: Path, spans: Mapping[int, Iterable[Span]]) -> None:
    """Add ranges, durably. Only under the lock of `ingest.turn`.

    Raises:
        StorageError: the file cannot be read or written.
    """
    known = read_removed(state_dir)
    wanted = dict(known)
    for shard, found in spans.items():
        wanted[shard] = merged([*known.get(shard, ()), *found])
    if wanted == known:
        return
    path = state_dir / _NAME
    with refusals(path, "write"):
        replace_file(path, msgspec.json.encode(wanted), path.with_suffix(".tmp"))
