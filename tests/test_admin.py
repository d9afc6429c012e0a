"""Who may use the doors of the operator: the header in every form, right and wrong."""

from __future__ import annotations

import base64

import pytest
from aiohttp.test_utils import make_mocked_request

from arc.admin import AdminGuard, credentials

TOKEN = "a-token-of-the-operator"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def status(guard: AdminGuard, header: str | None) -> int:
    headers = {} if header is None else {"Authorization": header}
    answer = guard.refusal(make_mocked_request("GET", "/debug", headers=headers))
    return 200 if answer is None else answer.status


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {TOKEN}",
        f"bearer {TOKEN}",
        f"Token {TOKEN}",
        f"Bearer   {TOKEN} ",
        basic("", TOKEN),
        basic("anyone", TOKEN),
    ],
)
def test_the_token_opens_in_every_form(header: str) -> None:
    assert status(AdminGuard(TOKEN), header) == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Digest {TOKEN}",
        "Bearer ✓",
        basic(TOKEN, ""),
        "Basic not base64",
        "Basic é",
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
    ],
)
def test_anything_else_does_not(header: str | None) -> None:
    assert status(AdminGuard(TOKEN), header) == 401


def test_without_a_token_nobody_may_and_hears_how_to_set_one() -> None:
    guard = AdminGuard("")
    for header in (None, "Bearer ", "Bearer x", basic("", "")):
        assert status(guard, header) == 403
    answer = guard.refusal(make_mocked_request("GET", "/debug"))
    assert answer is not None
    assert b"ARC_ADMIN_TOKEN" in (answer.body if isinstance(answer.body, bytes) else b"")


def test_a_refusal_tells_tools_and_browsers_what_to_send() -> None:
    answer = AdminGuard(TOKEN).refusal(make_mocked_request("GET", "/debug"))
    assert answer is not None
    schemes = [c.partition(" ")[0] for c in answer.headers.getall("WWW-Authenticate")]
    assert schemes == ["Bearer", "Basic"]
    assert TOKEN.encode() not in (answer.body if isinstance(answer.body, bytes) else b"")


def test_the_guard_does_not_hold_the_token_itself() -> None:
    guard = AdminGuard(TOKEN)
    assert TOKEN not in repr(guard)
    assert TOKEN.encode() not in {getattr(guard, name) for name in guard.__slots__}


@pytest.mark.parametrize("scheme", ["Bearer", "Token", "Basic"])
def test_bytes_that_are_no_text_are_only_wrong(scheme: str) -> None:
    assert credentials(f"{scheme} \udcff\udcfe") in (b"", b"\xff\xfe")


def test_a_password_may_contain_colons() -> None:
    assert credentials(basic("user", "a:b")) == b"a:b"
