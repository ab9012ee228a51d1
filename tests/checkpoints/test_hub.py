"""Whether the hub can be reached, with a server of this process in its place."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import socket

import pytest

import tangovlm
from tangovlm.checkpoints import hub
from tangovlm.checkpoints.head_weights import load_head_weights
from tangovlm.errors import ModelError


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a proxy, and not in offline mode."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that accepts connections and never answers."""
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_any_answer_counts(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub.reachable(20.0)
        thread.join()


def test_a_refused_connection_and_a_host_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("http://127.0.0.1:9", "http://hub.invalid"):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
        assert not hub.reachable()


def test_no_answer_in_time(silent: None) -> None:
    start = time.monotonic()
    assert not hub.reachable(0.2)
    assert time.monotonic() - start < 5


def test_an_id_without_a_hub_is_refused_without_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _s: pytest.fail("a request is tried again"))
    with pytest.raises(ModelError, match="owner/model has not been downloaded, and the hub cannot be reached: give a"):
        tangovlm.load("owner/model")
    with pytest.raises(ModelError, match=r"cannot get model\.safetensors of owner/model"):
        load_head_weights("owner/model")


def test_the_offline_mode_of_the_hub_library(monkeypatch: pytest.MonkeyPatch, silent: None) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = time.monotonic()
    assert not hub.reachable(20.0)
    assert time.monotonic() - start < 5
