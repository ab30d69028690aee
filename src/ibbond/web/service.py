"""The page's service: its files, server-sent events, and the two requests that change something, cut and mend.

Read first: `web.guard` for access control, `web.lab_watch` for what is sent. Listens on 127.0.0.1 only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from importlib.resources import files

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from ibbond.errors import Refused
from ibbond.web.guard import Guard
from ibbond.web.lab_watch import LabWatch

ADDRESS = "127.0.0.1"
MAX_BODY_BYTES = 64 << 10
MAX_BROWSERS = 32
MAX_REQUESTS = 128  # at a time; more are answered with 503
ENDING_S = 1
PAUSE_S = 0.03  # between two messages to a browser, so that what happens at once is drawn at once
LONG_BYTES, LONG_PAUSE_S = 100_000, 0.5  # a host that makes many events does not keep the browser busy
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
TYPES |= {"svg": "image/svg+xml"}
START = "index.html"


def listen(port: int) -> socket.socket:
    """The listening socket; port 0 takes a free one. `Refused` where the port is taken or may not be used."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
    except OSError as error:
        listener.close()
        fix = "Choose another --port, or omit it to take a free one"
        raise Refused(f"cannot listen on port {port}", why=error.strerror or str(error), fix=fix) from None
    listener.listen()
    return listener


def server(watch: LabWatch, token: str, port: int) -> uvicorn.Server:
    """To be run with the listening socket; a signal ends it, or `should_exit`."""
    app = application(watch, token, port)
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_REQUESTS,
        timeout_graceful_shutdown=ENDING_S,
    )
    return uvicorn.Server(config)


def application(watch: LabWatch, token: str, port: int) -> ASGIApp:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch.start()
        try:
            yield
        finally:
            watch.stop()

    routes = [
        Route("/", page_file(START)),
        Route("/events", events(watch)),
        *(Route(f"/{do}", change(watch, do), methods=["POST"]) for do in ("cut", "mend")),
        *(Route(f"/{name}", page_file(name)) for name in sorted(page_files())),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), token, port)


def page_files() -> dict[str, bytes]:
    """The page as it is in the package; there is no build step."""
    folder = files("ibbond.web") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in TYPES}


def page_file(name: str) -> Callable[[Request], Response]:
    content = page_files()[name]

    def answer(_: Request) -> Response:
        return Response(content, media_type=TYPES[name.rpartition(".")[2]])

    return answer


def events(watch: LabWatch) -> Callable[[Request], Response]:
    async def stream() -> AsyncIterator[str]:
        with watch.mailbox() as mailbox:
            while True:
                text = await mailbox.take()
                yield text
                await asyncio.sleep(PAUSE_S if len(text) < LONG_BYTES else LONG_PAUSE_S)

    def follow(_: Request) -> Response:
        if watch.watchers >= MAX_BROWSERS:
            return JSONResponse({"what": f"the page is open {MAX_BROWSERS} times already"}, 503)
        return StreamingResponse(stream(), media_type="text/event-stream")

    return follow


def change(watch: LabWatch, do: str) -> Callable[[Request], Response]:
    """`{"cables": ["h1/ib0"]}` as JSON."""

    async def answer(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return JSONResponse({"what": "the request is not JSON"}, 415)
        body = bytearray()
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    return JSONResponse({"what": "the request is too long"}, 413)
            cables = cables_of(bytes(body))
        except ClientDisconnect:
            return Response(status_code=400)
        except (ValueError, RecursionError) as error:
            return JSONResponse({"what": f"cannot read the request: {error}"}, 400)
        try:
            await anyio.to_thread.run_sync(lambda: watch.ask(do, cables=cables))
        except Refused as refusal:
            return JSONResponse({"what": refusal.what, "why": refusal.why, "fix": refusal.fix}, 409)
        return JSONResponse({do: cables})

    return answer  # type: ignore[return-value]


def cables_of(body: bytes) -> list[str]:
    """ValueError where it is anything but a list of names."""
    request = json.loads(body)
    names = request.get("cables") if isinstance(request, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError('it should be {"cables": ["h1/ib0"]}')
    return names
