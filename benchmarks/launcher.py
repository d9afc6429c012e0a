"""`arc serve` whose workers begin in a module of ours: what profilers of a whole daemon start.

    python -m benchmarks.launcher MODULE ARGUMENT [FLAGS of arc serve]

In: MODULE, which has `prepare` and `main` as `arc.worker` has them, and calls those; ARGUMENT,
which it finds in `sys.argv[1]`. Out: a daemon that is the ordinary one in all else, so that what
is measured is what users run. Nothing in `arc/` or `ingest/` is changed or knows of this: workers
are forked from a template that is told which module to run, and this tells it another.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from arc import cli, launch

#: Arrow's own pools take memory from the system in large pieces, which hides who asked for it.
ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"


def command(module: str, argument: str) -> list[str]:
    """The command line of a daemon with workers of `module`, to which flags may be added."""
    return [sys.executable, "-m", "benchmarks.launcher", module, argument]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the daemon in this process until it is told to stop."""
    module, argument, *flags = sys.argv[1:] if argv is None else argv
    template = [sys.executable, "-m", "arc.template", module, argument]
    launch.template_command = lambda: template
    os.environ.setdefault(ARROW_POOL, "system")
    sys.argv = ["arc", "serve", *flags]
    cli.main()


if __name__ == "__main__":
    main()
