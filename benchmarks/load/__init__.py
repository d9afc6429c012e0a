"""Load generator: what to send (spec), how (generator), and what became of it (oracle, report)."""
