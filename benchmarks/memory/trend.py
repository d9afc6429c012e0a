"""Does a series of memory grow, and by how much a day? Pure.

In: times and bytes. Out: a slope with its confidence interval, and a verdict against a limit.

Why block means: resident memory under load goes up and down with every flush, and a second knows
most of what the second before it knew. The usual interval of a fitted line takes the seconds for
independent and comes out several times too narrow. So the series is cut into blocks of equal
length, each becomes its mean, and the line is fitted through the means. Blocks much longer than
the memory of the series are nearly independent, and Student's t with blocks - 2 degrees of
freedom is honest about how few they are. Whether they are long enough is looked at: while
neighbouring residuals still go together, or while the fit leaves more than chance between them,
blocks are made longer. (An estimator of the long-run variance, such as Newey and West's, needs a
bandwidth instead, and is known to be too narrow on short series with long memory.)
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

SECONDS_A_DAY = 86_400

#: Blocks to begin with, and the fewest: below, the interval is wider than what blocks gain.
MOST_BLOCKS, FEWEST_BLOCKS = 48, 8

#: Residuals of neighbouring blocks that go together more than this are not independent. About
#: one standard deviation of what chance makes of 24 independent ones.
DEPENDENT = 0.2

CONFIDENCE = 0.95

Floats = NDArray[np.float64]


class Leak(enum.StrEnum):
    """What a trend says about a limit."""

    YES = "leak"
    NO = "no leak"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Trend:
    """A line through block means.

    Attributes:
        slope: Bytes a second.
        low: Lower end of the interval of the slope, at the level of CONFIDENCE.
        high: Upper end.
        blocks: How many block means it goes through.
        block_s: Length of a block.
        correlation: Of the residuals of neighbouring blocks, -1 to 1; near 0 is good.
        seconds: Length of the series.
        mean: Of the series, bytes.
    """

    slope: float
    low: float
    high: float
    blocks: int
    block_s: float
    correlation: float
    seconds: float
    mean: float

    def per_day(self) -> tuple[float, float, float]:
        """Slope and the ends of its interval, bytes a day."""
        return tuple(SECONDS_A_DAY * x for x in (self.slope, self.low, self.high))  # type: ignore[return-value]

    def verdict(self, limit_bytes_a_day: float) -> Leak:
        """What it says about growth by more than `limit_bytes_a_day`.

        A series that surely falls by more than the limit has not settled, and says nothing of
        what comes after.
        """
        _, low, high = self.per_day()
        if low > limit_bytes_a_day:
            return Leak.YES
        flat = -limit_bytes_a_day <= high <= limit_bytes_a_day
        return Leak.NO if flat else Leak.UNDECIDED

    def seconds_to_decide(self, limit_bytes_a_day: float) -> float:
        """About how long a series has to be until its interval is the limit to either side.

        The width of the interval falls with the length to the power of 1.5.
        """
        half = SECONDS_A_DAY * (self.high - self.low) / 2
        return self.seconds * math.pow(half / limit_bytes_a_day, 2 / 3)


def trend(times_s: Floats, values: Floats, most_blocks: int = MOST_BLOCKS) -> Trend:
    """Fit a line with an interval that knows of autocorrelation.

    Args:
        times_s: float64, shape (n,), rising, about evenly spaced.
        values: float64, shape (n,), bytes.
        most_blocks: To begin with.

    Raises:
        ValueError: too few values for FEWEST_BLOCKS.
    """
    if len(times_s) < 2 * FEWEST_BLOCKS:
        raise ValueError(
            f"{len(times_s)} values are too few for a trend: it takes {2 * FEWEST_BLOCKS} and more"
        )
    blocks = min(most_blocks, len(times_s) // 2)
    while True:
        found = _through_blocks(times_s, values, blocks)
        if found.correlation <= DEPENDENT or blocks == FEWEST_BLOCKS:
            return found
        blocks = max(FEWEST_BLOCKS, blocks * 3 // 4)


def _through_blocks(times_s: Floats, values: Floats, blocks: int) -> Trend:
    x = np.array([part.mean() for part in np.array_split(times_s, blocks)])
    y = np.array([part.mean() for part in np.array_split(values, blocks)])
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum() / spread)
    rest = y - y.mean() - slope * centred
    error = math.sqrt(float((rest**2).sum()) / (blocks - 2) / spread)
    half = student_t(blocks - 2) * error
    seconds = float(times_s[-1] - times_s[0])
    correlation = _neighbours(rest)
    return Trend(
        slope,
        slope - half,
        slope + half,
        blocks,
        seconds / blocks,
        correlation,
        seconds,
        float(values.mean()),
    )


def _neighbours(rest: Floats) -> float:
    """Correlation of residuals with the next one; 0 where there is nothing to correlate."""
    power = float((rest**2).sum())
    scale = max(1.0, float(np.abs(rest).max()))
    return float((rest[1:] * rest[:-1]).sum()) / power if power > 1e-12 * scale else 0.0


def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's t, from that of the normal distribution.

    The expansion of Abramowitz and Stegun, 26.7.5; within 0.2 % for 6 degrees of freedom and more.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = degrees
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160
    return z + g1 / n + g2 / n**2 + g3 / n**3 + g4 / n**4
