"""Names as real agents send them: each keeps its own folder, and none leads out of the data."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ingest.paths import TableId, table_from_dir
from ingest.testing import forms
from tests.e2e import files
from tests.e2e.client import Client, columnar
from tests.support.daemon import Daemon

pytestmark = pytest.mark.e2e

Stored = Callable[..., dict[str, list[Any]]]

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
NAMES = [
    *("win.cpu", "disk/io", "_internal", "1min", "Foo", "foo", COMPOSED, DECOMPOSED),
    *("..", ".", "../up", "../../etc/passwd", "/etc/passwd", "a/../../../b", ".arc", ".hidden"),
    *("a b", "a%2Fb", "a@2Fb", "a\\b", "C:", "con", "NUL", "nul.txt", "_delta_log", "x.parquet"),
    *("*", "?", "'; DROP TABLE x; --", '"', "$HOME", "`id`", "中文", "🙂", "a" * 128, "中" * 128),
]


def test_every_name_keeps_a_folder_of_its_own_and_survives_the_round_trip(
    client: Client, database: str, stored: Stored, data_dir: Path
) -> None:
    client.write([columnar(name, n=[number]) for number, name in enumerate(NAMES)], database)
    for number, name in enumerate(NAMES):
        assert stored(name)["n"] == [number]
    root = data_dir / database
    folders = {folder.name for folder in root.iterdir()}
    assert len(folders) == len(NAMES)
    same = {unicodedata.normalize("NFC", folder).casefold() for folder in folders}
    assert len(same) == len(folders)
    told = {}
    for folder in folders:
        (path,) = root.joinpath(folder).glob(files.HOURS)
        told[folder] = pq.read_schema(path).metadata[b"arc:measurement"].decode()
    assert sorted(told.values()) == sorted(NAMES)
    for folder, name in told.items():
        if "@@" not in folder:  # too long to be told from the folder alone
            assert table_from_dir(f"{database}/{folder}") == TableId(database, name)


def test_nothing_is_written_outside_the_data_directory(
    live: Daemon, client: Client, database: str
) -> None:
    names = ["../outside", "../../outside", "/outside", "..\\outside"]
    client.write([columnar(name, n=[1]) for name in names], database)
    for name in names:
        client.refusal(columnar("m", n=[1]), name)
    client.wait_until_stored()
    root = live.where.root
    assert [path.name for path in root.parent.iterdir()] == [root.name]
    tables = {path.parent.name for path in root.glob("[!.]*/*")}
    assert all(table_from_dir(f"{name}/m") for name in tables)
    assert {path.name for path in root.glob(".*")} == {".arc"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "''"),
        ("a\0b", "U+0000"),
        ("\x1b[31m", "U+001B"),
        ("a\u0085", "U+0085"),
        ("a" * 129, "129 characters"),
        (None, "found nothing"),
        (1.5, "found a float"),
        (True, "found a boolean"),
        (b"cpu", "found binary"),
    ],
)
def test_a_measurement_that_cannot_be_stored_is_refused(
    client: Client, database: str, name: object, words: str
) -> None:
    assert words in client.refusal(columnar(name, x=[1]), database)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "1a", "_a", "a b", "a.b", "é", ".arc", "a" * 65, "a\tb", "%2e%2e"]
)
def test_a_database_of_another_form_is_refused(client: Client, name: str) -> None:
    sent = name.encode().decode("latin-1")
    assert "wanted 1 to 64 characters" in client.refusal(columnar("m", x=[1]), sent)


def test_databases_that_differ_only_in_case_are_two(
    client: Client, database: str, stored: Stored
) -> None:
    client.write(columnar("m", x=["lower"]), database)
    client.write(columnar("m", x=[1]), database.upper())
    assert stored("m")["x"] == ["lower"]
    assert stored("m", database.upper())["x"] == [1]


def test_columns_keep_their_names_too(client: Client, database: str, stored: Stored) -> None:
    by_case = {name.lower(): name for name in NAMES[:22]}
    names = [*by_case.values(), "_monotonic", "a\nb", "é" * 127]
    client.write({"m": "m", "columns": {name: [n] for n, name in enumerate(names)}}, database)
    found = stored("m")
    assert list(found) == ["time", *names]
    assert [found[name] for name in names] == [[n] for n in range(len(names))]


def test_columns_that_differ_only_in_case_are_refused(client: Client, database: str) -> None:
    said = client.refusal(columnar("m", usage=[1], Usage=[2]), database)
    assert "'Usage' differs from column 'usage' in nothing but capitals" in said
    assert "capitals" in client.refusal(columnar("m", Time=[1]), database)


@pytest.mark.parametrize(("name", "words"), [("", "''"), ("x" * 256, "256 bytes"), (5, "integer")])
def test_a_column_name_that_cannot_be_stored_is_refused(
    client: Client, database: str, name: object, words: str
) -> None:
    body = b"\x82\xa1m\xa1m\xa7columns\x81" + forms(name)[0] + b"\x91\x01"
    assert words in client.refusal(body, database)
