"""Only the addresses of the page are answered, with a policy that keeps the browser to this server."""

import asyncio
import json
from typing import Any

import pytest

from tangovlm.app.web.gate import Gate


def call(
    path: str,
    method: str = "GET",
    body: bytes = b"",
    pieces: int = 1,
    root_path: str = "",
    host: str = "127.0.0.1:7860",
    local: bool = False,
) -> tuple[int, Any, bytes]:
    """Status, headers and the body that reached the application (or the refusal)."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received = b""
        more = True
        while more:
            message = await receive()
            received += message["body"]
            more = message["more_body"]
        headers = [(b"content-type", b"text/plain"), (b"referrer-policy", b"origin")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": received})

    step = -(-len(body) // pieces) or 1
    chunks = [body[start : start + step] for start in range(0, len(body), step)] or [b""]
    messages = [
        {"type": "http.request", "body": chunk, "more_body": place + 1 < len(chunks)}
        for place, chunk in enumerate(chunks)
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "root_path": root_path}
    scope["headers"] = [(b"host", host.encode())] if host else []
    asyncio.run(Gate(app, local=local)(scope, receive, send))
    return sent[0]["status"], sent[0]["headers"], sent[1]["body"]


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/assets/index-1.js", "/gradio_api/queue/join", "/gradio_api/queue/data",
     "/gradio_api/heartbeat/ab12", "/run/a-_1.html", "/comparison/a.csv", "/video/abc"],
)  # fmt: skip
def test_addresses_of_the_page(path: str) -> None:
    assert call(path)[0] == 200
    assert call(f"/below{path}", root_path="/below")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/gradio_api/file=https://example.org/a", "/gradio_api/upload", "/file=a",
     "/gradio_api/proxy=https://example.org", "/gradio_api/run/ask", "/gradio_api/call/ask", "/gradio_api/runs",
     "/gradio_api/mcp/sse", "/monitoring", "/docs", "/openapi.json", "/gradio_api/component_server", "/login",
     "/clip/a/b", "/video/../etc", "/gradio_api/queue/join/../upload"],
)  # fmt: skip
def test_all_others_are_refused(path: str) -> None:
    status, headers, body = call(path, "POST")
    assert status == 404
    assert b"there is nothing at this address" in body
    assert dict(headers)[b"content-type"] == b"application/json"


def test_the_policy_names_no_other_server() -> None:
    headers = dict(call("/")[1])
    policy = headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert "*" not in policy
    assert headers[b"x-content-type-options"] == b"nosniff"
    # Headers of the application come first.
    assert headers[b"referrer-policy"] == b"origin"


def test_bodies_are_passed_on_whole() -> None:
    body = json.dumps({"data": ["what?" * 2000]}).encode()
    assert call("/gradio_api/queue/join", "POST", body, pieces=7)[2] == body
    assert call("/clip/abc", "POST", b"x" * (1 << 21), pieces=3)[2] == b"x" * (1 << 21)


def test_bodies_that_name_files_or_are_too_long() -> None:
    named = b'{"data": [{"path": "https://example.org/a", "meta": {"_type": "gradio.FileData"}}]}'
    assert call("/gradio_api/queue/join", "POST", named, pieces=3)[0] == 400
    escaped = named.replace(b"gradio.File", rb"gr\u0061dio\u002eFile")
    assert json.loads(escaped) == json.loads(named)
    assert call("/gradio_api/queue/join", "POST", escaped)[0] == 400
    assert call("/gradio_api/queue/join", "POST", bytes(range(256)))[0] == 400
    assert call("/gradio_api/queue/join", "POST", b"x" * ((1 << 20) + 1), pieces=3)[0] == 413


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:7860", "127.1.2.3", "[::1]:7860"])
def test_this_machine_by_its_own_names(host: str) -> None:
    assert call("/config", host=host, local=True)[0] == 200


@pytest.mark.parametrize("host", ["", "example.org", "localhost.example.org:7860", "127.0.0.1.example.org", "10.0.0.1"])
def test_a_name_that_resolves_to_this_machine(host: str) -> None:
    status, _, body = call("/config", host=host, local=True)
    assert status == 403
    assert b"open it as 127.0.0.1 or localhost" in body
    assert call("/config", host=host)[0] == 200


def test_websockets_are_not_answered() -> None:
    async def app(*_: object) -> None:
        raise AssertionError

    async def unused(*_: object) -> Any:
        raise AssertionError

    asyncio.run(Gate(app)({"type": "websocket", "path": "/"}, unused, unused))
