"""Rows that were taken and could not be delivered, on their way back to who sent them.

In: a batch, and what the server or the network said. Out: an exception that holds the batch, and
gives its rows when it is asked for them. Never sends anything again by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arc.client.batch import Batch
from arc.client.errors import ArcClientError


class RefusedError(ArcClientError):
    """Rows that were taken and could not be delivered.

    Attributes:
        status: HTTP status of the answer; None without one (a time-out, a broken connection, or
            rows that could not be encoded).
        message: The server's own words, or what was wrong before it could answer.
        retryable: The same rows may be taken later: the client gave up, the server did not.
        in_doubt: The rows may be stored: they were sent, and no answer settled it. Sending `batch`
            again with its key stores them once, within the server's window for keys.
        batch: What was sent: body, key, database.
        others: Further refusals that the same call found, where it found several.
    """

    def __init__(
        self,
        message: str,
        batch: Batch,
        *,
        status: int | None = None,
        retryable: bool = False,
        in_doubt: bool = False,
        rows: list[dict[str, Any]] | None = None,
    ) -> None:
        """Describe the refusal of a batch.

        Args:
            message: Words for it.
            batch: What was refused.
            status: As the attribute.
            retryable: As the attribute.
            in_doubt: As the attribute.
            rows: The rows themselves, where they could not be put into the batch.
        """
        where = f"answered {status}" if status is not None else "not delivered"
        super().__init__(f"{batch.rows} rows of {batch.what}: {where}: {message}")
        self.status, self.message, self.batch = status, message, batch
        self.retryable, self.in_doubt = retryable, in_doubt
        self.others: list[RefusedError] = []
        self._rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        """As made: a worker process may raise it, and a pool that cannot read it waits for ever."""
        return _remade, (
            self.message,
            self.batch,
            self.status,
            self.retryable,
            self.in_doubt,
            self._rows,
            self.others,
            getattr(self, "__notes__", []),
        )

    @property
    def num_rows(self) -> int:
        """How many rows were refused."""
        return self.batch.rows

    def rows(self) -> Iterator[dict[str, Any]]:
        """The refused rows, one at a time: column by name, `measurement` among them.

        Decoded from the batch when asked for; a batch of line protocol gives `{"line": text}`.
        """
        if self._rows is not None:
            return iter(self._rows)
        from arc.client.contents import rows_of  # on demand: it needs every decoder

        return rows_of(self.batch)


def _remade(
    message: str,
    batch: Batch,
    status: int | None,
    retryable: bool,
    in_doubt: bool,
    rows: list[dict[str, Any]] | None,
    others: list[RefusedError],
    notes: list[str],
) -> RefusedError:
    error = RefusedError(
        message, batch, status=status, retryable=retryable, in_doubt=in_doubt, rows=rows
    )
    error.others = others
    for note in notes:
        error.add_note(note)
    return error
