"""Files that hold rows of several others: their names, and whose requests they hold. Pure.

In: names of files and their key-value metadata. Out: names for new files, and the metadata by
which `arc verify` still knows which requests of which shard are in a table after its files were
merged. Nothing here touches a disk.

A file that a flush wrote says in its name which requests it holds; one that was merged holds too
many ranges for a name, so they are in its footer, under `COVERS_KEY`: a JSON list with one list
for each epoch of a shard, `[shard, epoch, skipped, count, skipped, count, …]`, in which `skipped`
requests are not in the file and the next `count` are, from request 1 on; compressed by zlib, in
base64. A day of flushes of 10 s takes some 20 to 30 KB so, and a few bytes where nothing was
skipped between two flushes.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
import uuid
import zlib
from collections.abc import Iterable, Mapping

import msgspec

from ingest.paths import LogRange

#: Key of the metadata of a merged file; a file without it does not say what it holds.
COVERS_KEY = "arc:covers"

#: Below the folder of a day, beside those of its hours: where files of several hours lie.
DAY_DIR = "day"

#: 2 400 epochs of a million ranges would be longer than this; a bomb is.
_MAX_DECODED_BYTES = 64 << 20

_NAME = re.compile(r"m-[0-9a-f]{16}(-v\d{6,}-s\d{3,})?\.parquet", re.ASCII)


def new_name() -> str:
    """A name for a file that takes the place of others: no other file has it or ever had.

    `m-0123456789abcdef.parquet`. No two attempts to merge the same files meet in one name.
    """
    return f"m-{uuid.uuid4().hex[:16]}.parquet"


def is_merged_name(name: str) -> bool:
    """Whether `new_name` made a name, also if a change of a column's type added its mark."""
    return _NAME.fullmatch(name) is not None


def merged(ranges: Iterable[LogRange]) -> tuple[LogRange, ...]:
    """The same requests in as few ranges as there can be, sorted."""
    found: list[LogRange] = []
    for one in sorted(ranges):
        last = found[-1] if found else None
        if (
            last is not None
            and (last.shard, last.epoch) == (one.shard, one.epoch)
            and one.first_seq <= last.last_seq + 1
        ):
            found[-1] = LogRange(
                one.shard, one.epoch, last.first_seq, max(one.last_seq, last.last_seq)
            )
        else:
            found.append(one)
    return tuple(found)


def encode_covers(ranges: Iterable[LogRange]) -> str:
    """What `COVERS_KEY` says of a file that holds these requests."""
    lists = []
    for (shard, epoch), group in itertools.groupby(
        merged(ranges), key=lambda one: (one.shard, one.epoch)
    ):
        numbers, seq = [shard, epoch], 1
        for one in group:
            numbers += [one.first_seq - seq, one.last_seq - one.first_seq + 1]
            seq = one.last_seq + 1
        lists.append(numbers)
    return base64.b64encode(zlib.compress(msgspec.json.encode(lists), 9)).decode()


def decode_covers(metadata: Mapping[bytes, bytes] | None) -> tuple[LogRange, ...] | None:
    """Which requests a file holds, by its key-value metadata.

    Returns:
        None when it does not say, or not so that it can be read.
    """
    text = (metadata or {}).get(COVERS_KEY.encode())
    if text is None:
        return None
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(text, validate=True), _MAX_DECODED_BYTES)
        lists = msgspec.json.decode(content, type=list[list[int]])
    except (binascii.Error, zlib.error, msgspec.MsgspecError):
        return None
    if any(len(numbers) < 2 or len(numbers) % 2 or min(numbers) < 0 for numbers in lists):
        return None
    return tuple(itertools.chain.from_iterable(map(_ranges, lists)))


def _ranges(numbers: list[int]) -> Iterable[LogRange]:
    shard, epoch, *pairs = numbers
    seq = 1
    for skipped, count in zip(pairs[::2], pairs[1::2], strict=True):
        yield LogRange(shard, epoch, seq + skipped, seq + skipped + count - 1)
        seq += skipped + count
