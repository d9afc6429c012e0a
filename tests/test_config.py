"""Settings: where they come from, what they may be, and what is said when they may not."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc import config
from arc.config import Config, ConfigError, Field, fields, load, parse_size

DOCS = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"


def problems(
    flags: dict[str, str | None] | None = None,
    file: Path | None = None,
    environ: dict[str, str] | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, None if file is None else str(file), environ or {})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def toml(folder: Path, text: str) -> Path:
    path = folder / "arc.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_any_source_every_value_is_its_default() -> None:
    loaded = load({}, None, {})
    assert loaded.config == Config()
    assert set(loaded.sources.values()) == {"default"}
    assert set(loaded.sources) == set(Config.__struct_fields__)


def test_environment_wins_over_file_and_flags_win_over_both(tmp_path: Path) -> None:
    file = toml(tmp_path, "port = 1\nworkers = 1\nflush_rows = 1\n")
    environ = {"ARC_WORKERS": "2", "ARC_FLUSH_ROWS": "2"}
    loaded = load({"flush_rows": "3", "port": None}, str(file), environ)
    assert (loaded.config.port, loaded.config.workers, loaded.config.flush_rows) == (1, 2, 3)
    assert loaded.sources["port"] == str(file)
    assert loaded.sources["workers"] == "environment ARC_WORKERS"
    assert loaded.sources["flush_rows"] == "flag --flush-rows"
    assert loaded.sources["host"] == "default"


def test_the_environment_names_the_file_unless_a_flag_does(tmp_path: Path) -> None:
    file = toml(tmp_path, "port = 1\n")
    environ = {"ARC_CONFIG": str(file)}
    assert load({}, None, environ).config.port == 1
    other = tmp_path / "other.toml"
    other.write_text("port = 2\n")
    assert load({}, str(other), environ).config.port == 2


def test_every_setting_can_be_given_in_every_source(tmp_path: Path) -> None:
    lines = []
    for field in fields():
        quoted = field.is_size or field.type is str
        value = field.format(field.default)
        lines.append(f'{field.name} = "{value}"' if quoted else f"{field.name} = {value}")
    texts = {field.name: field.format(field.default) for field in fields()}
    environ = {field.env_name: texts[field.name] for field in fields()}
    assert load({}, str(toml(tmp_path, "\n".join(lines))), {}).config == Config()
    assert load({}, None, environ).config == Config()
    assert load(texts, None, {}).config == Config()


@pytest.mark.parametrize("field", fields(), ids=lambda field: field.name)
def test_every_setting_says_why_and_has_an_allowed_default(field: Field) -> None:
    assert field.setting.reason.endswith(".")
    assert field.allowed
    assert field.setting.unit or field.type is str or field.name.endswith("port")
    if field.name.endswith("_s"):
        assert field.setting.unit == "seconds"
    if field.name.endswith("_bytes"):
        assert field.setting.unit == "bytes"
    if field.type is not str:
        assert field.setting.low <= field.default <= field.setting.high


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("67108864", 2**26),
        ("67_108_864", 2**26),
        ("64MiB", 2**26),
        ("64mib", 2**26),
        (" 64 MiB ", 2**26),
        ("1GiB", 2**30),
        ("1.5GiB", 3 * 2**29),
        ("2TiB", 2**41),
        ("512KB", 512_000),
        ("512 KiB", 2**19),
        ("3MB", 3_000_000),
        ("1GB", 10**9),
        ("1TB", 10**12),
        ("7B", 7),
    ],
)
def test_sizes_are_read_with_their_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 0", "1e3", "1.MiB", "64M", "64Mi", "1 PiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**62))
def test_a_formatted_size_reads_back_as_itself(size: int) -> None:
    assert parse_size(config.format_size(size)) == size


def test_the_largest_value_is_allowed_and_the_next_is_not() -> None:
    assert load({"port": "65535"}, None, {}).config.port == 65_535
    [line] = problems({"port": "65536"})
    assert line == ("port: got '65536' from flag --port; allowed: a whole number from 0 to 65535")
    [line] = problems({"max_columns": str(2**62 + 1)})
    assert line.startswith("max_columns: ")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("port", "eighty", "a whole number from 0 to 65535"),
        ("port", "-1", "a whole number from 0 to 65535"),
        ("port", "80.0", "a whole number from 0 to 65535"),
        ("port", "", "a whole number from 0 to 65535"),
        ("workers", "1025", "a whole number of processes from 0 to 1024"),
        ("flush_rows", "0", "a whole number of rows from 1"),
        ("flush_age_s", "0", "a number of seconds from 0.01 to 86400"),
        ("flush_age_s", "nan", "a number of seconds from 0.01 to 86400"),
        ("keepalive_s", "inf", "a number of seconds from 0.1 to 86400"),
        ("compression", "gzip", "one of none, snappy, lz4, zstd"),
        ("compression", "LZ4", "one of none, snappy, lz4, zstd"),
        ("memory_bytes", "1023KiB", 'a size from 1MiB, such as 67108864 or "64MiB"'),
        ("memory_bytes", "lots", 'a size from 1MiB, such as 67108864 or "64MiB"'),
        ("max_body_bytes", "9" * 400 + ".0", 'a size from 1KiB, such as 67108864 or "64MiB"'),
        ("data_dir", " ", "a path"),
        ("data_dir", "a\0b", "a path"),
        ("log_level", "chatty", "one of debug, info, warning, error"),
    ],
)
def test_a_bad_value_is_one_line_with_key_value_source_and_what_is_allowed(
    name: str, text: str, allowed: str
) -> None:
    env_name = f"ARC_{name.upper()}"
    [line] = problems(environ={env_name: text})
    assert line == f"{name}: got {text!r} from environment {env_name}; allowed: {allowed}"
    assert "\n" not in line


@pytest.mark.parametrize(
    "line",
    [
        'port = "80"',
        "port = true",
        "port = 80.0",
        "port = [80]",
        "flush_age_s = false",
        'flush_age_s = "5"',
        "flush_age_s = nan",
        "compression = 4",
        "data_dir = 1",
        "memory_bytes = 64.5",
        "memory_bytes = 1979-05-27",
        f"flush_rows = {2**80}",
        "host = {}",
    ],
)
def test_a_file_must_use_the_types_of_toml(tmp_path: Path, line: str) -> None:
    file = toml(tmp_path, line)
    [problem] = problems(file=file)
    assert problem.startswith(f"{line.split()[0]}: got ")
    assert f"from {file}; allowed: " in problem


def test_whole_numbers_stand_for_seconds_and_sizes_in_a_file(tmp_path: Path) -> None:
    loaded = load({}, str(toml(tmp_path, "flush_age_s = 2\nmemory_bytes = 67108864\n")), {})
    assert loaded.config.flush_age_s == 2.0
    assert isinstance(loaded.config.flush_age_s, float)
    assert loaded.config.memory_bytes == 2**26


def test_unknown_keys_are_named_with_a_guess(tmp_path: Path) -> None:
    file = toml(tmp_path, "flush_rowz = 1\n[server]\nport = 1\n")
    guess, table = problems(file=file)
    assert guess == (f"flush_rowz: got 1 from {file}; no such setting: did you mean flush_rows?")
    assert table.startswith("server: got {'port': 1} from ")
    assert "arc config" in table
    [line] = problems(environ={"ARC_PROT": "1"})
    assert line == (
        "ARC_PROT: got '1' from the environment; no such setting: did you mean ARC_PORT?"
    )


def test_names_of_the_environment_are_case_sensitive() -> None:
    [line] = problems(environ={"ARC_port": "1"})
    assert line.startswith("ARC_port: ")


def test_variables_for_others_are_left_alone() -> None:
    environ = {"ARC_PYTHON": "/usr/bin/python3", "ARCHIVE": "1", "HOME": "/root"}
    environ |= {"ARC_URL": "http://daemon:8000", "ARC_CLIENT_BATCH_ROWS": "500"}
    assert load({}, None, environ).config == Config()


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    file = toml(tmp_path, "nope = 1\nport = -1\n")
    found = problems({"workers": "x"}, file, {"ARC_NOPE": "1", "ARC_HOST": "0.0.0.0"})
    assert [line.split(":")[0] for line in found] == ["nope", "ARC_NOPE", "host", "port", "workers"]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    [line] = problems(file=tmp_path / "missing.toml")
    assert line == (
        f"config: got {str(tmp_path / 'missing.toml')!r}; cannot read it: No such file or directory"
    )
    [line] = problems(file=toml(tmp_path, "port = \n"))
    assert "not a TOML file" in line
    assert "\n" not in line
    binary = tmp_path / "arc.toml"
    binary.write_bytes(b"\xff\xfe")
    [line] = problems(file=binary)
    assert "not a TOML file" in line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback_hosts_are_allowed(host: str) -> None:
    assert load({"host": host}, None, {}).config.host == host
    assert config.loopback_address(host) in {host, "127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.1", "[::1]", "::1%lo", "128.0.0.1"]
)
def test_other_hosts_are_refused_until_there_are_tokens(host: str) -> None:
    [line] = problems({"host": host})
    assert line == (
        f"host: got {host!r} from flag --host; allowed: a loopback address (127.0.0.0/8, ::1 or "
        "localhost), since there are no tokens yet"
    )


def test_resolving_leaves_nothing_to_look_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = config.resolve(Config(host="localhost"))
    assert resolved.host in {"127.0.0.1", "::1"}
    assert resolved.data_dir == str(tmp_path / "data")
    assert resolved.workers >= 1
    assert config.resolve(resolved) == resolved


def test_memory_is_split_over_the_workers() -> None:
    settings = Config(workers=3, memory_bytes=300 * config.MIB)
    assert settings.num_workers == 3
    assert settings.worker_memory_bytes == 100 * config.MIB


def test_a_body_that_a_worker_could_never_hold_is_over_the_limit() -> None:
    resolved = config.resolve(Config(workers=4, memory_bytes=64 * config.MIB))
    assert resolved.max_body_bytes == 8 * config.MIB  # the other half is for its columns
    assert resolved.max_decompressed_bytes == 8 * config.MIB
    roomy = config.resolve(Config(workers=1))
    assert roomy.max_body_bytes == Config().max_body_bytes


def test_the_log_is_split_over_the_workers() -> None:
    assert Config(workers=3, log_bytes=300 * config.MIB).worker_log_bytes == 100 * config.MIB


@pytest.mark.parametrize(
    ("log_bytes", "workers", "segment_bytes"),
    [
        (4 * config.GIB, 16, 64 * config.MIB),  # as asked
        (4 * config.GIB, 64, 16 * config.MIB),
        (4 * config.MIB, 2, 512 * config.KIB),
        (4 * config.MIB, 1_024, 64 * config.KIB),  # no smaller than that
    ],
)
def test_four_segments_fit_in_the_log_of_a_worker(
    log_bytes: int, workers: int, segment_bytes: int
) -> None:
    resolved = config.resolve(Config(workers=workers, log_bytes=log_bytes))
    assert resolved.log_segment_bytes == segment_bytes


@pytest.mark.parametrize("level", ["memory", "page", "disk"])
def test_each_level_of_durability_can_be_asked_for(level: str) -> None:
    assert load({}, None, {"ARC_DURABILITY": level}).config.durability == level


def test_a_204_survives_a_power_cut_unless_less_is_asked_for() -> None:
    assert load({}, None, {}).config.durability == "disk"
    assert problems({"durability": "disc"}) == [
        "durability: got 'disc' from flag --durability; allowed: one of memory, page, disk"
    ]


def test_a_configuration_survives_json() -> None:
    settings = config.resolve(Config(port=1, flush_age_s=0.25))
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Config) == settings


def test_the_documentation_has_each_setting_with_its_default_unit_and_names() -> None:
    rows = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"`(\w+)`", cells[0]):
            rows[match[1]] = cells
    assert list(rows) == [field.name for field in fields()]
    for field in fields():
        _, env_name, flag, default, unit, reason = rows[field.name]
        assert env_name == f"`{field.env_name}`"
        assert flag == f"`{field.flag}`"
        assert default == f"`{field.format(field.default)}`"
        assert unit == (field.setting.unit or "-")
        assert reason == field.setting.reason


# ------------------------------------------------------------------------------------- secrets

TOKEN = "a-token-of-the-operator"


def test_the_admin_token_is_shown_in_no_table_and_no_text() -> None:
    loaded = load({}, None, {"ARC_ADMIN_TOKEN": TOKEN})
    assert loaded.config.admin_token == TOKEN
    assert loaded.sources["admin_token"] == "environment ARC_ADMIN_TOKEN"
    assert TOKEN not in repr(loaded)
    assert TOKEN not in f"{loaded.config}"
    assert "admin_token" not in {field.name for field in fields()}
    assert config.resolve(loaded.config).admin_token == TOKEN


def test_the_admin_token_comes_from_a_file(tmp_path: Path) -> None:
    assert load({}, str(toml(tmp_path, f'admin_token = "{TOKEN}"')), {}).config.admin_token == TOKEN
    for ending in ("", "\n", "\r\nmore\n"):
        file = tmp_path / "token"
        file.write_bytes(TOKEN.encode() + ending.encode())
        loaded = load({"admin_token_file": str(file)}, None, {})
        assert config.resolve(loaded.config).admin_token == TOKEN


@pytest.mark.parametrize("token", ["short", "x" * 257, "a token with spaces in it", "é" * 20])
def test_a_bad_admin_token_is_refused_and_not_repeated(tmp_path: Path, token: str) -> None:
    allowed = "allowed: 16 to 256 visible characters of ASCII"
    [line] = problems(environ={"ARC_ADMIN_TOKEN": token})
    assert line == f"admin_token: got a value from environment ARC_ADMIN_TOKEN; {allowed}"
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(allowed)) as caught:
        config.resolve(load({"admin_token_file": str(file)}, None, {}).config)
    assert token not in str(caught.value)


def test_a_misspelled_admin_token_is_not_repeated() -> None:
    [line] = problems(environ={"ARC_ADMIN_TOKN": TOKEN})
    assert line.startswith("ARC_ADMIN_TOKN: got a value from the environment; no such setting")


def test_two_admin_tokens_or_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    file = str(tmp_path / "token")
    with pytest.raises(ConfigError, match="No such file"):
        config.resolve(load({"admin_token_file": file}, None, {}).config)
    both = load({"admin_token_file": file}, None, {"ARC_ADMIN_TOKEN": TOKEN})
    with pytest.raises(ConfigError, match="one only"):
        config.resolve(both.config)
