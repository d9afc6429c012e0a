#!/usr/bin/env python3
"""A fixed list of benchmarks: run it, keep it as the baseline, compare with that.

    python scripts/bench.py baseline
    python scripts/bench.py compare

Thin: the work is in benchmarks/rounds.py and benchmarks/compare.py.
"""

from __future__ import annotations

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    from benchmarks.rounds import main

    raise SystemExit(main())
