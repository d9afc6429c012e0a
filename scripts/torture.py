"""Kill, starve and mislead an Arc daemon under load, and judge what its files hold.

    python scripts/torture.py --list
    python scripts/torture.py kill --rounds 20 --seed 1

Thin: the work is in benchmarks/torture/, the guide in docs/durability.md.
"""

from __future__ import annotations

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    from benchmarks.torture.cli import main

    raise SystemExit(main())
