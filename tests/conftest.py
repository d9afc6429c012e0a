"""Settings that all tests share. Fixtures live in tests/support, beside what they set up."""

from __future__ import annotations

from hypothesis import settings

# No deadline for one example: the machine is shared, and no test asserts on time. The parent is
# Hypothesis's own default, which is its "ci" profile (the same examples each run) where CI is set.
settings.register_profile("arc", settings(), deadline=None)
settings.load_profile("arc")
