"""What the server answers at all: the addresses that the page uses, with headers that keep the page to this server."""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Gradio's addresses that fetch from other servers on behalf of a client, serve files, or take uploads are absent.
_ALLOWED = re.compile(
    r"/(|config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/.*"
    r"|gradio_api/(queue/(join|data)|heartbeat/[\w-]+|info|startup-events|app_id|reset|cancel)/?"
    r"|clip/[\w-]+|video/[\w-]+|run/[\w-]+\.html|comparison/[\w-]+\.csv)"
)
_UPLOADS = re.compile(r"/clip/[\w-]+")
_MAX_BODY = 1 << 20
"""Bytes of the body of any other request than an upload."""
# A client that names a file in the data of an event would make Gradio read it, or fetch it from another server.
_FILE_MARK = "gradio.FileData"
_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio compiles templates in the page.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Gate:
    """ASGI middleware around the application.

    Parameters
    ----------
    app: the application.
    local: whether only requests that name this machine as localhost or by a loopback address are answered. A page of
        another site whose name resolves to this machine could otherwise read the answers.
    """

    def __init__(self, app: App, *, local: bool = False) -> None:
        self.app = app
        self.local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        # The page needs no websocket.
        if scope["type"] != "http":
            return
        if self.local and not is_local(_host(scope)):
            await refuse(send, 403, "this server answers this machine only: open it as 127.0.0.1 or localhost")
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if not _ALLOWED.fullmatch(path):
            await refuse(send, 404, "there is nothing at this address")
            return
        if scope["method"] == "POST" and not _UPLOADS.fullmatch(path):
            body = await _body(receive)
            if body is None or not _is_harmless(body):
                await refuse(send, 413 if body is None else 400, "this request is not one of the page")
                return
            receive = _replayed(body, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                names = {name.lower() for name, _ in given}
                message["headers"] = given + [each for each in _HEADERS if each[0] not in names]
            await send(message)

        await self.app(scope, receive, send_with_headers)


async def refuse(send: Send, status: int, message: str) -> None:
    """Answer with an error as JSON."""
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})


def is_local(host: str) -> bool:
    """Whether a host is localhost or a loopback address."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host(scope: Scope) -> str:
    """The host that a request names, in lower case and without the port; empty if it names none."""
    value = next((value for name, value in scope["headers"] if name.lower() == b"host"), b"")
    return re.sub(r":\d+$", "", value.decode("latin-1").lower())


def _is_harmless(body: bytes) -> bool:
    """Whether a body is empty, or JSON in which no file is named; characters may be escaped in it."""
    try:
        return not body or _FILE_MARK not in json.dumps(json.loads(body))
    except ValueError:
        return False


async def _body(receive: Receive) -> bytes | None:
    """The whole body of a request; None if it is too long."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if len(body) > _MAX_BODY:
            return None
        if not message.get("more_body", False):
            return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that was read already, then what follows."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
