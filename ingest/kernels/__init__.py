"""Compiled loops over bytes and numbers: no Python objects, no lock on the interpreter.

`python -m ingest.kernels` compiles every kernel once into the cache that later starts load.
"""
