"""What to do when there is nothing to sample, or no permission to. Pure: text from facts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def no_daemon(reason: str, data_dir: Path, script: str) -> str:
    """There is no daemon on this data directory."""
    return (
        f"No daemon is running on {data_dir.absolute()}: {reason}.\n"
        "Start one with ./start.sh native, or name the data directory of the one that runs:\n"
        f"  python {shlex.quote(script)} --data-dir DIRECTORY"
    )


def not_permitted(
    reason: str, command: Sequence[str], is_root: bool, ptrace_scope: int | None
) -> str:
    """The kernel forbids to look into a worker.

    Args:
        reason: What was tried and refused.
        command: This very call, with absolute paths, so that it means the same under sudo.
        is_root: Whether it ran as root already.
        ptrace_scope: The kernel's `kernel.yama.ptrace_scope`, None where it has no such rule.
    """
    if is_root:
        return (
            f"Not permitted: {reason}, although this runs as root.\n"
            "In a container, start it with the capability to trace: --cap-add SYS_PTRACE"
        )
    lines = [f"Not permitted: {reason}. Run it as root:", f"  sudo {shlex.join(command)}"]
    if ptrace_scope:
        lines += [
            "or let your own processes be read until the next boot:",
            "  sudo sysctl kernel.yama.ptrace_scope=0",
        ]
    return "\n".join(lines)
