"""The version, as text. It matches pyproject.toml (tests/test_cli.py)."""

VERSION = "0.1.0"
