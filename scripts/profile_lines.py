#!/usr/bin/env python3
"""How often each line of a function runs, and for how long.

    python scripts/profile_lines.py ingest.msgpack_decoder:decode --payload columnar
    python scripts/profile_lines.py 'ingest.table_build:*' --daemon --load 10

Thin: the work is in benchmarks/lines/, the guide in docs/profiling/lines.md.
"""

from __future__ import annotations

from _venv import reexec_in_venv

if __name__ == "__main__":
    reexec_in_venv()

    import signal

    from benchmarks.lines.cli import main

    # `timeout` and the like mean what Ctrl-C means: end the daemon that was started, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
