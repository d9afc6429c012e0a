"""Measure everything that this tree promises, and look for known traps in its code.

    python scripts/perf_audit.py
    python scripts/perf_audit.py --quick
    python scripts/perf_audit.py --compare BEFORE.json

Thin: the work is in benchmarks/audit/, the guide in docs/profiling/audit.md.
"""

from __future__ import annotations

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    from benchmarks.audit.cli import main

    raise SystemExit(main())
