"""Feed every parser and the HTTP edge of Arc bodies that nobody should send.

    python scripts/fuzz.py --list
    python scripts/fuzz.py msgpack line-protocol --runs 100000 --seed 1

Thin: the work is in benchmarks/fuzz/, the guide in docs/security.md. Needs what `./start.sh test`
installs.
"""

from __future__ import annotations

from importlib.util import find_spec

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    if find_spec("hypothesis") is None:  # venv/ as `./start.sh native` makes it
        raise SystemExit("fuzz.py needs hypothesis, which ./start.sh test installs")

    from benchmarks.fuzz.cli import main

    raise SystemExit(main())
