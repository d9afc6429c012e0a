"""Micro-benchmarks of the producer client, beside other clients: `python -m benchmarks.client`."""
