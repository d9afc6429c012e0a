"""What can go wrong on the way from bytes to a stored row, split by who can mend it.

`ClientError`: the request is at fault and sending it again changes nothing.
`OverloadedError`: the daemon cannot take it now; the same request may succeed later.
Anything else that escapes is a defect of ours.

Every error carries a status hint (an HTTP number, so that the edge maps an attribute instead
of an `if` ladder) and a reason, the short word under which `/metrics` counts it. The message
names what was found, where, and the limit or the type wanted.
"""

from __future__ import annotations

from typing import ClassVar


class IngestError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        status_hint: HTTP status that fits.
        reason: Short word that `/metrics` counts it under.
        num_rows: Rows that were decoded before the refusal; 0 when that is not known.
    """

    status_hint: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    num_rows: int = 0


class ClientError(IngestError):
    """The request cannot be stored as it is; a retry without a change is pointless."""

    status_hint = 400
    reason = "bad_request"


class DecodeError(ClientError):
    """The bytes are not the format that they are said to be."""

    reason = "undecodable"


class CompressionError(ClientError):
    """The compressed body is damaged, or contradicts its `Content-Encoding`."""

    reason = "compression"


class PayloadError(ClientError):
    """The format is right, the content is not: a missing part, a wrong shape."""

    reason = "payload"


class InvalidNameError(PayloadError):
    """A database, measurement or column name that cannot be stored."""

    reason = "name"


class ColumnLengthError(PayloadError):
    """Columns of one batch disagree on their number of rows."""

    reason = "column_length"

    def __init__(self, measurement: str, column: str, got: int, want: int, other: str) -> None:
        super().__init__(
            f"measurement {measurement!r}: column {column!r} has {got} values, "
            f"but {other!r} has {want}"
        )


class ValueTypeError(PayloadError):
    """A value that does not fit the other values of its column, or no column at all."""

    reason = "value_type"

    def __init__(self, measurement: str, column: str, row: int, found: str, wanted: str) -> None:
        super().__init__(
            f"measurement {measurement!r}: column {column!r}, row {row}: "
            f"found {found}, wanted {wanted}"
        )


class TypeConflictError(PayloadError):
    """A column arrives with a type that its stored type cannot hold."""

    reason = "type_conflict"

    def __init__(
        self, measurement: str, column: str, row: int, found: str, stored: str, why: str = ""
    ) -> None:
        super().__init__(
            f"measurement {measurement!r}: column {column!r}, row {row}: found {found}, "
            f"but the column is stored as {stored}" + (f" ({why})" if why else "")
        )


class TimeError(PayloadError):
    """A time column, or one value of it, that does not say when."""

    reason = "time"


class TooLargeError(ClientError):
    """A body over a limit, on the wire or after decompression."""

    status_hint = 413
    reason = "too_large"

    def __init__(self, what: str, limit_bytes: int, setting: str) -> None:
        super().__init__(f"{what} is over the limit of {limit_bytes} bytes ({setting})")


class MediaTypeError(ClientError):
    """The body is said to be of a kind that this path does not take."""

    status_hint = 415
    reason = "media_type"


class TooSlowError(ClientError):
    """The request did not arrive in the time that it had."""

    status_hint = 408
    reason = "body_timeout"


class LimitError(ClientError):
    """A count over a limit: columns, measurements, hours, elements."""

    reason = "limit"

    def __init__(self, what: str, got: int, limit: int, setting: str) -> None:
        super().__init__(f"{what}: {got}, over the limit of {limit} ({setting})")


class OverloadedError(IngestError):
    """The daemon cannot take this now. `retry_after_s` says when to come back."""

    status_hint = 503
    reason = "overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageError(OverloadedError):
    """The disk refuses: full, read-only, or failing. It may come back."""

    reason = "storage"


class ReadOnlyError(StorageError):
    """The log takes nothing at present; nothing of the request was kept."""

    reason = "read_only"


class ReplayingError(OverloadedError):
    """The shard is reading its log and takes nothing yet."""

    reason = "replaying"


class KeyInFlightError(OverloadedError):
    """The first request with this `Idempotency-Key` is not answered yet."""

    status_hint = 409
    reason = "key_in_flight"


class KeyReusedError(ClientError):
    """This `Idempotency-Key` came with another body before."""

    status_hint = 422
    reason = "key_reused"


class StaleSchemaError(IngestError):
    """Files were built with a schema that their table has left behind. Build them anew."""

    reason = "stale_schema"
