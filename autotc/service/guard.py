"""What stands before every request: hosts, origins, size and depth of bodies, request ids, one log line each."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 64 << 10
DEEPEST = 16
LOCAL = ("127.0.0.1", "localhost", "[::1]")
LOG = logging.getLogger("autotc.service")
_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """ASGI middleware that refuses what no client of ours sends.

    Names are checked so that a page in a browser can't reach the service under a name of its own (DNS rebinding).

    Args:
        app: what comes behind.
        hosts: names under which the service may be reached, without ports.
    """

    def __init__(self, app: App, hosts: tuple[str, ...]) -> None:
        self._app, self._hosts = app, frozenset(h.lower() for h in (*LOCAL, *hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        begin, status = time.monotonic(), 500
        scope.setdefault("state", {})["request_id"] = request_id

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [*_HEADERS, (b"x-request-id", request_id.encode())]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            refused = self._refused(headers)
            if refused is None:
                body = await _read(headers, receive)
                refused = body if isinstance(body, tuple) else None
            if refused is not None:
                await _refuse(answer, *refused, request_id)
            else:
                assert isinstance(body, bytes)
                await self._app(scope, _again(body, receive), answer)
        finally:
            line = {
                "request": request_id,
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round(1000 * (time.monotonic() - begin), 1),
                "client": (scope.get("client") or ("",))[0],
                "token": scope["state"].get("token"),
            }
            LOG.info(json.dumps(line))

    def _refused(self, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        host = _name(headers.get(b"host", b""))
        if host not in self._hosts:
            return 403, "this service is not reached under that Host; see: autotc serve --allowed-host"
        origin = headers.get(b"origin")
        if origin is not None and _name(origin.partition(b"://")[2]) not in self._hosts:
            return 403, "pages of another Origin may not use this service"
        return None


def _name(address: bytes) -> str:
    """Return the name in `name:port`, lower case; addresses of IPv6 keep their brackets."""
    text = address.decode("latin-1").lower()
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:/@\[\]\s]+)(:\d{1,5})?", text)
    return found[1] if found else ""


async def _read(headers: dict[bytes, bytes], receive: Receive) -> bytes | tuple[int, str]:
    """Return the whole body, or with which status and words it is refused."""
    too_large = 413, f"a body has at most {MOST_BYTES} bytes"
    if (
        headers.get(b"content-length", b"0").isdigit()
        and int(headers.get(b"content-length", b"0")[:12]) > MOST_BYTES
    ):
        return too_large
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return 400, "the body ended early"
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return too_large
        if not message.get("more_body"):
            break
    if _depth(body) > DEEPEST:
        return 400, f"a body has at most {DEEPEST} levels"
    return body


def _depth(body: bytes) -> int:
    """Return how deeply brackets are nested outside of strings."""
    depth = deepest = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', body, re.DOTALL):
        if token[0] in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in b"]}":
            depth -= 1
    return deepest


def _again(body: bytes, receive: Receive) -> Receive:
    """Hand out a body that was read, then what the server says (that the client is gone)."""
    there = [body]

    async def hand_out() -> Message:
        if there:
            return {"type": "http.request", "body": there.pop(), "more_body": False}
        return await receive()

    return hand_out


async def _refuse(send: Send, status: int, why: str, request_id: str) -> None:
    body = json.dumps({"error": why, "request": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
