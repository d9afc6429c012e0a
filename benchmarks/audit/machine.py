"""What figures depend on beside the code: machine, kernel, load, commit, versions.

In: this machine. Out: values of `benchmarks.audit.schema`. Measures nothing of the product.
"""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version

from benchmarks.audit.schema import Commit, Host
from benchmarks.harness import environment
from benchmarks.load.report import git_state

#: Packages that the figures depend on, by the names of their distributions.
PACKAGES = (
    *("numpy", "pyarrow", "numba", "msgspec", "aiohttp", "httptools", "uvloop", "isal"),
    *("backports.zstd", "deltalake", "duckdb", "protobuf", "memray", "py-spy"),
)


def host(load_before: tuple[float, float, float]) -> Host:
    """This machine.

    Args:
        load_before: `os.getloadavg()` when the audit began.
    """
    found = environment()
    versions: dict[str, str | None] = {"python": platform.python_version()}
    return Host(
        name=platform.node(),
        cpu=found["cpu"],
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=memory_bytes(),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        load_average=load_before,
        load_average_after=os.getloadavg(),
        versions=versions | {name: _version(name) for name in PACKAGES},
    )


def memory_bytes() -> int | None:
    """Of the machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def commit() -> Commit:
    """The tree that is measured."""
    return Commit(**git_state())


def cpu_s() -> float:
    """User and system time of this process and of all children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
