"""Drive an Arc daemon with generated load and read every acknowledged row back from its files.

    python scripts/benchmark_ingestion.py --start
    python scripts/benchmark_ingestion.py --help

Thin: the work is in benchmarks/load/, the guide in docs/benchmarking.md.
"""

from __future__ import annotations

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    from benchmarks.load.cli import main

    raise SystemExit(main())
