"""The port, and an application that makes no connection and leaves no file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tangovlm.app.limits import Limits
from tangovlm.app.web.server import address, application, check_gradio, listen
from tangovlm.errors import InputError
from tangovlm.pipeline import VideoLLM


def test_a_free_port() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert address(listening) == f"http://127.0.0.1:{port}"
        with pytest.raises(InputError, match=f"^port {port} of 127.0.0.1 is taken: give another with --port"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


def test_all_networks() -> None:
    with listen("0.0.0.0", 0) as listening:
        assert address(listening).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["no such host.invalid", "192.0.2.1", "x" * 300])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    with pytest.raises(InputError, match="--host .* 127.0.0.1, or 0.0.0.0 for every network"):
        listen(host, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range(port: int) -> None:
    with pytest.raises(InputError, match="^--port is .* from 0"):
        listen("127.0.0.1", port)


def test_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.app.web.server.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"^tangovlm app needs Gradio: pip install .*app"):
        check_gradio()


def test_building_the_page_makes_no_connection(
    gradio: None, llm: VideoLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Gradio's switches unset, as another program may import it."""
    for name in list(os.environ):
        if name.startswith("GRADIO_") or name == "HF_HUB_DISABLE_TELEMETRY":
            monkeypatch.delenv(name)
    tried: list[object] = []

    def refused(_socket: object, target: object) -> None:
        tried.append(target)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *target, **_: tried.append(target) or [])
    app, engine, warm_up = application(tmp_path, lambda: llm, ["tango"], limits=Limits())
    engine.start(warm_up)
    assert engine.wait(120) is llm
    assert tried == []
    assert app is not None


PROGRAM = """
import sys
from tangovlm.cli import main
sys.exit(main(["app", "--port", "0", *sys.argv[1:]]))
"""


def test_ctrl_c_leaves_no_file(gradio: None, tmp_path: Path) -> None:
    """SIGTERM is that of `test_browser.py`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("http://127.0.0.1:")
        assert len(list(tmp_path.glob("tangovlm-app-*"))) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
        assert list(tmp_path.glob("tangovlm-app-*")) == []
    finally:
        process.kill()
        process.wait()
