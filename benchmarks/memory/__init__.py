"""Parts of `scripts/profile_memory.py`: where memory goes, and whether it comes back.

In: a running daemon, or one that is started here with its workers under memray. Out: bytes by
stage and by line, flame graphs, and the trend of resident memory over a long load with a verdict.
`arc/` and `ingest/` know nothing of it.
"""
