"""A disk without enough free space: refused before anything is lost, taken again by itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import files
from tests.e2e.client import Client, columnar
from tests.support.daemon import Daemon, eventually, serving

pytestmark = pytest.mark.e2e

#: How much free space is left above the floor, and how much the ballast takes of it. Others use
#: this disk too: what they free is taken as well, and it takes half a GiB more to disturb.
MARGIN_BYTES, BALLAST_BYTES = 2**29, 2**30


@pytest.fixture(scope="module")
def floor_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """A floor of free space little below what is free now."""
    floor = shutil.disk_usage(tmp_path_factory.getbasetemp()).free - MARGIN_BYTES
    assert floor > BALLAST_BYTES, "this test needs 2 GiB of free disk"
    return floor


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, floor_bytes: int) -> Iterator[Daemon]:
    """A daemon with that floor."""
    data_dir = tmp_path_factory.mktemp("disk") / "data"
    flags = ("--workers", "1", "--flush-age-s", "0.1", "--min-free-disk-bytes", str(floor_bytes))
    with serving(data_dir, *flags) as started:
        yield started


def take_space(path: Path, floor_bytes: int) -> None:
    """Reserve blocks on the disk, without writing them, until half a GiB below the floor is free.

    Called again it takes what others have freed since.
    """
    missing = shutil.disk_usage(path.parent).free - (floor_bytes - BALLAST_BYTES // 2)
    if missing > 0:
        with path.open("ab") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, ballast.tell() + missing)


def test_a_full_disk_is_told_with_503_until_there_is_space_again(
    daemon: Daemon, floor_bytes: int, tmp_path: Path
) -> None:
    ballast = tmp_path / "ballast"

    def lack_is_seen() -> bool:
        take_space(ballast, floor_bytes)
        return health.get("/ready").status == 503

    with Client(daemon.port) as client, Client(daemon.port) as health:
        client.write(columnar("m", n=[1]))
        assert health.get("/ready").status == 200
        try:
            eventually(lack_is_seen, "the lack is seen")
            reason = health.get("/ready").error
            reply = client.post(columnar("m", n=[2]))
        finally:
            ballast.unlink()
        assert "ARC_MIN_FREE_DISK_BYTES" in reason
        assert reply.status == 503
        assert "ARC_MIN_FREE_DISK_BYTES" in reply.error
        assert int(reply.headers["retry-after"]) >= 1
        eventually(lambda: health.get("/ready").status == 200, "the space is seen")
        client.write(columnar("m", n=[3]))
        client.wait_until_stored()
        labels = {"door": "msgpack", "reason": "storage"}
        assert client.metrics().value("arc_requests_rejected_total", **labels) == 1
        assert client.get("/health").status == 200
    assert files.columns(daemon.where.root, "m")["n"] == [1, 3]
