"""Names to folders and back: readable, safe on every file system, never shared."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.errors import InvalidNameError
from ingest.paths import (
    HOUR_US,
    MAX_FOLDER_BYTES,
    LogRange,
    TableId,
    check_database,
    check_measurement,
    file_name,
    hour_dir,
    hour_start_us,
    parse_file_name,
    table_dir,
    table_from_dir,
)

MEASUREMENTS = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=128
) | st.text("aA.%@~_ /éÉ\u0301\u0130ß", min_size=1, max_size=128)
DATABASES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,63}", fullmatch=True)
ESCAPED = re.compile(r"(?:[a-z0-9_.-]|@[0-9A-F]{2})+")
SHORTENED = re.compile(r"(?:[a-z0-9_.-]|@[0-9A-F]{2})*@@[a-z2-7]{52}")
YEAR_1900_US = -2_208_988_800_000_000
YEAR_2263_US = 9_246_182_400_000_000


def folder(measurement: str) -> str:
    return table_dir(TableId("db", measurement)).removeprefix("db/")


def folded(name: str) -> set[str]:
    """The directory entries that file systems may see behind a name."""
    forms = {name, name.casefold(), name.lower(), name.upper()}
    return {unicodedata.normalize(form, f) for f in forms for form in ("NFC", "NFD", "NFKC")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", "cpu"),
        ("win.cpu", "win.cpu"),
        ("_internal", "_internal"),
        ("1min", "1min"),
        ("a-b", "a-b"),
        ("disk/io", "disk@2Fio"),
        ("a\\b", "a@5Cb"),
        ("Foo", "@46oo"),
        ("a b", "a@20b"),
        ("a ", "a@20"),
        ("50%", "50@25"),
        ("~x", "@7Ex"),
        ("é", "@C3@A9"),
        ("e\u0301", "e@CC@81"),
        (".", "@2E"),
        ("..", "@2E@2E"),
        ("...", "@2E.@2E"),
        (".arc", "@2Earc"),
        (".hidden", "@2Ehidden"),
        ("end.", "end@2E"),
        ("_delta_log", "@5Fdelta_log"),
        ("_delta_log2", "_delta_log2"),
        ("con", "@63on"),
        ("CON", "@43@4F@4E"),
        ("nul.tar.gz", "@6Eul.tar.gz"),
        ("com1", "@63om1"),
        ("lpt9.x", "@6Cpt9.x"),
        ("console", "console"),
        ("com10", "com10"),
    ],
)
def test_a_measurement_keeps_a_readable_folder_that_is_safe_everywhere(
    name: str, expected: str
) -> None:
    assert folder(name) == expected
    assert table_from_dir(f"db/{expected}") == TableId("db", name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("default", "default"), ("Prod", "@50rod"), ("aux", "@61ux"), ("A-b_9", "@41-b_9")],
)
def test_a_database_is_spelled_by_the_same_rules(name: str, expected: str) -> None:
    assert table_dir(TableId(name, "cpu")) == f"{expected}/cpu"
    assert table_from_dir(f"{expected}/cpu") == TableId(name, "cpu")


@given(DATABASES, MEASUREMENTS)
@example("d", "con." + "A" * 124)
@example("d", "." + "\U0010ffff" * 127)
@example("D" * 64, "中" * 28)
@example("D" * 64, "中" * 29)
def test_every_allowed_name_has_a_folder_of_bounded_length_and_plain_characters(
    database: str, measurement: str
) -> None:
    table = TableId(database, measurement)
    path = table_dir(table)
    for part in path.split("/"):
        assert len(part.encode()) <= MAX_FOLDER_BYTES
        assert ESCAPED.fullmatch(part) or SHORTENED.fullmatch(part)
        assert part[0] != "."
        assert part[-1] not in ". "
        assert part.partition(".")[0] not in {"con", "prn", "aux", "nul", "com1", "lpt1"}
    if "@@" in path:
        assert len("".join(f"@{byte:02X}" for byte in measurement.encode())) > MAX_FOLDER_BYTES
        assert table_from_dir(path) is None
    else:
        assert table_from_dir(path) == table


@given(st.data())
def test_names_that_differ_only_in_case_or_normal_form_never_share_a_folder(
    data: st.DataObject,
) -> None:
    name = data.draw(MEASUREMENTS)
    alike = sorted(other for other in folded(name) if 1 <= len(other) <= 128)
    other = data.draw(st.sampled_from([*alike, name.swapcase()[:128], name.title()[:128]]))
    if other != name:
        assert not folded(folder(name)) & folded(folder(other))


@given(MEASUREMENTS, MEASUREMENTS)
def test_different_names_never_share_a_folder(one: str, two: str) -> None:
    assert (one == two) == bool(folded(folder(one)) & folded(folder(two)))


def test_long_names_that_begin_alike_stay_apart() -> None:
    names = ["中" * 127 + end for end in "一二三"] + ["A" * 128, "A" * 127, "a" * 128]
    assert len({folder(name) for name in names}) == len(names)
    assert folder("a" * 128) == "a" * 128


@pytest.mark.parametrize(
    "path",
    [
        "db",
        "db/",
        "/cpu",
        "db/cpu/2026",
        "db/Cpu",
        "db/@63pu",
        "db/@2fx",
        "db/@zz",
        "db/@FF",
        "db/.arc",
        "db/_delta_log",
        "1db/cpu",
        "db/a~b",
        "db/\x00",
    ],
)
def test_a_folder_that_no_name_leads_to_is_nobodys(path: str) -> None:
    assert table_from_dir(path) is None


@pytest.mark.parametrize("name", ["", "1db", "-db", "_db", "a.b", "a/b", "é", "a" * 65, "a\n"])
def test_a_database_outside_its_pattern_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidNameError, match="wanted 1 to 64 characters, first a letter"):
        check_database(name)
    with pytest.raises(InvalidNameError):
        table_dir(TableId(name, "cpu"))


@pytest.mark.parametrize("name", ["a", "A", "a-_9", "a" * 64])
def test_a_database_inside_its_pattern_is_allowed(name: str) -> None:
    check_database(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "0 characters, wanted 1 to 128"),
        ("m" * 129, "129 characters, wanted 1 to 128"),
        ("a\x00", r"character 1 is U\+0000"),
        ("\n", r"character 0 is U\+000A"),
        ("ab\x7f", r"character 2 is U\+007F"),
        ("\x85", r"character 0 is U\+0085"),
        ("a\udc80", r"character 1 is U\+DC80"),
    ],
)
def test_a_measurement_that_cannot_be_stored_is_refused_with_the_reason(
    name: str, message: str
) -> None:
    with pytest.raises(InvalidNameError, match=message):
        check_measurement(name)


def test_a_refusal_never_repeats_an_endless_name() -> None:
    with pytest.raises(InvalidNameError) as refusal:
        check_measurement("x" * 1_000_000)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (0, "1970/01/01/00"),
        (HOUR_US - 1, "1970/01/01/00"),
        (HOUR_US, "1970/01/01/01"),
        (-1, "1969/12/31/23"),
        (-HOUR_US, "1969/12/31/23"),
        (-HOUR_US - 1, "1969/12/31/22"),
        (YEAR_1900_US, "1900/01/01/00"),
        (YEAR_2263_US - 1, "2262/12/31/23"),
        (1_709_164_800_000_000, "2024/02/29/00"),
    ],
)
def test_the_hour_folder_is_that_of_the_row_also_before_1970(moment: int, expected: str) -> None:
    assert hour_dir(moment) == expected
    assert hour_start_us(expected) == moment // HOUR_US * HOUR_US


@given(st.integers(YEAR_1900_US, YEAR_2263_US - 1))
def test_an_hour_folder_says_when_its_hour_began(moment: int) -> None:
    start_us = hour_start_us(hour_dir(moment))
    assert start_us is not None
    assert start_us <= moment < start_us + HOUR_US
    assert hour_dir(moment) == datetime.fromtimestamp(start_us // 1_000_000, UTC).strftime(
        "%Y/%m/%d/%H"
    )


@pytest.mark.parametrize(
    "path", ["", "1970/1/1/0", "1970/02/30/00", "1970/01/01/24", "0000/01/01/00", "x/1970/01/01/00"]
)
def test_a_path_that_is_no_hour_is_none(path: str) -> None:
    assert hour_start_us(path) is None


def test_a_file_is_named_after_shard_epoch_and_sequence() -> None:
    assert file_name(0, 1, 1, 42) == "s000-e000001-000000000001-000000000042.parquet"


@given(*[st.integers(0, 2**63 - 1)] * 4)
def test_a_file_name_reads_back(shard: int, epoch: int, first_seq: int, last_seq: int) -> None:
    expected = LogRange(shard, epoch, first_seq, last_seq)
    assert parse_file_name(file_name(shard, epoch, first_seq, last_seq)) == expected


@given(st.lists(st.tuples(*[st.integers(0, 999)] * 4), min_size=1))
def test_file_names_sort_as_their_numbers_do(numbers: list[tuple[int, int, int, int]]) -> None:
    assert [file_name(*n) for n in sorted(numbers)] == sorted(file_name(*n) for n in numbers)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "part-0.parquet",
        "s000-e000001-000000000001-000000000042.parquet.tmp",
        ".s000-e000001-000000000001-000000000042.parquet",
        "s00-e000001-000000000001-000000000042.parquet",
        "s0000-e000001-000000000001-000000000042.parquet",
        "s000-e000001-000000000001-٠٠٠٠٠٠٠٠٠٠٤٢.parquet",
        "s000-e000001-000000000001-000000000042.parquet\n",
    ],
)
def test_a_file_name_that_is_not_ours_is_none(name: str) -> None:
    assert parse_file_name(name) is None
