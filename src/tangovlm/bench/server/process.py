"""A vLLM server on the loopback interface that runs for the duration of a context."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import ModelError

HOST = "127.0.0.1"
_START_S, _STOP_S, _LOOK_S = 400, 20, 0.5
_LAST_WORDS = 6


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Parameters
    ----------
    log: file of its output.
    """

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page.

        Raises
        ------
        OSError: the server does not respond.
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    @property
    def block_size(self) -> int:
        """Number of tokens of a block of the KV cache.

        Raises
        ------
        ModelError: the server does not report it.
        """
        found = re.search(r'vllm:cache_config_info\{[^}]*block_size="(\d+)"', self.get("/metrics")[1])
        if found is None:
            raise ModelError("vLLM's /metrics has no block_size in vllm:cache_config_info: another release of vLLM")
        return int(found[1])


@contextmanager
def serving(
    model: Path | str, options: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start vLLM's API server with a model, wait until it is ready, and end it and its child processes on exit.

    SIGTERM and SIGHUP raise `KeyboardInterrupt` within the context, so that they end the server too.

    Parameters
    ----------
    options: of `vllm serve`.
    environment: variables in addition to those of this process.

    Raises
    ------
    ModelError: the server ends before it is ready, or is not ready in time.
    """
    port = _free_port()
    # As a module: the command `vllm` of the CPU distribution fails when it looks up its own version.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", HOST, "--port", str(port), *options]
    with tempfile.TemporaryDirectory() as folder, _termination_interrupts():
        log = Path(folder) / "server.log"
        process = None
        try:
            with log.open("wb") as file:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=os.environ | dict(environment or {}),
                    cwd=folder,
                    start_new_session=True,
                )
            server = Server(port, process, log)
            _wait(server)
            yield server
        finally:
            if process is not None:
                _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `KeyboardInterrupt` within the context; no effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(server: Server) -> None:
    """Wait until the health check of the server succeeds."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise ModelError(f"vLLM's server ended with status {server.process.returncode}: {_last_words(server.log)}")
        with suppress(OSError, http.client.HTTPException):
            if server.get("/health")[0] == http.client.OK:
                return
        time.sleep(_LOOK_S)
    raise ModelError(f"vLLM's server did not answer within {_START_S} s: {_last_words(server.log)}")


def _last_words(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-_LAST_WORDS:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process group of the server, then kill it."""
    try:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_STOP_S)
    finally:
        # Its workers may outlive it, and an interrupt may end the wait.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
