"""Log sequence numbers grow over all lives of a shard, and come apart again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.lsn import MAX_EPOCH, MAX_SEQ, epoch_of, make_lsn, seq_of

PARTS = st.tuples(st.integers(0, MAX_EPOCH), st.integers(0, MAX_SEQ))


@given(PARTS, PARTS)
def test_numbers_are_ordered_as_lives_and_requests_are(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert (make_lsn(*one) < make_lsn(*other)) == (one < other)


@given(PARTS)
def test_a_number_comes_apart_again(parts: tuple[int, int]) -> None:
    assert (epoch_of(make_lsn(*parts)), seq_of(make_lsn(*parts))) == parts


def test_every_number_fits_into_a_signed_64_bit_integer() -> None:
    assert make_lsn(MAX_EPOCH, MAX_SEQ) == 2**63 - 1
