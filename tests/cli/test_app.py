"""`tangovlm app`: mistakes are one line, before Gradio is imported."""

import socket
import sys

import pytest

from tangovlm.app.limits import Limits
from tangovlm.cli.commands import app as command
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.app.web.server.find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "gradio", None)


def test_a_port_that_is_taken(tangovlm_command: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        tangovlm_command("app", "--port", port).refused(f"port {port} of 127.0.0.1 is taken", "--port")


@pytest.mark.parametrize("model", ["./no-such-folder", "/no/such/folder", "~/no-such-folder"])
def test_a_folder_of_a_model_that_is_missing(tangovlm_command: Run, model: str) -> None:
    tangovlm_command("app", "--port", 0, "--model", model).refused(f"--model {model}", "no such folder")


def test_a_host_and_limits_that_are_wrong(tangovlm_command: Run) -> None:
    tangovlm_command("app", "--port", 0, "--host", "192.0.2.1").refused("--host", "127.0.0.1")
    tangovlm_command("app", "--port", 0, "--max-minutes", 0).refused("--max-minutes is 0")
    tangovlm_command("app", "--port", 70000).refused("--port is 70000")


def test_without_gradio(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.app.web.server.find_spec", lambda _: None)
    tangovlm_command("app").refused("needs Gradio", "pip install")


def test_defaults_are_those_of_the_limits(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def serve(listening: socket.socket, _load: object, methods: list[str], *, limits: Limits, **others: object) -> bool:
        found.append((limits, methods, others["world"], others["name"], listening.getsockname()[0]))
        return len(found) == 1

    monkeypatch.setattr("tangovlm.app.web.server.serve", serve)
    assert tangovlm_command("app", "--port", 0).status == 0
    assert tangovlm_command("app", "--port", 0, "--model", "tangovlm-tiny-2").status == command.USER_ERROR
    (limits, methods, world, name, host), (_, _, second_world, second_name, _) = found
    assert limits == Limits()
    assert {"tango", "fastv"} <= set(methods)
    assert (world, name, host) == (1, "tangovlm-tiny", "127.0.0.1")
    assert (second_world, second_name) == (2, "tangovlm-tiny-2")
