"""The page's server. Any web site that its user visits can send requests to localhost too, so it checks their origin."""

import asyncio
import ipaddress
import secrets
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import torch
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evalkit.errors import UserError, first_line, printable
from evalkit.output.pages import page
from evalkit.photos.app import answers
from evalkit.photos.app.album import MOST_BYTES, png_uri
from evalkit.photos.app.answers import ExplainRequest
from evalkit.photos.app.channels import ChannelRequest, channel, channels
from evalkit.photos.app.explainer import Explainer, Network, View
from evalkit.photos.pictures import heat, to_pil

TOKEN = "x-evalkit-token"
MOST_JSON = 100_000
"""Largest size of a JSON request, in bytes."""
USUAL_TOP = 20
"""The paper's threshold in % of the pixels, used if the overrides name a point without one."""
HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",  # in addition to the page's <meta> policy, where this is ignored
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def application(explainer: Explainer, hosts: Collection[str]) -> ASGIApp:
    """Create the server. `hosts` are the host names that it accepts, in addition to localhost and IP addresses."""
    token = secrets.token_urlsafe(16)
    # One thread does all computation, so that networks and caches need no lock; another decodes. The page stays responsive.
    computing, decoding = ThreadPoolExecutor(max_workers=1), ThreadPoolExecutor(max_workers=1)

    async def index(_: Request) -> Response:
        return HTMLResponse(page("app", _start(explainer, token), connect="'self'", before=("channels",)))

    async def upload(request: Request) -> Response:
        content, name = await _body(request, MOST_BYTES), request.query_params.get("name", "photograph")
        photograph, thumbnail = await _in(decoding, explainer.album.add, content, name)
        return JSONResponse({"key": photograph.key, "name": photograph.name, "thumbnail": thumbnail})

    def answering(kind: type[BaseModel], function: Callable[..., Any], respond: Callable[[Any], Response] = JSONResponse) -> Route:
        async def answer(request: Request) -> Response:
            parsed = kind.model_validate_json(await _body(request, MOST_JSON))
            return respond(await _in(computing, function, explainer, parsed))

        return Route(f"/{function.__name__}", answer, methods=["POST"])

    routes = [
        Route("/", index),
        Route("/upload", upload, methods=["POST"]),
        answering(Network, answers.network),
        answering(View, answers.view),
        answering(View, channels),
        answering(ChannelRequest, channel),
        answering(ExplainRequest, answers.explain),
        answering(ExplainRequest, answers.figure, partial(Response, media_type="image/png")),
    ]
    statuses = {UserError: 422, ValidationError: 400, ClientDisconnect: 400, torch.OutOfMemoryError: 503}
    failures: dict[Any, Any] = {kind: _json_error(status) for kind, status in statuses.items()} | {HTTPException: _http}
    return _guarded(Starlette(routes=routes, exception_handlers=failures), token, hosts)


async def _in(thread: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)


def _start(explainer: Explainer, token: str) -> dict[str, Any]:
    """Return the data that is embedded in the page."""
    offer, album = explainer.offer, explainer.album
    point = offer.config.protocol.all_points()[0]
    return {
        "token": token,
        "photos": [{"key": key, "name": photo.name, "thumbnail": album.thumbnails[key]} for key, photo in album.samples.items()],
        "others": album.others,
        "models": offer.models,
        "methods": [vars(method) for method in offer.methods()],
        "point": {"select": point.select, "top": USUAL_TOP if point.top_percent is None else point.top_percent, "fill": point.fill},
        "target": offer.target,
        "colours": png_uri(to_pil(heat(torch.linspace(0, 1, 256).expand(8, 256)))),
        "most_bytes": MOST_BYTES,
    }


def _guarded(app: ASGIApp, token: str, hosts: Collection[str]) -> ASGIApp:
    """Refuse requests to other host names (DNS rebinding) and from other sites' pages; add `HEADERS` to responses."""

    async def enter(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value in HEADERS.items())]
            await send(message)

        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        refusal = _refusal(Request(scope), token, hosts)
        chosen = app if refusal is None else JSONResponse({"error": refusal}, 403)
        await chosen(scope, receive, answer)

    return enter


def _refusal(request: Request, token: str, hosts: Collection[str]) -> str | None:
    host = request.headers.get("host", "")
    if not _own(host, hosts):
        return f"this server is not called '{printable(host)}': open it as localhost, or name it with --host"
    if request.method in ("GET", "HEAD"):
        return None
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return "this request comes from another site's page"
    if not secrets.compare_digest(request.headers.get(TOKEN, "").encode(), token.encode()):
        return "this page is older than the server: reload it"
    return None


def _own(host: str, hosts: Collection[str]) -> bool:
    """Return whether the host is this server. IP addresses are safe, since only names can be rebound."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in {"localhost", *(own.lower() for own in hosts)}
    return True


async def _body(request: Request, most: int) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise HTTPException(413, f"more than {most / 1e6:g} MB")
    return bytes(content)


def _json_error(status: int) -> Callable[[Request, Exception], Response]:
    def handler(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": _sentence(error)}, status)

    return handler


def _sentence(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return printable(f"invalid request: {'.'.join(map(str, first['loc']))} {first['msg']}")
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is too small for this: choose fewer methods, a smaller network, or start with device=cpu"
    return printable(str(error) if isinstance(error, UserError) else first_line(error))


def _http(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)
