"""A server with the OpenAI API as seen from here: calls, what it says where it refuses, and whether it is there."""

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
"""For an answer that takes no work."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 8.0


class ServerGoneError(EngineGoneError):
    """The server has not answered for so long that waiting makes no sense."""


@dataclass(frozen=True)
class Api:
    """Where a server is and how it is asked.

    Parameters
    ----------
    url: such as ``http://127.0.0.1:8000``, with or without ``/v1``; on this machine, no proxy is asked.
    key: sent as a bearer token; None for none.
    timeout_s: for one answer.

    Raises
    ------
    InputError: no such URL.
    """

    url: str
    key: str | None = None
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"--server is {self.url!r}: give a URL such as http://127.0.0.1:8000")

    def call(self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> bytes:
        """The body of an answer; raises what `urllib.request.urlopen` raises."""
        base = self.url.rstrip("/").removesuffix("/v1")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        opener = build_opener(ProxyHandler({})) if self._is_here else build_opener()
        # The URL was checked to be one of http.
        with opener.open(Request(base + path, data, headers), timeout=timeout_s or self.timeout_s) as answer:
            return bytes(answer.read())

    @property
    def _is_here(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class Watch:
    """Whether a server is there, for all threads that ask it.

    Parameters
    ----------
    give_up_s: how long it may be gone.
    tell: is told, in a line, when it goes and when it comes back.

    Attributes
    ----------
    departures: how often the server has gone, as far as any thread noticed.
    """

    def __init__(self, api: Api, give_up_s: float, tell: Callable[[str], None]) -> None:
        self.give_up_s = give_up_s
        self.departures = 0
        self._api = api
        self._tell = tell
        self._lock = threading.Lock()
        self._gone_since: float | None = None
        self._answered = time.monotonic()

    def answered(self) -> None:
        """The server has done what it was asked for."""
        self._answered = time.monotonic()
        self._well()

    def check_answers(self) -> None:
        """Raise `ServerGoneError` if the server, well as it may be, has answered nothing for too long."""
        if time.monotonic() - self._answered >= self.give_up_s:
            raise self._too_long("has been too busy for anything", time.monotonic() - self._answered)

    def wait(self, *, busy: bool = False) -> None:
        """Return once the server is well, after a pause in any case.

        Parameters
        ----------
        busy: whether it said so; the pause is a long one then.

        Raises
        ------
        ServerGoneError: it has been gone for too long.
        """
        pause_s = LONGEST_PAUSE_SECONDS if busy else FIRST_PAUSE_SECONDS
        while True:
            time.sleep(pause_s)
            if self._is_there():
                self._well()
                return
            self._gone()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_SECONDS)

    def _is_there(self) -> bool:
        try:
            self._api.call("/health", timeout_s=LOOK_SECONDS)
        except HTTPError as error:
            # Not every server has this page.
            return error.code < 500 and error.code not in BUSY
        except UNREACHABLE:
            return False
        return True

    def _well(self) -> None:
        with self._lock:
            if self._gone_since is not None:
                self._gone_since = None
                self._tell("the server is back")

    def _gone(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._gone_since is None:
                self._gone_since = now
                self.departures += 1
                self._tell(f"the server {self._api.url} does not answer: waiting for it")
            gone_s = now - self._gone_since
        if gone_s >= self.give_up_s:
            raise self._too_long("has not answered", gone_s)

    def _too_long(self, what: str, seconds: float) -> ServerGoneError:
        return ServerGoneError(
            f"the server {self._api.url} {what} for {seconds:.0f} s: start it and give the command again, "
            "which goes on from here"
        )


def reason(error: HTTPError) -> str:
    """What the server says of a request that it does not answer."""
    try:
        told = json.loads(error.read())
        inner = told.get("error", told)
        text = inner if isinstance(inner, str) else inner.get("message") or inner.get("detail")
    except (*UNREACHABLE, ValueError, AttributeError):
        text = None
    return f"status {error.code}" if text is None else str(text)
