"""`arc serve` with fake workers: settings from the environment, manners from the arguments."""

from __future__ import annotations

import sys

from arc.config import load
from arc.launch import StartError, serve

if __name__ == "__main__":
    worker = ["tests.support.fake_worker", *sys.argv[1:]]
    command = [sys.executable, "-m", "arc.template", *worker]
    try:
        sys.exit(serve(load().config, command))
    except StartError as error:
        sys.exit(f"arc: {error}")
