"""Settings: what is refused, by name, and what the environment says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arc.client.errors import UsageError
from arc.client.settings import BOUNDS, Settings, checked, from_environment


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": 1}, "setting 'colour': there is none of this name"),
        ({"batch_rows": 0}, "setting batch_rows: found 0, wanted 1 to 1e+06"),
        ({"batch_rows": "10"}, r"Expected `int`, got `str` - at `$.batch_rows`"),
        ({"timeout_s": -1.0}, "setting timeout_s: found -1.0"),
        ({"when_full": "wait"}, "Invalid enum value 'wait'"),
        ({"when_full": "spill"}, "a directory goes with when_full='spill'"),
        ({"spill_dir": "x"}, "only with it; found 'block' and 'x'"),
        ({"token": "a\nb"}, "setting token: wanted printable ASCII"),
        ({"database": " a"}, "setting database: wanted printable ASCII"),
    ],
)
def test_a_bad_setting_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        checked(given)
    assert words in str(refusal.value)


def test_a_directory_may_be_a_path(tmp_path: Path) -> None:
    settings = checked({"when_full": "spill", "spill_dir": tmp_path})
    assert settings.spill_dir == str(tmp_path)


def test_the_environment_sets_what_arguments_do_not() -> None:
    environ = {
        "ARC_URL": "http://daemon:8000",
        "ARC_TOKEN": "secret",
        "ARC_CLIENT_BATCH_ROWS": "500",
        "ARC_CLIENT_LINGER_S": "0.5",
        "ARC_CLIENT_SPILL_SYNC": "true",
        "ARC_CLIENT_GIVE_UP_S": "",
        "ARC_WORKERS": "2",
    }
    settings = from_environment(environ, {"batch_rows": 600})
    assert (settings.url, settings.token) == ("http://daemon:8000", "secret")
    assert (settings.batch_rows, settings.linger_s, settings.spill_sync) == (600, 0.5, True)
    assert settings.give_up_s is None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"ARC_CLIENT_COLOUR": "1"}, "environment ARC_CLIENT_COLOUR: no such setting"),
        ({"ARC_CLIENT_BATCH_ROWS": "many"}, "batch_rows"),
        ({"ARC_CLIENT_CONNECTIONS": "65"}, "setting connections: found 65, wanted 1 to 64"),
    ],
)
def test_a_bad_variable_is_named(environ: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        from_environment(environ, {})


def test_the_token_is_never_shown() -> None:
    assert "secret" not in repr(checked({"token": "secret"}))


def test_every_number_has_bounds_and_every_default_is_within_them() -> None:
    numbers = {
        name
        for name in Settings.__struct_fields__
        if isinstance(getattr(Settings(), name), int | float)
        and not isinstance(getattr(Settings(), name), bool)
    }
    assert BOUNDS.keys() == numbers | {"give_up_s"}
    assert checked({}) == Settings()
