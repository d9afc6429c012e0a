"""Bytes that nobody should send, at every parser and at the HTTP edge: `scripts/fuzz.py`.

A target takes one body and says what became of it. An engine makes the bodies, in a process of
its own. Whatever is not a refusal in order is a finding, made small, kept in a file.
"""
