"""What the daemon says when it is ready: where it is, what it promises, what to try first."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from arc.config import Config, format_size
from arc.ports import url_of
from arc.runtime import DaemonInfo

#: `{"m": "cpu", "columns": {"usage": [42]}}` in MessagePack, in octal: all of a POSIX printf.
_FIRST_BATCH = r"\202\241m\243cpu\247columns\201\245usage\221*"

_DURABILITY = {
    "memory": "memory: a 204 says that the rows are in memory, for at most {flush_age_s:g} s; "
    "a crash loses those",
    "page": "page: a 204 says that the log has the request, in memory of the system; "
    "it survives a crash of the daemon, no power cut",
    "disk": "disk: a 204 says that the log on the disk has the request; it survives a power cut",
}


def banner(info: DaemonInfo, config: Config) -> str:
    """The text for standard output, without a newline at its end.

    Args:
        info: The daemon that is ready.
        config: Resolved, as its workers run it.
    """
    share = format_size(config.worker_memory_bytes)
    rows = [
        ("listening on", info.url),
        *([("OTLP also on", url_of(config.host, config.otlp_port))] if config.otlp_port else []),
        ("data directory", info.data_dir),
        ("workers", f"{len(info.workers)} (supervisor is process {info.pid})"),
        ("durability", _DURABILITY[info.durability].format(flush_age_s=config.flush_age_s)),
        ("memory budget", f"{format_size(config.memory_bytes)}, {share} a worker"),
    ]
    hints = [
        ("first batch", first_batch_command(info.url)),
        ("this machine's data", f"python examples/host_metrics.py --url {info.url}"),
        ("metrics", f"curl {info.url}/metrics"),
        ("stop", f"Ctrl-C here, or: {_arc()} stop --data-dir {shlex.quote(info.data_dir)}"),
    ]
    lines = [f"arc {info.version} is ready", *_aligned(rows), "", *_aligned(hints)]
    return "\n".join(lines)


def first_batch_command(url: str) -> str:
    """A shell line that writes one row."""
    return f"printf '{_FIRST_BATCH}' | curl -i --data-binary @- {url}/api/v1/write/msgpack"


def _arc() -> str:
    """How this installation's `arc` is called from here, as short as may be."""
    script = Path(sys.executable).with_name("arc")
    if not script.exists():
        return "arc"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name.ljust(width)}  {text}" for name, text in rows]
