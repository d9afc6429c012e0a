"""Settings: a TOML file, then the environment, then flags, into one frozen `Config`.

The struct below is the one table of settings: `arc serve --help`, `arc config`, the checks and
docs/configuration.md all follow it. This is the only module that reads the environment
(`arc.template` sets a variable of it, for a library), and nothing here opens a socket, makes a
folder or looks at the machine beyond its number of cores and the address of `localhost`.

Whatever is wrong is collected, and `ConfigError` carries one line for each: the key, the value,
where it came from, and what is allowed.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import msgspec

#: Characters of the admin token.
MIN_TOKEN, MAX_TOKEN = 16, 256

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40

#: Upper bound of numbers that have none of their own: they stay int64 in every language.
NO_LIMIT = 2**62

#: A worker's share of the log holds at least this many segments, unless they get this small.
SEGMENTS_IN_LOG, MIN_SEGMENT_BYTES = 4, 64 * KIB

ENV_PREFIX = "ARC_"
#: Variables with our prefix that are no settings of the daemon: the TOML file, the Python of
#: start.sh, and what producers read (arc/client/settings.py).
OTHER_ENV_NAMES = frozenset({"ARC_CONFIG", "ARC_PYTHON", "ARC_URL", "ARC_TOKEN", "ARC_DATABASE"})
CLIENT_ENV_PREFIX = "ARC_CLIENT_"

_SIZE_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB,
}  # fmt: skip
_SIZE = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([KMGT]?i?B|)", re.IGNORECASE)
_LOOPBACK = "a loopback address (127.0.0.0/8, ::1 or localhost), since there are no tokens yet"


class ConfigError(Exception):
    """The settings do not describe a daemon. `problems` has one line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field of `Config` means and may hold.

    Attributes:
        unit: Of the number; "bytes" also admits text such as "64MiB". Empty for a word.
        reason: What the setting does, and why its default is what it is.
        low: Smallest value.
        high: Largest value.
        choices: The only words allowed, if any.
        secret: Has no flag, which `ps` would show, and is shown nowhere.
    """

    unit: str
    reason: str
    low: float = 0
    high: float = NO_LIMIT
    choices: tuple[str, ...] = ()
    secret: bool = False


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every setting of the daemon, as it will run. `load` makes one."""

    host: Annotated[
        str,
        Setting(
            "",
            "Address to listen on. Loopback only, since every client that can reach the port "
            "may write until there are tokens.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Setting(
            "",
            "Port to listen on, the one that existing clients expect; 0 takes any free one.",
            high=65_535,
        ),
    ] = 8000
    otlp_port: Annotated[
        int,
        Setting(
            "",
            "Port that takes OTLP alone, for exporters that are set up for 4318; 0 opens none. "
            "OTLP is taken on the main port in any case.",
            high=65_535,
        ),
    ] = 0
    data_dir: Annotated[
        str,
        Setting(
            "",
            "Folder of the tables, and of the daemon's own state in .arc. Relative to the "
            "working directory, so that a first run needs no rights elsewhere.",
        ),
    ] = "data"
    workers: Annotated[
        int,
        Setting(
            "processes",
            "Shards, each with its own event loop and buffers; 0 means one per core, which is "
            "what keeps every core busy and no more.",
            high=1_024,
        ),
    ] = 0
    durability: Annotated[
        str,
        Setting(
            "",
            "What a 204 stands for. disk: the rows survive a power cut; page: they survive the "
            "kill of the daemon; memory: nothing, until they are flushed. One sync covers all "
            "requests that wait for it, so that the safe level is the default.",
            choices=("memory", "page", "disk"),
        ),
    ] = "disk"
    log_segment_bytes: Annotated[
        int,
        Setting(
            "bytes",
            "Size of one file of the log, made in advance and used again once all its rows are "
            "stored. Larger ones are held longer by a few rows that wait, smaller ones are "
            "changed more often. A worker whose share of log_bytes is below four of them takes "
            "smaller ones.",
            low=MIN_SEGMENT_BYTES,
            high=GIB,
        ),
    ] = 64 * MIB
    log_bytes: Annotated[
        int,
        Setting(
            "bytes",
            "Log of rows that are not stored yet, of the whole daemon, split evenly over its "
            "workers. Beyond it the oldest rows are flushed at once, and beyond 1.25 times it "
            "clients are told 503: it bounds the disk that the log takes and the time that a "
            "start takes to read it, some 40 s at 100 MB/s.",
            low=4 * MIB,
        ),
    ] = 4 * GIB
    idempotency_window_s: Annotated[
        float,
        Setting(
            "seconds",
            "How long an Idempotency-Key is remembered, restarts included. Longer than clients "
            "commonly retry; each key is kept in memory and on disk meanwhile.",
            low=1,
            high=86_400,
        ),
    ] = 600.0
    on_bad_rows: Annotated[
        str,
        Setting(
            "",
            "What to do with a request of which some rows fit no table. reject: answer 400 and "
            "store nothing; quarantine: answer 204, store the good rows, and keep the others "
            "with the reason in the table _quarantine, so that an agent that repeats every "
            "refusal for ever is not stuck. The header x-arc-on-bad-rows goes before it.",
            choices=("reject", "quarantine"),
        ),
    ] = "reject"
    flush_rows: Annotated[
        int,
        Setting(
            "rows",
            "A measurement with this many rows in a shard is written to files. More rows make "
            "larger files, which readers open faster, and hold more memory.",
            low=1,
        ),
    ] = 1_000_000
    flush_age_s: Annotated[
        float,
        Setting(
            "seconds",
            "A row is written at the latest this long after it was accepted, whatever the "
            "load: at the durability level of memory, the most that a crash can lose.",
            low=0.01,
            high=86_400,
        ),
    ] = 5.0
    flush_threads: Annotated[
        int,
        Setting(
            "threads per worker",
            "Threads that build and write files beside the event loop. While one waits for the "
            "disk to sync, the other encodes: 9.5 -> 11.2 M records/s for one worker.",
            low=1,
            high=64,
        ),
    ] = 2
    compression: Annotated[
        str,
        Setting(
            "",
            "Codec of the Parquet files. lz4 writes a quarter less than none for a sixth more "
            "time, zstd another quarter less for a third more.",
            choices=("none", "snappy", "lz4", "zstd"),
        ),
    ] = "lz4"
    memory_bytes: Annotated[
        int,
        Setting(
            "bytes",
            "Memory for request bodies and rows that wait for their file, of the whole daemon, "
            "split evenly over its workers. Beyond it clients are told 503 and to come back.",
            low=MIB,
        ),
    ] = GIB
    max_body_bytes: Annotated[
        int,
        Setting(
            "bytes",
            "Largest request body on the wire; a larger one is a 413. Some 1.2 million records of "
            "55 bytes, and what collectors of OpenTelemetry send at the most.",
            low=KIB,
        ),
    ] = 64 * MIB
    max_decompressed_bytes: Annotated[
        int,
        Setting(
            "bytes",
            "Largest request body after decompression; a larger one is a 413. Four times the "
            "wire: more than measurements compress, far less than a bomb does.",
            low=KIB,
            high=2 * GIB - 1,  # offsets of strings are 32 bits
        ),
    ] = 128 * MIB
    max_measurements: Annotated[
        int,
        Setting(
            "measurements per database",
            "Measurements of one database. Each has a folder, a buffer and its own files, so "
            "that names made up by a faulty client would fill disk and memory.",
            low=1,
        ),
    ] = 10_000
    max_columns: Annotated[
        int,
        Setting(
            "columns per measurement",
            "Columns of one measurement. Each is an entry in the schema of every file.",
            low=1,
        ),
    ] = 2_000
    max_hours: Annotated[
        int,
        Setting(
            "hours per request",
            "Hours that the rows of one request may cover, each of which becomes a file.",
            low=1,
        ),
    ] = 1_000
    max_elements: Annotated[
        int,
        Setting(
            "objects per request",
            "Objects that the general decoder may build for one request, some 80 bytes each. "
            "Bodies of plain columns need none; eight million empty maps fit in 8 MB.",
            low=1,
        ),
    ] = 2_000_000
    min_free_disk_bytes: Annotated[
        int,
        Setting(
            "bytes",
            "With less free space than this on the disk of data_dir, writes are answered 503 "
            "until space returns: room to flush what was accepted.",
        ),
    ] = 256 * MIB
    query_concurrency: Annotated[
        int,
        Setting(
            "queries",
            "Queries in SQL that run at the same time; others wait for 10 s, and are then told "
            "503. With 0 there is no process for them.",
            high=256,
        ),
    ] = 4
    query_threads: Annotated[
        int,
        Setting(
            "threads",
            "Threads that all queries run on together, beside the workers; 0 means one for each "
            "core that they may use.",
            high=1_024,
        ),
    ] = 0
    query_memory_bytes: Annotated[
        int,
        Setting(
            "bytes",
            "Memory that all queries may take together, beside memory_bytes; what needs more is "
            "refused. Nothing is spilled to disk.",
            low=64 * MIB,
        ),
    ] = 512 * MIB
    query_timeout_s: Annotated[
        float,
        Setting(
            "seconds",
            "Time that a query may work, and that its client may leave the answer unread.",
            low=0.1,
            high=86_400,
        ),
    ] = 30.0
    query_max_rows: Annotated[
        int,
        Setting(
            "rows",
            "Most rows of an answer in JSON or MessagePack, which is made in memory. Arrow is "
            "streamed and has no limit.",
            low=1,
        ),
    ] = 1_000_000
    query_spare_cores: Annotated[
        int,
        Setting(
            "cores",
            "Cores that no query runs on, so that a write never waits for one; queries keep at "
            "least one. With 0 a query alone is faster, and the slowest writes beside four of "
            "them take twice as long as without. Linux only.",
            high=1_024,
        ),
    ] = 1
    query_nice: Annotated[
        int,
        Setting(
            "steps",
            "How far queries stand back behind the workers where both want a core, as nice(1) "
            "has it. 5 gives a worker three times the share of a query, and queries all that "
            "workers leave.",
            high=19,
        ),
    ] = 5
    compact_interval_s: Annotated[
        float,
        Setting(
            "seconds",
            "Pause between two looks for small files of hours and days that are over, which are "
            "merged by a process at the lowest priority; with 0 there is none, and `arc compact` "
            "does it by hand. A look at tables that did not change costs half a second of a core.",
            high=86_400,
        ),
    ] = 300.0
    compact_older_than_s: Annotated[
        float,
        Setting(
            "seconds",
            "How long ago an hour or a day must have ended before its files are merged: most of "
            "what comes late has come by then.",
            high=31_536_000,
        ),
    ] = 300.0
    retention_interval_s: Annotated[
        float,
        Setting(
            "seconds",
            "How often retention policies are applied; 0 means never by itself. Rows go by whole "
            "hours or days, so that more often finds nothing.",
            high=86_400,
        ),
    ] = 600.0
    continuous_query_interval_s: Annotated[
        float,
        Setting(
            "seconds",
            "How often the daemon looks for windows of continuous queries that are due; 0 means "
            "never: they are executed by hand alone. A look takes a millisecond, and a window "
            "begins to be executed so much later at the most.",
            high=86_400,
        ),
    ] = 10.0
    continuous_query_delay_s: Annotated[
        float,
        Setting(
            "seconds",
            "How long after its end a window of a continuous query is executed: the time that "
            "late rows have. Three times the 10 s that agents commonly collect for.",
            high=86_400,
        ),
    ] = 30.0
    keepalive_s: Annotated[
        float,
        Setting(
            "seconds",
            "An idle connection is closed after this long. Longer than the 60 s that proxies "
            "commonly keep theirs, so that they close first and no request is lost to a race.",
            low=0.1,
            high=86_400,
        ),
    ] = 75.0
    header_timeout_s: Annotated[
        float,
        Setting(
            "seconds",
            "Time for the headers of a request to arrive, from its first byte. Against clients "
            "that hold connections open with half a request.",
            low=0.1,
            high=3_600,
        ),
    ] = 5.0
    body_timeout_s: Annotated[
        float,
        Setting(
            "seconds",
            "Time for the body of a request to arrive. 64 MiB at 9 Mbit/s.",
            low=0.1,
            high=86_400,
        ),
    ] = 60.0
    shutdown_timeout_s: Annotated[
        float,
        Setting(
            "seconds",
            "Time for the workers to write what they hold after SIGTERM; then they are killed, "
            "and at the durability level of memory their rows are lost; at the others they "
            "are in the log, and the next start stores them.",
            low=0.1,
            high=86_400,
        ),
    ] = 30.0
    admin_token: Annotated[
        str,
        Setting(
            "",
            "What lets the operator use the paths below /debug; empty: nobody may.",
            secret=True,
        ),
    ] = ""
    admin_token_file: Annotated[
        str,
        Setting(
            "",
            "File that holds the admin token, which lets the operator use the paths below /debug. "
            "Empty: ARC_ADMIN_TOKEN, or admin_token in the TOML file, may hold it instead; without "
            "any of them nobody may use those paths.",
        ),
    ] = ""
    log_level: Annotated[
        str,
        Setting(
            "",
            "Events below this level are not logged.",
            choices=("debug", "info", "warning", "error"),
        ),
    ] = "info"
    log_format: Annotated[
        str,
        Setting(
            "",
            "auto writes for people when standard error is a terminal, else one JSON object a "
            "line.",
            choices=("auto", "console", "json"),
        ),
    ] = "auto"

    def __repr__(self) -> str:
        """All settings but secrets."""
        hidden = {field.name for field in secrets()}
        pairs = msgspec.structs.asdict(self).items()
        shown = (f"{name}={'...' if name in hidden else repr(value)}" for name, value in pairs)
        return f"Config({', '.join(shown)})"

    @property
    def num_workers(self) -> int:
        """Number of workers, with 0 read as one per core."""
        return self.workers or _num_cores()

    @property
    def worker_memory_bytes(self) -> int:
        """One worker's share of `memory_bytes`."""
        return self.memory_bytes // self.num_workers

    @property
    def worker_log_bytes(self) -> int:
        """One worker's share of `log_bytes`."""
        return self.log_bytes // self.num_workers


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the table of settings."""

    name: str
    type: type
    setting: Setting
    default: Any

    @property
    def env_name(self) -> str:
        """Its name in the environment."""
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_size(self) -> bool:
        """Whether text such as "64MiB" is a value of it."""
        return self.setting.unit == "bytes"

    @property
    def allowed(self) -> str:
        """What the field may hold, in words."""
        setting = self.setting
        if self.name == "host":
            return _LOOPBACK
        if self.setting.secret:
            return f"{MIN_TOKEN} to {MAX_TOKEN} visible characters of ASCII"
        if self.type is str:
            return "one of " + ", ".join(setting.choices) if setting.choices else "a path"
        if self.is_size:
            return f'a size from {format_size(int(setting.low))}, such as 67108864 or "64MiB"'
        what = "a whole number" if self.type is int else "a number"
        unit = f" of {setting.unit}" if setting.unit else ""
        upper = f" to {setting.high:.0f}" if setting.high < NO_LIMIT else ""
        return f"{what}{unit} from {setting.low:g}{upper}"

    def format(self, value: Any) -> str:
        """A value as help texts and `arc config` show it."""
        if self.is_size:
            return format_size(value)
        return f"{value:g}" if isinstance(value, float) else str(value)


def fields() -> tuple[Field, ...]:
    """The table of settings that may be shown, in the order of `Config`."""
    return tuple(field for field in _all_fields() if not field.setting.secret)


def secrets() -> tuple[Field, ...]:
    """The other settings: in the environment and the file only, and never shown."""
    return tuple(field for field in _all_fields() if field.setting.secret)


@functools.cache
def _all_fields() -> tuple[Field, ...]:
    hints = get_type_hints(Config, include_extras=True)
    defaults = msgspec.structs.asdict(Config())
    rows = ((name, *get_args(hints[name]), value) for name, value in defaults.items())
    return tuple(Field(name, kind, setting, value) for name, kind, setting, value in rows)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where each value of it came from: a phrase for people, by field."""

    config: Config
    sources: dict[str, str]


class _Given(NamedTuple):
    """A value as it was written somewhere."""

    value: Any
    source: str
    is_text: bool  # numbers come as text from the environment and flags, not from TOML


def load(
    flags: Mapping[str, str | None] | None = None,
    config_file: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Put the settings together: file < environment < flags.

    Args:
        flags: By field name, as typed; None where the flag was not given.
        config_file: TOML file; without it, the one that `ARC_CONFIG` names, if any.
        environ: Instead of the process's environment.

    Raises:
        ConfigError: unknown keys, bad values, an unreadable file; all of them at once.
    """
    environ = os.environ if environ is None else environ
    path = config_file if config_file is not None else environ.get("ARC_CONFIG")
    problems: list[str] = []
    given: dict[str, _Given] = {}
    if path is not None:
        given |= _from_file(path, problems)
    given |= _from_environment(environ, problems)
    given |= _from_flags(flags or {})
    values = _checked(given, problems)
    if problems:
        raise ConfigError(problems)
    sources = dict.fromkeys((f.name for f in _all_fields()), "default")
    sources |= {name: found.source for name, found in given.items()}
    return Loaded(Config(**values), sources)


def resolve(config: Config) -> Config:
    """The configuration as workers run it: nothing left to look up.

    The address becomes numeric, `data_dir` absolute, `workers` a number, and the admin token is
    read from its file. A body limit above
    one worker's memory is cut to it: such a body could never be admitted, so its client must
    hear 413 rather than 503 for ever. Segments are small enough for four of them in a worker's
    share of the log: one in use is never free, and should not be most of it.
    """
    share = config.worker_memory_bytes // 2  # the other half is for the columns in it
    return msgspec.structs.replace(
        config,
        host=loopback_address(config.host),
        data_dir=str(Path(config.data_dir).absolute()),
        workers=config.num_workers,
        admin_token=_admin_token(config),
        max_body_bytes=min(config.max_body_bytes, share),
        max_decompressed_bytes=min(config.max_decompressed_bytes, share),
        log_segment_bytes=min(
            config.log_segment_bytes,
            max(config.worker_log_bytes // SEGMENTS_IN_LOG, MIN_SEGMENT_BYTES),
        ),
    )


def loopback_address(host: str) -> str:
    """The numeric address of a host that only this machine can reach.

    Raises:
        ValueError: it is not one.
        OSError: `localhost` does not resolve.
    """
    if host == "localhost":
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = sorted((str(entry[4][0]) for entry in found), key=lambda a: ":" in a)
    else:
        addresses = [host]
    for address in addresses:
        if "%" not in address and ipaddress.ip_address(address).is_loopback:
            return address
    raise ValueError(f"{host!r} is not a loopback address")


def _admin_token(config: Config) -> str:
    """The token, from its file if there is one."""
    path = config.admin_token_file
    if not path:
        return config.admin_token
    if config.admin_token:
        raise ConfigError([f"admin_token_file: got {path!r}; admin_token is set as well: one only"])
    try:
        with Path(path).open(encoding="ascii") as file:
            return _token(file.readline(MAX_TOKEN + 2).rstrip("\r\n"))
    except OSError as error:
        problem = f"cannot read it: {error.strerror}"
    except ValueError:
        [field] = (field for field in secrets() if field.name == "admin_token")
        problem = f"its first line is no token; allowed: {field.allowed}"
    raise ConfigError([f"admin_token_file: got {path!r}; {problem}"])


def _token(text: str) -> str:
    """A token that is hard to guess, and that a header can carry.

    Raises:
        ValueError: it is not one.
    """
    if not MIN_TOKEN <= len(text) <= MAX_TOKEN or not all("!" <= c <= "~" for c in text):
        raise ValueError("not a token")
    return text


def parse_size(text: str) -> int:
    """Bytes of a size such as "67108864", "64MiB", "512 KB" or "1.5GiB".

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size")
    number, unit = match.groups()
    factor = _SIZE_UNITS[unit.upper()]
    return int(float(number) * factor) if "." in number else int(number) * factor


def format_size(size_bytes: int) -> str:
    """A size as `parse_size` reads it, in the largest binary unit that is exact."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def _num_cores() -> int:
    """Cores that this process may run on, which a container can make fewer than exist."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _from_file(path: str, problems: list[str]) -> dict[str, _Given]:
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"config: got {path!r}; cannot read it: {error.strerror}")
        return {}
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        problems.append(f"config: got {path!r}; not a TOML file: {error}")
        return {}
    names = {field.name: field for field in _all_fields()}
    problems.extend(_unknown(k, v, path, names) for k, v in table.items() if k not in names)
    return {key: _Given(table[key], path, False) for key in names if key in table}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    names = {field.env_name: field for field in _all_fields()}
    prefixed = {name for name in environ if name.startswith(ENV_PREFIX)} - OTHER_ENV_NAMES
    ours = {name for name in prefixed if not name.startswith(CLIENT_ENV_PREFIX)}
    problems.extend(
        _unknown(name, environ[name], "the environment", names)
        for name in sorted(ours - names.keys())
    )
    return {
        field.name: _Given(environ[name], f"environment {name}", True)
        for name, field in names.items()
        if name in ours
    }


def _from_flags(flags: Mapping[str, str | None]) -> dict[str, _Given]:
    names = {field.name: field.flag for field in fields()}
    return {
        name: _Given(value, f"flag {names[name]}", True)
        for name, value in flags.items()
        if value is not None
    }


def _unknown(written: str, value: Any, source: str, names: Mapping[str, Field]) -> str:
    close = difflib.get_close_matches(written, names, n=1)
    hint = f"did you mean {close[0]}?" if close else "`arc config` lists them"
    shown = "a value" if close and names[close[0]].setting.secret else repr(value)
    return f"{written}: got {shown} from {source}; no such setting: {hint}"


def _checked(given: Mapping[str, _Given], problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in _all_fields():
        if field.name not in given:
            continue
        raw, source, is_text = given[field.name]
        try:
            values[field.name] = (
                _word(field, raw) if field.type is str else _number(field, raw, is_text)
            )
        except (ValueError, OverflowError, OSError):
            shown = "a value" if field.setting.secret else repr(raw)
            problems.append(f"{field.name}: got {shown} from {source}; allowed: {field.allowed}")
    return values


def _word(field: Field, raw: Any) -> str:
    if raw == field.default == "":
        return ""
    if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
        raise ValueError("not a word")
    if field.setting.choices and raw not in field.setting.choices:
        raise ValueError("not one of the choices")
    if field.name == "host":
        loopback_address(raw)
    if field.setting.secret:
        _token(raw)
    return raw


def _number(field: Field, raw: Any, is_text: bool) -> int | float:
    if isinstance(raw, str) and field.is_size:
        raw = parse_size(raw)
    elif isinstance(raw, str) and is_text:
        raw = field.type(raw)
    elif isinstance(raw, bool) or not isinstance(raw, int | field.type):
        raise ValueError("not a number")
    number: int | float = field.type(raw)
    if not field.setting.low <= number <= field.setting.high:  # refuses NaN, too
        raise ValueError("out of bounds")
    return number
