"""What can go wrong between SQL and its rows, as an error with the HTTP status that fits."""

from __future__ import annotations

from ingest.errors import ClientError, IngestError


class QueryError(ClientError):
    """The SQL cannot be run: it is not allowed, not understood, or fails on the values it meets."""

    reason = "query"


class QueryLimitError(QueryError):
    """The SQL is in order, but takes more time or memory than a query may have."""

    status_hint = 422
    reason = "query_limit"


class ResultTooLargeError(QueryError):
    """The answer has more rows or bytes than its format may have."""

    status_hint = 413
    reason = "query_result"


class QueryCancelledError(IngestError):
    """Nobody waits for the answer any more."""

    reason = "query_cancelled"
