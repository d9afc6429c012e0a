"""Who may use the doors that are for the operator alone: those who know the admin token.

In: the header `Authorization` of a request. Out: nothing when it may pass, else the refusal. The
token is compared in a time that says nothing about it, and appears in no answer, log or `repr`.
Whoever brings finer rights later replaces `AdminGuard.refusal`, which is all that handlers call.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from aiohttp import web

from arc.json_answer import json_error

#: Asked for both ways: tools send the first, browsers know how to ask their user for the second.
CHALLENGES = ('Bearer realm="arc"', 'Basic realm="arc: any user, the admin token as password"')

NO_TOKEN = (
    "this is for those with the admin token, and none is set: set ARC_ADMIN_TOKEN, or "
    "admin_token_file to a file that holds it, and start the daemon again"
)
WRONG_TOKEN = "wanted the header Authorization: Bearer and the admin token"


class AdminGuard:
    """Lets those pass who know the token.

    Args:
        token: Empty: nobody may.
    """

    __slots__ = ("_digest",)

    def __init__(self, token: str) -> None:
        self._digest = _digest(token.encode()) if token else None

    def refusal(self, request: web.Request) -> web.Response | None:
        """The answer to those who may not; None to those who may."""
        if self._digest is None:
            return json_error(403, NO_TOKEN)
        # What is compared has one length, whatever was sent.
        given = _digest(credentials(request.headers.get("Authorization", "")))
        if hmac.compare_digest(given, self._digest):
            return None
        answer = json_error(401, WRONG_TOKEN)
        for challenge in CHALLENGES:
            answer.headers.add("WWW-Authenticate", challenge)
        return answer


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def credentials(header: str) -> bytes:
    """The token in a header: after Bearer or Token, or the password of Basic; empty if none."""
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() in ("bearer", "token"):
        return value.encode(errors="surrogateescape")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        return b""
