"""What the compactor process is told at its start, as arguments of its command line and back.

In: options, and where the data is. Out: a command for the supervisor, and in the process itself
the options again. Imports nothing heavy, so that the supervisor stays light.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec


class CompactionStart(msgspec.Struct, frozen=True):
    """All that a compactor process is told.

    Attributes:
        data_dir: Whose tables it looks at.
        older_than_s: How long ago an hour, or a day, must have ended.
        grace_s: How long files that left their table stay on the disk for those who read them.
        log_level: As `arc.logs.configure` has it.
        log_format: The same.
    """

    data_dir: Path
    older_than_s: float = 300.0
    grace_s: float = 900.0
    log_level: str = "info"
    log_format: str = "auto"


def command(start: CompactionStart) -> list[str]:
    """The program and the arguments that start the process."""
    words = [sys.executable, "-m", "arc.compaction_process", str(start.data_dir)]
    for name, value in msgspec.structs.asdict(start).items():
        if name != "data_dir":
            words += [_flag(name), str(value)]
    return words


def parse_arguments(arguments: Sequence[str]) -> CompactionStart:
    """Undo `command`, the program left out.

    Raises:
        SystemExit: they cannot be understood; standard error says why.
    """
    parser = argparse.ArgumentParser(prog="python -m arc.compaction_process", description=__doc__)
    parser.add_argument("data_dir", type=Path)
    for field in msgspec.structs.fields(CompactionStart):
        if field.name != "data_dir":
            kind = type(field.default)
            parser.add_argument(_flag(field.name), type=kind, default=field.default)
    return CompactionStart(**vars(parser.parse_args(arguments)))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
