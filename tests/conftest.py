"""Settings that all tests share. Fixtures live in tests/support, beside what they set up.

Also here: how the tests are shared out when several processes run them (pytest-xdist, `-n`).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

# No deadline for one example: the machine is shared, and no test asserts on time. The parent is
# Hypothesis's own default, which is its "ci" profile (the same examples each run) where CI is set.
settings.register_profile("arc", settings(), deadline=None)
settings.load_profile("arc")

#: Files that take more than 20 s, longest first: they begin first, so that none is left over when
#: everything else is done. The others follow in their usual order, which ends with short ones.
LONGEST_FIRST: Sequence[str] = (
    "tests/test_lint.py",
    "tests/durability/test_client_torture.py",
    "tests/e2e/test_hostile.py",
    "tests/query/test_process.py",
    "tests/test_table_log.py",
    "tests/durability/test_kill.py",
    "tests/test_supervisor.py",
    "tests/query/test_fresh_daemon.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: one more than cores, since many tests wait for daemons and disks.

    Four at most: each takes up to 1 GB, and more would wait for the longest files all the same.
    """
    return min(os.cpu_count() or 1, 3) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """A file stays in one process, with its fixtures; files are begun in the order collected."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # that would be by the number of tests
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first where several processes share them."""
    if hasattr(config, "workerinput"):
        ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


def pytest_collection_finish() -> None:
    """Leave what was imported and collected to no later pass of the garbage collector.

    It lives to the end anyway. A full pass over all of it takes 0.35 s, and tests that look for
    what they left behind ask for one each.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end of the process find everything: libraries tell what they think is leaked then."""
    gc.unfreeze()
