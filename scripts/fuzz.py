"""Feed every parser and the HTTP edge of Arc bodies that nobody should send.

    python scripts/fuzz.py --list
    python scripts/fuzz.py msgpack line-protocol --runs 100000 --seed 1

Thin: the work is in benchmarks/fuzz/, the guide in docs/security.md.
"""

from __future__ import annotations

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    from benchmarks.fuzz.cli import main

    raise SystemExit(main())
