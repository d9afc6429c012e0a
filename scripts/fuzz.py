"""Feed every parser and the HTTP edge of Arc bodies that nobody should send.

    python scripts/fuzz.py --list
    python scripts/fuzz.py msgpack line-protocol --runs 100000 --seed 1

Thin: the work is in benchmarks/fuzz/, the guide in docs/security.md. Needs what `./start.sh test`
installs.
"""

from __future__ import annotations

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    try:
        from benchmarks.fuzz.cli import main
    except ModuleNotFoundError as error:  # venv/ as `./start.sh native` makes it
        raise SystemExit(f"fuzz.py needs {error.name}, which ./start.sh test installs") from None

    raise SystemExit(main())
