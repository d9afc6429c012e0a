"""Requests in JSON for aiohttp: a body within a limit to a value, and errors to answers.

In: a request whose body is a small JSON object. Out: a struct of it, or a refusal that says what
is wrong. What the value means is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import web

from arc.json_answer import json_answer
from ingest.errors import IngestError, OverloadedError, PayloadError, TooLargeError, TooSlowError

_T = TypeVar("_T")

MAX_BODY_BYTES = 2**20

#: How long a client may take to send it.
_BODY_TIMEOUT_S = 60.0


async def read_json(request: web.Request, kind: type[_T]) -> _T:
    """The body of a request; an empty one is an empty object.

    Args:
        request: With a body that is not compressed.
        kind: A msgspec struct. Keys that it does not have are ignored.

    Raises:
        PayloadError: it is not JSON, or not of this kind.
        TooLargeError, TooSlowError: it is over a limit.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise TooLargeError("the body", MAX_BODY_BYTES, "of requests in JSON")
    except TimeoutError:
        raise TooSlowError("the body of the request did not arrive in time") from None
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PayloadError(f"the body: {error}") from None


def refusal(error: IngestError) -> web.Response:
    """An error as clients of the management API read it."""
    headers = None
    if isinstance(error, OverloadedError):
        headers = {"Retry-After": str(error.retry_after_s)}
    return json_answer({"success": False, "error": str(error)}, error.status_hint, headers)
