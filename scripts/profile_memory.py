#!/usr/bin/env python3
"""Where the memory of Arc's workers goes, and whether it comes back.

    python scripts/profile_memory.py 30             the running daemon
    python scripts/profile_memory.py --load         one that is started under memray, and loaded
    python scripts/profile_memory.py --soak 1800    half an hour at 70 % of its capacity

Thin: the work is in benchmarks/memory/, the guide in docs/profiling/memory.md.
"""

from __future__ import annotations

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    import signal

    from benchmarks.memory.cli import main

    # `timeout` and the like mean what Ctrl-C means: end the daemon that was started, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
