"""`arc quarantine`, as a user runs it, over tables that the pipeline wrote."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner, Result

from arc import quarantine as commands
from arc.runtime import DaemonInfo, DaemonLock, DataDir, WorkerEntry, write_daemon_info
from arc.version import VERSION
from ingest import delta
from ingest.arrow_writer import WriterSettings
from ingest.errors import PayloadError, StorageError, TypeConflictError
from ingest.instruments import null
from ingest.limits import Limits
from ingest.log_format import Format, RecordHead
from ingest.paths import QUARANTINE
from ingest.pipeline import Pipeline, PipelineSettings
from ingest.quarantine import Refused, SiftedBody, rewrite
from ingest.quarantine_table import NOTES_FILE, Kept, ReplayNotes, read_kept
from ingest.testing.msgpack import columnar
from ingest.timestamps import TimeUnit

ARRIVAL_US = 1_700_000_000_000_001
CONFLICT = TypeConflictError("cpu", "v", 0, "utf8 'x'", "int64")
LINE = Refused(
    CONFLICT, b'cpu,host=a v="x"', Format.LINE_PROTOCOL, TimeUnit.NS, measurement="cpu", line=3
)
MAP = Refused(
    PayloadError("why\x1b[31m"), columnar("mem", {"time": [5], "v": [None]}), Format.MSGPACK, None
)
RECORD = Refused(CONFLICT, b'{"resourceLogs":[]}', Format.OTLP_LOGS_JSON, None, "otel_logs")


async def store(root: Path, *requests: tuple[str, str, int, Sequence[Refused]]) -> None:
    """Have the pipeline write what was refused: database, door, arrival, pieces."""
    settings = PipelineSettings(
        data_dir=root,
        shard=0,
        memory_bytes=64 * 2**20,
        min_free_disk_bytes=0,
        writer=WriterSettings(flush_age_s=3_600.0),
        limits=Limits(),
        durability="memory",
    )
    pipeline = Pipeline(settings, null())
    pipeline.start()
    await pipeline.recover()
    for database, door, arrival_us, pieces in requests:
        rewritten = rewrite(SiftedBody([], list(pieces)), door, arrival_us)
        head = RecordHead(Format.MSGPACK, database, TimeUnit.US, arrival_us)
        stored = pipeline.write(head, rewritten.body, rewritten.batches)
        assert (stored if isinstance(stored, int) else await stored) == len(pieces)
    await pipeline.drain()
    pipeline.close()


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    await store(
        tmp_path,
        ("db", "line_protocol", ARRIVAL_US, [LINE]),
        ("Other", "msgpack", ARRIVAL_US + 1, [MAP]),
    )
    return tmp_path


def arc(*arguments: object) -> Result:
    app = typer.Typer()
    commands.register(app)
    app.command()(lambda: None)  # or Typer would take the only group for the program
    return CliRunner().invoke(app, ["quarantine", *map(str, arguments)])


def kept_in(root: Path) -> list[Kept]:
    return sorted(read_kept(root), key=lambda kept: kept.arrival_us)


# --------------------------------------------------------------------------------------- reading


def test_what_was_kept_is_read_back_as_it_was(root: Path) -> None:
    line, one_map = kept_in(root)
    assert (line.database, line.arrival_us, line.door) == ("db", ARRIVAL_US, "line_protocol")
    assert (line.measurement, line.reason, line.line) == ("cpu", "type_conflict", 3)
    assert (line.format, line.time_unit, line.body) == ("line_protocol", "ns", LINE.body)
    assert line.error == str(CONFLICT)
    assert (one_map.database, one_map.measurement, one_map.line) == ("Other", None, None)
    assert (one_map.format, one_map.time_unit, one_map.body) == ("msgpack", None, MAP.body)
    assert [len(kept.id) for kept in (line, one_map)] == [16, 16]


def test_ids_are_the_same_at_every_look_and_different_for_every_piece(root: Path) -> None:
    first = [kept.id for kept in kept_in(root)]
    assert first == [kept.id for kept in kept_in(root)]
    assert len(set(first)) == 2
    assert [kept.id for kept in read_kept(root, "db")] == first[:1]
    assert list(read_kept(root, "none")) == []


async def test_equal_pieces_have_different_ids(tmp_path: Path) -> None:
    await store(tmp_path, ("db", "msgpack", ARRIVAL_US, [MAP, MAP, MAP]))
    ids = [kept.id for kept in read_kept(tmp_path)]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]


def test_a_folder_without_tables_holds_nothing(tmp_path: Path) -> None:
    assert list(read_kept(tmp_path)) == []
    assert list(read_kept(tmp_path / "not there")) == []


def test_a_table_that_cannot_be_read_is_an_error(root: Path) -> None:
    (file,) = root.glob(f"db/{QUARANTINE}/*/*/*/*/*.parquet")
    content = file.read_bytes()
    file.write_bytes(content[:50])
    with pytest.raises(StorageError, match=r"\.parquet"):
        list(read_kept(root))
    file.write_bytes(content)
    for commit in (root / "db" / QUARANTINE / delta.LOG_DIR).iterdir():
        commit.write_bytes(b"{")
    with pytest.raises(StorageError, match="deltalake"):
        list(read_kept(root))
    said = arc("list", "--data-dir", root)
    assert said.exit_code == 2
    assert said.stderr.startswith("arc: deltalake")


def test_notes_are_kept_in_a_private_file_that_only_a_replay_makes(tmp_path: Path) -> None:
    notes = ReplayNotes(tmp_path)
    assert notes.replayed() == set()
    assert not (tmp_path / NOTES_FILE).exists()
    for name in ("a", "b", "a"):
        notes.note(name, ARRIVAL_US)
    assert ReplayNotes(tmp_path).replayed() == {"a", "b"}
    assert (tmp_path / NOTES_FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / NOTES_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=r"notes .*quarantine\.db"):
        notes.replayed()


# ----------------------------------------------------------------------------------- list, show


def test_the_list_says_what_came_where_and_why(root: Path) -> None:
    line, one_map = kept_in(root)
    said = arc("list", "--data-dir", root)
    assert said.exit_code == 0
    assert [text.split() for text in said.stdout.splitlines()] == [
        ["id", "came", "at", "database", "measurement", "door", "line", "reason"],
        f"{line.id} 2023-11-14T22:13:20.000001+00:00 db cpu line_protocol 3 type_conflict".split(),
        str(CONFLICT).split(),
        [one_map.id, "2023-11-14T22:13:20.000002+00:00", "Other", "msgpack", "payload"],
        ["why\\x1b[31m"],
        [],
        ["2", "in", "quarantine."],
    ]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--database", "db"], [b'cpu,host=a v="x"']),
        (["--measurement", "cpu"], [b'cpu,host=a v="x"']),
        (["--reason", "payload"], [MAP.body]),
        (["--reason", "payload", "--database", "db"], []),
    ],
)
def test_the_list_can_be_narrowed(root: Path, options: list[str], found: list[bytes]) -> None:
    said = arc("list", "--data-dir", root, "--json", *options)
    ids = [kept.id for kept in kept_in(root) if kept.body in found]
    assert [entry["id"] for entry in json.loads(said.stdout)] == ids


def test_an_empty_list_says_so(tmp_path: Path) -> None:
    assert arc("list", "--data-dir", tmp_path).stdout == "Nothing is in quarantine.\n"
    assert json.loads(arc("list", "--json", "--data-dir", tmp_path).stdout) == []


def test_json_has_every_column_but_the_body(root: Path) -> None:
    (entry,) = json.loads(arc("list", "--json", "--data-dir", root, "--database", "db").stdout)
    assert entry == {
        "id": kept_in(root)[0].id,
        "database": "db",
        "arrival": "2023-11-14T22:13:20.000001+00:00",
        "door": "line_protocol",
        "measurement": "cpu",
        "reason": "type_conflict",
        "error": str(CONFLICT),
        "format": "line_protocol",
        "time_unit": "ns",
        "line": 3,
        "body_bytes": 16,
    }


def test_a_piece_is_shown_with_the_bytes_that_came(root: Path) -> None:
    line, one_map = kept_in(root)
    said = arc("show", line.id[:6], "--data-dir", root)
    assert said.exit_code == 0
    assert said.stdout.endswith('\n\ncpu,host=a v="x"\n')
    assert f"measurement  cpu\nreason       type_conflict\nerror        {CONFLICT}" in said.stdout
    said = arc("show", one_map.id, "--data-dir", root)
    assert said.stdout.endswith('\n\n{"m":"mem","columns":{"time":[5],"v":[null]}}\n')
    shown = json.loads(arc("show", one_map.id, "--data-dir", root, "--json").stdout)
    assert shown["body_base64"]
    shown = json.loads(arc("show", line.id, "--data-dir", root, "--json").stdout)
    assert shown["body_text"] == 'cpu,host=a v="x"'


async def test_a_body_cannot_command_the_terminal(tmp_path: Path) -> None:
    bodies = [b"\x1b[2Jcpu\nv", b"\xff\xfe"]
    pieces = [Refused(CONFLICT, body, Format.LINE_PROTOCOL, TimeUnit.NS) for body in bodies]
    await store(tmp_path, ("db", "line_protocol", ARRIVAL_US, pieces))
    shown = [arc("show", kept.id, "--data-dir", tmp_path).stdout for kept in read_kept(tmp_path)]
    assert shown[0].endswith("\n\n\\x1b[2Jcpu\nv\n")
    assert shown[1].endswith("\n\n//4=\n")


@pytest.mark.parametrize(("beginning", "count"), [("zz", 0), ("", 2)])
def test_an_id_must_be_that_of_one_piece(root: Path, beginning: str, count: int) -> None:
    said = arc("show", beginning, "--data-dir", root)
    assert said.exit_code == 2
    assert f"{count} rows have an id that begins so, wanted one" in said.stderr


async def test_the_id_of_a_piece_is_not_the_beginning_of_its_double(tmp_path: Path) -> None:
    await store(tmp_path, ("db", "msgpack", ARRIVAL_US, [MAP, MAP]))
    for kept in read_kept(tmp_path):
        assert f"id           {kept.id}\n" in arc("show", kept.id, "--data-dir", tmp_path).stdout


# ---------------------------------------------------------------------------------------- replay


class Sent(msgspec.Struct):
    """One request that the daemon got."""

    path: str
    headers: dict[str, str]
    body: bytes


@contextmanager
def daemon(root: Path, *answers: tuple[int, bytes]) -> Iterator[list[Sent]]:
    """A server in the place of the daemon of this folder; it gives these answers, one by one."""
    sent: list[Sent] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, content = answers[len(sent)]
            sent.append(Sent(self.path, headers, body))
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        where = DataDir(root)
        where.prepare()
        lock = DaemonLock(where.lock)
        write_daemon_info(where.daemon_json, _info(root, server.server_address[1]))
        try:
            yield sent
        finally:
            lock.release()
            server.shutdown()
            thread.join()


def _info(root: Path, port: int) -> DaemonInfo:
    url = f"http://127.0.0.1:{port}"
    since = "2025-01-02T03:04:05Z"
    workers = [WorkerEntry(0, 1)]
    return DaemonInfo(
        os.getpid(), "127.0.0.1", port, url, workers, since, VERSION, "disk", str(root)
    )


def test_pieces_go_to_their_doors_with_the_times_at_which_they_came(root: Path) -> None:
    line, one_map = kept_in(root)
    with daemon(root, (204, b""), (204, b"")) as sent:
        said = arc("replay", line.id, one_map.id, "--data-dir", root)
    assert (said.exit_code, said.stdout) == (0, "2 accepted, 0 refused.\n")
    (to_map, to_line) = sorted(sent, key=lambda request: request.path, reverse=True)
    assert to_line.path == "/api/v1/write/line-protocol?precision=us"
    assert to_line.body == b'cpu,host=a v="x" 1700000000000001'
    assert to_line.headers["x-arc-database"] == "db"
    assert to_line.headers["idempotency-key"] == f"quarantine-{line.id}"
    assert to_map.path == "/api/v1/write/msgpack"
    assert to_map.body == MAP.body
    assert "x-arc-time-unit" not in to_map.headers
    assert to_map.headers["x-arc-database"] == "Other"
    assert {request.headers["x-arc-on-bad-rows"] for request in sent} == {"reject"}


def test_what_was_accepted_is_listed_only_when_asked_for(root: Path) -> None:
    line, one_map = kept_in(root)
    with daemon(root, (204, b"")):
        arc("replay", line.id, "--data-dir", root)
    assert line.id not in arc("list", "--data-dir", root).stdout
    assert one_map.id in arc("list", "--data-dir", root).stdout
    everything = arc("list", "--data-dir", root, "--all-rows").stdout
    assert line.id in everything
    assert everything.endswith("2 in quarantine.\n")
    with daemon(root, (204, b"")) as sent:
        assert arc("replay", "--all", "--data-dir", root).exit_code == 0
    assert [request.body for request in sent] == [MAP.body]


def test_what_is_refused_again_stays_and_is_told(root: Path) -> None:
    line, one_map = kept_in(root)
    with daemon(root, (400, b'{"error": "still\\u001b bad"}'), (204, b"")) as sent:
        said = arc("replay", "--all", "--data-dir", root)
    refused = line if b"cpu" in sent[0].body else one_map
    assert said.exit_code == 1
    assert said.stdout == f"{refused.id}  400: still\\x1b bad\n1 accepted, 1 refused.\n"
    assert refused.id in arc("list", "--data-dir", root).stdout


def test_a_daemon_that_cannot_take_more_is_not_asked_for_more(root: Path) -> None:
    with daemon(root, (503, b'{"error": "disk full"}')) as sent:
        said = arc("replay", "--all", "--data-dir", root)
    assert (said.exit_code, len(sent)) == (1, 1)
    assert "503: disk full\nThe daemon cannot take more now" in said.stdout


async def test_a_record_of_otlp_counts_as_refused_if_its_success_is_partial(
    tmp_path: Path,
) -> None:
    await store(tmp_path, ("db", "otlp_logs", ARRIVAL_US, [RECORD, LINE]))
    partial = b'{"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "no"}}'
    with daemon(tmp_path, (200, partial)) as sent:
        said = arc("replay", "--all", "--measurement", "otel_logs", "--data-dir", tmp_path)
    assert said.exit_code == 1
    assert "200: no\n0 accepted, 1 refused.\n" in said.stdout
    assert (sent[0].path, sent[0].body) == ("/v1/logs", RECORD.body)
    assert sent[0].headers["content-type"] == "application/json"
    whole = b'{"partialSuccess": {"rejectedLogRecords": "0"}}'
    for answer in (whole, b"{}"):
        with daemon(tmp_path, (200, answer)):
            said = arc("replay", "--all", "--measurement", "otel_logs", "--data-dir", tmp_path)
        assert said.exit_code == 0


def test_a_dry_run_sends_nothing(root: Path) -> None:
    with daemon(root) as sent:
        said = arc("replay", "--all", "--dry-run", "--database", "db", "--data-dir", root)
    line = kept_in(root)[0]
    assert said.stdout == (
        f"{line.id}  would be sent to /api/v1/write/line-protocol?precision=us, 33 bytes\n"
    )
    assert (said.exit_code, sent) == (0, [])


@pytest.mark.parametrize("arguments", [[], ["--all", "abc"]])
def test_a_replay_needs_either_ids_or_all(root: Path, arguments: list[str]) -> None:
    said = arc("replay", *arguments, "--data-dir", root)
    assert (said.exit_code, said.stderr) == (2, "arc: name the ids to send again, or --all\n")


def test_a_replay_needs_a_daemon(root: Path) -> None:
    said = arc("replay", "--all", "--data-dir", root)
    assert (said.exit_code, said.stderr) == (2, f"arc: no daemon is running on {root}\n")


def test_a_daemon_that_does_not_answer_is_told(root: Path) -> None:
    where = DataDir(root)
    where.prepare()
    lock = DaemonLock(where.lock)
    write_daemon_info(where.daemon_json, _info(root, 1))
    said = arc("replay", "--all", "--data-dir", root)
    lock.release()
    assert said.exit_code == 2
    assert "http://127.0.0.1:1 does not answer: " in said.stderr
    assert "0 were accepted before" in said.stderr


def test_a_table_that_somebody_else_wrote_is_read_with_what_it_has(tmp_path: Path) -> None:
    import deltalake

    rows = pa.table(
        {"time": pa.array([5], pa.timestamp("us", "UTC")), "body": pa.array([None], pa.binary())}
    )
    deltalake.write_deltalake(str(tmp_path / "db" / QUARANTINE), rows)
    (kept,) = read_kept(tmp_path)
    assert (kept.arrival_us, kept.body, kept.door, kept.reason) == (5, b"", "", "")
