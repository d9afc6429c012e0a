"""The folders of tables are those of the daemon."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arc.reader import UsageError
from arc.reader.names import table_dir
from ingest import paths
from ingest.errors import InvalidNameError


@given(st.text(max_size=130), st.text(max_size=130))
@example("prod", "disk/io")
@example("Prod", "con.x")
@example("a", "_delta_log")
@example("a", ".dot.")
@example("a", "測" * 128)
@example("con", "A" * 128)
def test_the_folder_of_every_name_is_the_daemons(database: str, measurement: str) -> None:
    for names in ((database, measurement), ("prod", measurement)):
        try:
            expected = paths.table_dir(paths.TableId(*names))
        except InvalidNameError:
            with pytest.raises(UsageError):
                table_dir(*names)
        else:
            assert table_dir(*names) == expected


@pytest.mark.parametrize("name", [None, 1, "", "\x00", "a" * 129, "\ud800"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        table_dir("default", name)
    with pytest.raises(UsageError):
        table_dir(name, "cpu")
