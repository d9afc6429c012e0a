"""What a request costs before anybody looks at its body: the HTTP stage of the budget.

In: a number of rounds. Out: the last line on standard output is JSON: CPU nanoseconds of the
worker's thread for a row of workload `c`, 1 000 rows a request, one figure for each round.

    python -m benchmarks.audit.http_stage 3

A process of its own, since the worker runs in a thread that ends with its process.
"""

from __future__ import annotations

import json
import sys

from benchmarks.audit.physical import BODY_BYTES, BODY_ROWS
from benchmarks.bench_http import REQUESTS, Client, Server


def main(rounds: int) -> list[float]:
    """CPU nanoseconds a row of each round."""
    client = Client(Server(), BODY_BYTES, through_aiohttp=False)
    client()  # warm
    out = []
    for _ in range(rounds):
        before = client.cpu_s
        client()
        out.append((client.cpu_s - before) / REQUESTS / BODY_ROWS * 1e9)
    return out


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
