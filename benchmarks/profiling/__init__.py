"""Parts of `scripts/profile_arc_ingestion.py`: from a running daemon to a picture of its time.

In: the process ids of the workers. Out: samples, seconds per stage, a flame graph, a speedscope
file. Only `daemon.py` and `pyspy.py` touch the machine; the others are functions of the samples.
Nothing here imports the daemon, and nothing here changes it.
"""
