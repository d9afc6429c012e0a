"""Parts of `scripts/profile_lines.py`: how often each line of a function runs, and for how long.

In: names of functions, and bodies to run them on or a daemon to run them in. Out: a table of lines
for each function. `arc/` and `ingest/` know nothing of it.
"""
