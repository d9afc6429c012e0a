"""What a program of the torture harness is, and what it is given for a round.

In: the settings of a run. Out: `Program`, which the command line runs, and `Context`, from which
a program takes its folder, its chances and its daemons. Nothing here does harm by itself.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.torture.daemon import Daemon
from benchmarks.torture.load import Ledger
from benchmarks.torture.oracle import ARRIVAL_SLACK_S, Verdict, judge


@dataclass
class Context:
    """What one call of `Program.round` works with.

    Attributes:
        folder: Empty, for this call alone; kept when the verdict is bad.
        seed: Of the run, for messages.
        first_round: Number of the first round of the call, from 0.
        rounds: How many to do before the verdict, 1 to `Program.group`.
        workers: Of the daemon.
        durability: Its level; None: its default.
        quick: A short round is wanted, for tests.
        say: Shows one line of progress.
        ledger: For everything that is sent to `data_dir`; saved when the verdict is bad.
    """

    folder: Path
    seed: int = 0
    first_round: int = 0
    rounds: int = 1
    workers: int = 2
    durability: str | None = None
    quick: bool = False
    say: Callable[[str], None] = lambda line: None
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        #: Its choices follow from the seed and the number of the round.
        self.chance = random.Random(f"{self.seed}/{self.first_round}")

    @property
    def data_dir(self) -> Path:
        """Where a daemon keeps its data, unless the program has a better place."""
        return self.folder / "data"

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of `arc serve` that the run asks for."""
        level = () if self.durability is None else ("--durability", self.durability)
        return ("--workers", str(self.workers), *level)

    def judge(
        self, data_dir: Path | None = None, arrival_slack_s: float | None = ARRIVAL_SLACK_S
    ) -> Verdict:
        """Compare the files below `data_dir`, or another folder, with the ledger."""
        return judge(data_dir or self.data_dir, self.ledger, arrival_slack_s=arrival_slack_s)

    @contextmanager
    def daemon(
        self,
        *flags: str,
        data_dir: Path | None = None,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Daemon]:
        """A daemon that is not started yet, and of which nothing is left afterwards.

        Args:
            flags: Of `arc serve`, after those that the run asks for: the last one counts.
            data_dir: In place of `Context.data_dir`.
            prefix: Put before the command, e.g. `("taskset", "1")`.
            environment: Added to that of this process.
        """
        daemon = Daemon(
            data_dir or self.data_dir,
            *self.flags,
            *flags,
            prefix=prefix,
            environment=environment or {},
            log_file=self.folder / "daemon.log",
        )
        with contextlib.closing(daemon):
            yield daemon


class Program(Protocol):
    """One way to do harm.

    Attributes:
        name: As on the command line.
        description: One line.
        default_rounds: Without `--rounds`.
        record_rounds: For docs/durability.md.
        group: Rounds that share a data directory and a verdict; 1 mostly.
    """

    name: str
    description: str
    default_rounds: int
    record_rounds: int
    group: int

    def requirement(self) -> str | None:
        """Why it cannot run here, None when it can."""
        ...

    def round(self, context: Context) -> Verdict:
        """Do `context.rounds` rounds and judge. Raises only for a defect of the program."""
        ...
