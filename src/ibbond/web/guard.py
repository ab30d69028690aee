"""Access control: requests from this machine that have the token in their URL, and not from other pages.

Read first: the Fetch standard, sections "Origin header" and "CORS protocol"; Content Security Policy Level 3. Any page
that is open in the same browser can send requests to 127.0.0.1, and a name of its own can lead there (DNS rebinding).
Therefore the host name of a request must be that of this machine, its Origin, where there is one, this page, and its
path must begin with the token. A change must say its Origin, which every browser does.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost")
SAFE_METHODS = ("GET", "HEAD")
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the token is in the address
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets requests through to `inner` with the token taken off their paths; answers all others with 403."""

    def __init__(self, inner: ASGIApp, token: str, port: int) -> None:
        self._inner = inner
        self._token = token.encode()
        self._hosts = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        why = self.refusal(scope)
        if why is not None:
            await PlainTextResponse(f"{why}\n", 403, dict(HEADERS))(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        prefix = "/" + self._token.decode()
        inside = dict(scope) | {"root_path": prefix}
        await self._inner(inside, receive, send_guarded)

    def refusal(self, scope: Scope) -> str | None:
        """Why a request is refused, or None."""
        if scope["type"] != "http":
            return "only HTTP is spoken here"
        headers = Headers(scope=scope)
        if headers.get("host") not in self._hosts:
            return "the host name of this request is not that of this page"
        origin = headers.get("origin")
        if origin is None:
            if scope["method"] not in SAFE_METHODS:
                return "this request does not say which page it comes from"
        elif origin not in {f"http://{host}" for host in self._hosts}:
            return "this request comes from another page"
        first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        if not hmac.compare_digest(first.encode(errors="replace"), self._token):
            return "the token is missing or wrong: use the URL that ibbond lab web has printed"
        return None
