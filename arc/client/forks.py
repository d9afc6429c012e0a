"""Who has to be called around a fork: hooks that are registered once, for all there are.

In: whatever has the three methods. Out: their calls, for as long as it lives. Python has no way to
take a hook back, so one for each client would stay for the life of the process.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forks(Protocol):
    """What follows forks."""

    def before_fork(self) -> None:
        """In the parent, before it: take every lock."""

    def after_fork_in_parent(self) -> None:
        """Give them back."""

    def after_fork_in_child(self) -> None:
        """Forget what is the parent's."""


class Followers:
    """Those who are called around forks. They are not kept alive.

    Attributes:
        importing: Held by a thread of a client while it imports, and waited for by a fork: the
            child of a fork amid an import has half a module, for good.
    """

    def __init__(self) -> None:
        self.importing = threading.Lock()
        self._alive: dict[int, weakref.ref[Forks]] = {}
        self._called: list[Forks] = []

    def follow(self, follower: Forks) -> None:
        """Call it around every fork from now on, later ones first."""
        number = id(follower)
        self._alive[number] = weakref.ref(follower, lambda _: self._alive.pop(number, None))

    def before(self) -> None:
        """Of the process, before a fork."""
        self.importing.acquire()  # given back by the two below
        found = [follower() for follower in reversed(list(self._alive.values()))]
        self._called = [follower for follower in found if follower is not None]
        for follower in self._called:
            follower.before_fork()

    def after_in_parent(self) -> None:
        """Of the process that has forked."""
        called, self._called = self._called, []
        for follower in reversed(called):
            follower.after_fork_in_parent()
        self.importing.release()

    def after_in_child(self) -> None:
        """Of the new process."""
        called, self._called = self._called, []
        for follower in reversed(called):
            follower.after_fork_in_child()
        self.importing.release()


FORKS = Followers()
os.register_at_fork(
    before=FORKS.before,
    after_in_parent=FORKS.after_in_parent,
    after_in_child=FORKS.after_in_child,
)
