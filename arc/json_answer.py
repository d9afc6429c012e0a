"""Answers in JSON for aiohttp: content in, response out. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

JSON = "application/json"


def json_answer(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A response with `content` as its body."""
    body = msgspec.json.encode(content)
    return web.Response(status=status, body=body, content_type=JSON, headers=headers)


def json_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A refusal, as all that are not of a door of their own: an object with the key `error`."""
    return json_answer({"error": message}, status, headers)
