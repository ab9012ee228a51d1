"""A client of a server with the OpenAI API: calls, the reasons of its errors, and whether it is available."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from ..errors import InputError
from .engine import EngineGoneError

UNREACHABLE = (URLError, HTTPException, OSError)
BUSY = frozenset({408, 429, 503})
NO_ENTRY = frozenset({401, 403})
LOOK_SECONDS = 10.0
"""Timeout of calls that take the server no work."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 8.0


class ServerGoneError(EngineGoneError):
    """The server has been unavailable for longer than the time limit."""


@dataclass(frozen=True)
class ServerApi:
    """Address and credentials of a server.

    Parameters
    ----------
    url: such as ``http://127.0.0.1:8000``, with or without ``/v1``; for a loopback address no proxy is used.
    key: sent as a bearer token; None for none.
    timeout_s: of one call.

    Raises
    ------
    InputError: not an HTTP URL.
    """

    url: str
    key: str | None = None
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"--server is {self.url!r}: give a URL such as http://127.0.0.1:8000")

    def call(self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> bytes:
        """The body of a response; raises the errors of `urllib.request.urlopen`."""
        base = self.url.rstrip("/").removesuffix("/v1")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        opener = build_opener(ProxyHandler({})) if self._is_local else build_opener()
        # `__post_init__` has checked that it is an HTTP URL.
        with opener.open(Request(base + path, data, headers), timeout=timeout_s or self.timeout_s) as answer:
            return bytes(answer.read())

    @property
    def _is_local(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class ServerMonitor:
    """Availability of a server, shared by all threads that use it.

    Parameters
    ----------
    give_up_s: how long it may be unavailable.
    notify: called with one line of text when the server becomes unavailable and when it is back.

    Attributes
    ----------
    outages: how often the server became unavailable, as far as any thread noticed.
    """

    def __init__(self, api: ServerApi, give_up_s: float, notify: Callable[[str], None]) -> None:
        self.give_up_s = give_up_s
        self.outages = 0
        self._api = api
        self._notify = notify
        self._lock = threading.Lock()
        self._gone_since: float | None = None
        self._last_answer = time.monotonic()

    def record_answer(self) -> None:
        """Record that the server has answered a request."""
        self._last_answer = time.monotonic()
        self._record_recovery()

    def check_answers(self) -> None:
        """Raise `ServerGoneError` if the server is available but has not answered any request for too long."""
        if time.monotonic() - self._last_answer >= self.give_up_s:
            raise self._too_long("has been too busy for anything", time.monotonic() - self._last_answer)

    def wait(self, *, busy: bool = False) -> None:
        """Pause, then return as soon as the server is available.

        Parameters
        ----------
        busy: whether the server reported that it is busy, which makes the pause longer.

        Raises
        ------
        ServerGoneError: it has been unavailable for too long.
        """
        pause_s = LONGEST_PAUSE_SECONDS if busy else FIRST_PAUSE_SECONDS
        while True:
            time.sleep(pause_s)
            if self._is_available():
                self._record_recovery()
                return
            self._record_outage()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_SECONDS)

    def _is_available(self) -> bool:
        try:
            self._api.call("/health", timeout_s=LOOK_SECONDS)
        except HTTPError as error:
            # Some servers do not have this page.
            return error.code < 500 and error.code not in BUSY
        except UNREACHABLE:
            return False
        return True

    def _record_recovery(self) -> None:
        with self._lock:
            if self._gone_since is not None:
                self._gone_since = None
                self._notify("the server is back")

    def _record_outage(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._gone_since is None:
                self._gone_since = now
                self.outages += 1
                self._notify(f"the server {self._api.url} does not answer: waiting for it")
            gone_s = now - self._gone_since
        if gone_s >= self.give_up_s:
            raise self._too_long("has not answered", gone_s)

    def _too_long(self, what: str, seconds: float) -> ServerGoneError:
        return ServerGoneError(
            f"the server {self._api.url} {what} for {seconds:.0f} s: start it and give the command again, "
            "which goes on from here"
        )


def reason(error: HTTPError) -> str:
    """The reason in an error response of the server."""
    try:
        content = json.loads(error.read())
        inner = content.get("error", content)
        text = inner if isinstance(inner, str) else inner.get("message") or inner.get("detail")
    except (*UNREACHABLE, ValueError, AttributeError):
        text = None
    return f"status {error.code}" if text is None else str(text)
