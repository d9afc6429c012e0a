"""One file on its way to a daemon: what was acknowledged, what is in doubt, and sending the rest.

In: pieces of a file (`ingest.file_import`) and where the daemon listens. Out: requests with an
`Idempotency-Key` each, one after another, and a journal that says how far they have come. The
journal is written before a piece is sent and again with the next one, so that whoever goes on
later knows which single piece is in doubt and since when: sent again with its key, it is stored
once, as long as the daemon remembers the key. Nothing here reads the file or talks to people.
"""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import msgspec

from ingest.disk import replace_file

if TYPE_CHECKING:
    from ingest.file_import import Piece

#: A body is stored within milliseconds, or told to come back; a busy disk may take seconds.
REQUEST_TIMEOUT_S = 60.0

#: Before a key's window ends in which it is not relied on any more: clocks, and the way there.
WINDOW_MARGIN_S = 15.0

#: Waits between attempts where the daemon says none: doubled from the first to the last.
FIRST_WAIT_S, LAST_WAIT_S = 0.1, 5.0

#: Not now, or not by this process; the same request may be taken later.
_COME_BACK = frozenset({408, 409, 429, 502, 503, 504})
_ACCEPTED = frozenset({200, 204})
_NO_ANSWER = 0

#: Bytes of a key are few: 64. The prefix may have so many of them.
MAX_PREFIX_BYTES = 20
_DIGEST_DIGITS = 24

_SHOWN_BYTES = 2_000


class ImportStoppedError(Exception):
    """Why an import stops; the message is for its user."""


class RefusedError(ImportStoppedError):
    """The daemon refuses a piece, which is not stored."""


class UnansweredError(ImportStoppedError):
    """The daemon takes nothing, or is not there. The import can go on later."""


class DoubtError(ImportStoppedError):
    """Nobody knows whether one piece was stored, and its key is too old to ask."""


class Destination(msgspec.Struct, frozen=True):
    """Where rows go, and how their times are to be read.

    Attributes:
        database: Its name.
        measurement: Its name; empty for line protocol, whose lines name their own.
        time_unit: Of times that are numbers; empty: told from them.
    """

    database: str
    measurement: str
    time_unit: str


class Journal(msgspec.Struct):
    """How far the import of one file into one place has come.

    Attributes:
        file: Its name when it was begun, for people.
        identity: `ingest.file_import.file_identity` of it.
        destination: Where to.
        options: How it is read: with others, pieces would begin elsewhere.
        key_prefix: Of its keys.
        run: Grows when it is imported again, so that no key comes twice.
        pieces: Acknowledged.
        rows: Acknowledged.
        sent_at_s: When the piece after those was first sent, seconds since 1970; 0: not yet.
        finished: Whether that was all.
    """

    file: str
    identity: str
    destination: Destination
    options: dict[str, object]
    key_prefix: str
    run: int = 0
    pieces: int = 0
    rows: int = 0
    sent_at_s: float = 0.0
    finished: bool = False

    def key(self) -> str:
        """The `Idempotency-Key` of the piece after the acknowledged ones."""
        what = msgspec.json.encode((self.identity, self.destination, self.options))
        digest = hashlib.sha256(what).hexdigest()[:_DIGEST_DIGITS]
        return f"{self.key_prefix}-{digest}-{self.run}-{self.pieces}"

    def in_doubt_for_s(self) -> float | None:
        """For how long the next piece may be stored without our knowing; None: it is not."""
        return time.time() - self.sent_at_s if self.sent_at_s else None


class JournalFile:
    """A journal on disk: after a power cut it is as it was, or as it was to be."""

    def __init__(self, folder: Path, identity: str, destination: Destination) -> None:
        self.identity = identity
        where = msgspec.json.encode((identity, destination.database, destination.measurement))
        name = f".arc-import-{hashlib.sha256(where).hexdigest()[:16]}"
        self.path = folder / f"{name}.json"
        self._draft = folder / f"{name}.tmp"

    def load(self) -> Journal | None:
        """What is there, None if nothing is.

        Raises:
            ImportStoppedError: something else is there.
            OSError: it cannot be read.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Journal)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise ImportStoppedError(f"{self.path} is no journal of an import: {error}") from None

    def save(self, journal: Journal) -> None:
        """Replace it.

        Raises:
            ImportStoppedError: it cannot be written.
        """
        content = msgspec.json.format(msgspec.json.encode(journal), indent=2) + b"\n"
        try:
            replace_file(self.path, content, self._draft)
        except OSError as error:
            raise ImportStoppedError(
                f"cannot write the journal {self.path}: {error.strerror}; "
                "name another folder for it with --state"
            ) from error


class Reply(msgspec.Struct, frozen=True):
    """An answer of the daemon.

    Attributes:
        status: HTTP status.
        retry_after_s: Header Retry-After, None when absent.
        body: The beginning of it.
    """

    status: int
    retry_after_s: float | None
    body: bytes

    @property
    def words(self) -> str:
        """What it says went wrong."""
        try:
            return str(msgspec.json.decode(self.body, type=dict[str, object])["error"])
        except (msgspec.DecodeError, KeyError):
            return self.body[:200].decode(errors="replace") or "an answer without words"


class Client:
    """One connection to a daemon, opened anew where it breaks."""

    def __init__(self, find_url: Callable[[], str]) -> None:
        """Keep how to find it.

        Args:
            find_url: Base of its URLs, asked for at each connection, since a daemon that was
                started again may listen elsewhere. Raises OSError when there is none.
        """
        self._find_url = find_url
        self._connection: http.client.HTTPConnection | None = None
        self._base = ""

    def post(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Send one request and read its answer.

        Raises:
            OSError: no connection, none any more, no answer in time, or none that is HTTP.
        """
        connection = self._connection or self._connect()
        try:
            connection.request("POST", self._base + path, body, headers)
            response = connection.getresponse()
            content = response.read(_SHOWN_BYTES)
            while response.read(1 << 16):
                pass
        except http.client.HTTPException as error:
            self.close()
            raise ConnectionError(f"not HTTP: {error!r}") from error
        except OSError:
            self.close()
            raise
        return Reply(response.status, _seconds(response.getheader("Retry-After")), content)

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._find_url())
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        self._base = parts.path.rstrip("/")
        # Not urllib: it would ask the proxy that the environment names.
        self._connection = kinds[parts.scheme](
            parts.hostname or "", parts.port, timeout=REQUEST_TIMEOUT_S
        )
        return self._connection

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:  # a date, which the daemon never sends
        return None


class Job:
    """The import of one file."""

    def __init__(
        self,
        client: Client,
        file: JournalFile,
        journal: Journal,
        window_s: float,
        patience_s: float,
    ) -> None:
        """Put it together; nothing is sent yet.

        Args:
            client: To the daemon.
            file: Where the journal is kept.
            journal: As it was left, or a new one.
            window_s: How long the daemon remembers keys.
            patience_s: How long one piece is tried to be sent.
        """
        self._client = client
        self._file = file
        self.journal = journal
        self._window_s = window_s - WINDOW_MARGIN_S
        self._patience_s = patience_s

    def check_doubt(self) -> None:
        """Refuse to go on where the next piece may be stored, and its key may be forgotten.

        Raises:
            DoubtError: see there.
        """
        doubt_s = self.journal.in_doubt_for_s()
        if doubt_s is not None and not 0 <= doubt_s < self._window_s:
            raise DoubtError(
                f"piece {self.journal.pieces} was sent {doubt_s:.0f} s ago and not answered, "
                f"and the daemon remembers keys for {self._window_s + WINDOW_MARGIN_S:g} s "
                "(ARC_IDEMPOTENCY_WINDOW_S). Look whether its rows are stored (those before it "
                f"are: {self.journal.rows} rows), then say --doubtful skip if they are, or "
                "--doubtful send if they are not"
            )

    def settle_doubt(self, skip: Callable[[], int] | None) -> None:
        """Take the user's word for the piece in doubt.

        Args:
            skip: Returns its number of rows, if it is stored; None: it is not.
        """
        if skip is not None:
            self.journal.rows += skip()
            self.journal.pieces += 1
        else:
            self.journal.run += 1  # the key of before may yet be known
        self.journal.sent_at_s = 0.0
        self._file.save(self.journal)

    def send(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Send pieces, from the one after those acknowledged; gives back each that is stored.

        Raises:
            RefusedError: the daemon refuses one.
            UnansweredError: it does not take one in time.
            DoubtError: one was sent, not answered, and its key is too old by now.
            ImportStoppedError: the journal cannot be written.
        """
        try:
            for piece in pieces:
                self._send(piece)
                self.journal.pieces += 1
                self.journal.rows += piece.rows
                self.journal.sent_at_s = 0.0
                yield piece
            self.journal.finished = True
        finally:
            self._file.save(self.journal)

    def _send(self, piece: Piece) -> None:
        """Send a piece until it is stored or refused."""
        is_in_doubt = self.journal.sent_at_s > 0  # from a run before this one
        if not is_in_doubt:
            self.journal.sent_at_s = time.time()
        self._file.save(self.journal)
        started_s, wait_s = time.monotonic(), FIRST_WAIT_S
        while True:
            reply = self._post(piece)
            if reply.status in _ACCEPTED:
                return
            if reply.status not in _COME_BACK and reply.status:
                self.journal.sent_at_s = 0.0
                raise RefusedError(f"{reply.status}: {reply.words}")
            is_in_doubt = is_in_doubt or reply.status in (_NO_ANSWER, 409)
            pause_s = wait_s if reply.retry_after_s is None else reply.retry_after_s
            if time.monotonic() + pause_s - started_s > self._patience_s:
                if not is_in_doubt:  # every answer said that the piece is not stored
                    self.journal.sent_at_s = 0.0
                raise UnansweredError(f"{reply.status or 'no answer'}: {reply.words}")
            time.sleep(pause_s)
            wait_s = min(2 * wait_s, LAST_WAIT_S)
            if is_in_doubt:
                self.check_doubt()

    def _post(self, piece: Piece) -> Reply:
        """The answer to a piece; status `_NO_ANSWER` with the reason when none came."""
        path, headers = self._request(piece)
        try:
            return self._client.post(path, headers, piece.body)
        except OSError as error:
            return Reply(_NO_ANSWER, None, msgspec.json.encode({"error": str(error)}))

    def _request(self, piece: Piece) -> tuple[str, dict[str, str]]:
        to = self.journal.destination
        headers = {"Idempotency-Key": self.journal.key(), "x-arc-database": to.database}
        if piece.door == "line-protocol":
            return f"/api/v1/write/line-protocol?precision={to.time_unit or 'ns'}", headers
        if to.time_unit:
            headers["x-arc-time-unit"] = to.time_unit
        # Not in a header: those hold no text but ASCII.
        return f"/api/v1/write/arrow?measurement={quote(to.measurement, safe='')}", headers
