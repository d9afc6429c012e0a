"""Moves a script into venv/, so that `python scripts/name.py` works with whatever python is.

In: the running interpreter. Out: the same script with the same arguments, run by the Python of
venv/, with the repository's folder on `sys.path`. Imports the standard library only and never
installs anything: that is start.sh. A script calls it before its other imports:

    from _venv import reexec_in_venv

    reexec_in_venv()
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
#: Set for the moment of the switch, so that a venv/ that is none cannot make it go in circles.
#: Not ARC_...: those are settings of the daemon.
MARK = "_ARC_REEXECUTED"
#: Stand for all dependencies: no Python has these by chance.
SAMPLE_PACKAGES = ("msgspec", "pyarrow", "uvloop")


def reexec_in_venv() -> None:
    """Go on in the Python of venv/; return when already there.

    Without a venv/, an environment of the caller's own that has the packages serves as well.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    switched = os.environ.pop(MARK, None) is not None
    if Path(sys.prefix).resolve() == ROOT / "venv":
        return
    if switched:
        _stop("venv/ does not work: run ./start.sh setup again")
    python = ROOT / "venv" / "bin" / "python"
    if os.access(python, os.X_OK):
        os.environ[MARK] = "1"
        os.execv(python, [str(python), *sys.argv])
    if not all(importlib.util.find_spec(name) for name in SAMPLE_PACKAGES):
        _stop("run ./start.sh setup first")


def _stop(message: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(2)
