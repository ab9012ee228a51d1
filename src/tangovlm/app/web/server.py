"""The server of the page: the port, Gradio's switches, and temporary files that end with the process."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tangovlm.errors import InputError
from tangovlm.machine.installation import install_command

from .gate import Gate, is_local

if TYPE_CHECKING:
    from tangovlm.pipeline import VideoLLM

    from ..engine import Engine
    from ..limits import Limits

# Gradio reads these when it is imported. Its own file server is not used, see `gate.py`.
_SWITCHES = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_HOSTS = "give 127.0.0.1, or 0.0.0.0 for every network"
_GRACE_S = 1
"""Seconds that open connections get at the end."""


def check_gradio() -> None:
    """Raise `InputError` if Gradio is not installed."""
    if find_spec("gradio") is None:
        raise InputError(f"tangovlm app needs Gradio: {install_command('app')}")


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address of this machine, so that nobody takes the port while the page is prepared.

    Parameters
    ----------
    port: 0 for a free one.

    Raises
    ------
    InputError: a port that is taken or needs privileges, or a host that is no address of this machine.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port is {port}: give a number from 0 (any free port) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host!r} is not an address of this machine: {_HOSTS}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        # Another process that asks for the port is refused from now on.
        opened.listen()
    except OSError as error:
        opened.close()
        reasons = {
            errno.EADDRINUSE: f"port {port} of {host} is taken: give another with --port, or 0 for any free one",
            errno.EACCES: f"port {port} needs privileges: give one above 1023 with --port",
        }
        other = f"--host {host!r} cannot be used ({error.strerror}): {_HOSTS}"
        raise InputError(reasons.get(error.errno or 0, other)) from error
    return opened


def address(listening: socket.socket) -> str:
    """The address of the page for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    listening: socket.socket,
    load: Callable[[], VideoLLM],
    methods: Sequence[str],
    *,
    limits: Limits,
    world: int = 1,
    name: str,
    log: Callable[[str], None],
    on_start: Callable[[], None] | None = None,
) -> bool:
    """Serve the page until the process gets SIGINT, SIGTERM or SIGHUP.

    Parameters
    ----------
    listening: see `listen`.
    load: returns the model; it is called in a thread, while the page is already served.
    methods: names of the methods to choose from.
    world: version of the world of the example clips.
    name: of the model, which is shown while it is loaded.
    log: called with one line if the model cannot be loaded, or a file is refused.
    on_start: called when the page can be opened.

    Returns
    -------
    Whether the model could be loaded, or was still being loaded.
    """
    with tempfile.TemporaryDirectory(prefix="tangovlm-app-") as folder:
        os.environ.update(_SWITCHES, GRADIO_TEMP_DIR=str(Path(folder) / "gradio"))
        local = is_local(listening.getsockname()[0])
        app, engine, warm_up = application(
            Path(folder), load, methods, limits=limits, world=world, name=name, log=log, local=local
        )
        try:
            _run(app, listening, lambda: engine.start(warm_up), on_start)
        finally:
            engine.close()
        return engine.failure is None


def application(
    folder: Path,
    load: Callable[[], VideoLLM],
    methods: Sequence[str],
    *,
    limits: Limits,
    world: int = 1,
    name: str = "the model",
    log: Callable[[str], None] | None = None,
    local: bool = False,
) -> tuple[Any, Engine, Callable[[], Path]]:
    """The ASGI application, its engine, whose model is not loaded yet, and what `Engine.start` needs; see `serve`.

    Parameters
    ----------
    folder: for temporary files.
    local: see `Gate`.
    """
    import gradio as gr
    from fastapi import FastAPI

    from ..clips import examples
    from ..engine import Engine
    from .files import add_routes
    from .handlers import Handlers
    from .look import head, style, theme, thumbnails
    from .page import build

    engine = Engine(load, limits, log)
    clips = examples(world)
    page = build(Handlers(engine, clips, folder, f"Loading {name}"), methods)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, engine, folder)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        show_error=False,
        theme=theme(),
        css=style() + thumbnails(clips),
        head=head(),
    )
    return Gate(app, local=local), engine, lambda: clips[0].clip(folder).path


def _run(app: Any, listening: socket.socket, begin: Callable[[], None], on_start: Callable[[], None] | None) -> None:
    """Run the server in this thread until a signal ends it."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Uvicorn raises a signal again when it has ended, which would leave temporary files behind.
            names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
            numbers = [getattr(signal, name) for name in names]
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if on_start is not None:
                on_start()
            begin()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # The connections of open pages never end by themselves: that they are cut is no error.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app, log_level="error", access_log=False, timeout_graceful_shutdown=_GRACE_S, ws="none", server_header=False
    )
    asyncio.run(Server(config).serve([listening]))
