"""The client of the load test, with a server of a few lines."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from tangovlm.bench.server import load
from tangovlm.bench.server.load import Reply
from tangovlm.bench.server.process import _free_port
from tangovlm.errors import ModelError

BODY = load.request("load", "data:,", "What?", 3)
# What vLLM sends: the role without a token, the tokens, the usage of all, and the end.
COUNTS = [0, 1, 2, 3, 3]


def event(tokens: int) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"


class Answers(BaseHTTPRequestHandler):
    """Streams `COUNTS`, and knows how many requests are read at a time."""

    protocol_version = "HTTP/1.0"
    now, most, seen = 0, 0, 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        cls = type(self)
        with cls.lock:
            cls.now, cls.seen = cls.now + 1, cls.seen + 1
            cls.most = max(cls.most, cls.now)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = body["model"] == "other"
        self.send_response(404 if refused else 200)
        self.end_headers()
        time.sleep(0.05)
        with cls.lock:
            cls.now -= 1
        self.wfile.write(b"no such model" if refused else b"".join(map(event, COUNTS)) + b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Not a word."""


@pytest.fixture
def port() -> Iterator[int]:
    Answers.now = Answers.most = Answers.seen = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_at_a_time(port: int, concurrency: int) -> None:
    replies, seconds = load.drive(port, [BODY] * 7, concurrency)
    assert (Answers.seen, len(replies)) == (7, 7)
    assert Answers.most <= concurrency
    assert seconds > 0
    assert {(reply.prompt_tokens, reply.new_tokens) for reply in replies} == {(7, 3)}


def test_the_first_token_is_not_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100, 200))
    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    lines = [b": comment\n", *map(event, COUNTS), b"data: [DONE]\n"]
    # The clock is looked at with the three events that bring a token.
    assert load._read(lines, 90.0) == Reply(10.0, 12.0, 7, 3)


def test_refusals_and_broken_streams(port: int) -> None:
    with pytest.raises(ModelError, match="status 404: no such model"):
        load.drive(port, [BODY | {"model": "other"}] * 3, 2)
    with pytest.raises(ModelError, match="sent no token"):
        load._read([event(0)], 0.0)
    with pytest.raises(ModelError, match="out of memory"):
        load._read([b'data: {"error": {"message": "out of memory"}}\n'], 0.0)


def test_nobody_there() -> None:
    with pytest.raises(ModelError, match="stopped answering"):
        load.ask(_free_port(), BODY)
