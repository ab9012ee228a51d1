"""Answers from a server with the OpenAI API: some requests at a time, which outlive the server's restarts."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from ...errors import InputError, TangoError, VideoError
from ...video.source import local_file, open_video
from ..options import REQUEST_KEY
from .engine import Outcome, failure
from .rows import Task

MEDIA = ("base64", "path")
"""How a server gets videos: within the request, or by their path, which it must be allowed to read."""
_MOST_MEGABYTES = 512
_TRIES = 3
"""So often a request may fail within a server that is well, before that is its row's fault."""
_HEALTH_SECONDS = 10.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 8.0
_UNREACHABLE = (URLError, HTTPException, OSError)
_BUSY = frozenset({408, 429, 503})
_NO_ENTRY = frozenset({401, 403})
_TRUST = "--trust-request-mm-kwargs"


class ServerGoneError(TangoError):
    """The server has not answered for so long that waiting makes no sense; what is written stays."""


@dataclass(frozen=True)
class Api:
    """Where a server is and how it is asked.

    Parameters
    ----------
    url: such as ``http://127.0.0.1:8000``, with or without ``/v1``.
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
        """The body of an answer; raises what `urlopen` raises."""
        base = self.url.rstrip("/").removesuffix("/v1")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        # The URL was checked to be one of http.
        with urlopen(Request(base + path, data, headers), timeout=timeout_s or self.timeout_s) as answer:
            return bytes(answer.read())


class Server:
    """A server that may go away and come back.

    Parameters
    ----------
    model: as the server calls it; None for the only one that it has.
    frames: how many to take of a clip; None for the server's own number.
    retention: of all rows that do not say; None for the server's own.
    concurrency: requests at a time.
    media: of `MEDIA`.
    give_up_s: how long the server may be gone.
    tell: is told, in a line, when it goes and when it comes back.

    Raises
    ------
    InputError: the server does not have the model, or lets nobody in.
    ServerGoneError: it has not answered for `give_up_s`.
    """

    def __init__(
        self,
        api: Api,
        model: str | None = None,
        *,
        frames: int | None = None,
        retention: float | None = None,
        concurrency: int = 16,
        media: str = "base64",
        give_up_s: float = 600.0,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._api = api
        self._frames = frames
        self._retention = retention
        self._concurrency = concurrency
        self._media = media
        self._watch = _Watch(api, give_up_s, tell)
        self.model = self._model(model)

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`.

        Raises
        ------
        ServerGoneError: see `Server`.
        InputError: it takes no settings from requests, but the command line has some; or lets nobody in any more.
        """
        waiting: SimpleQueue[Task | None] = SimpleQueue()
        done: SimpleQueue[Outcome | Exception] = SimpleQueue()
        # The process may end while requests are under way.
        for _ in range(self._concurrency):
            threading.Thread(target=self._work, args=(waiting, done), daemon=True).start()
        running, exhausted = 0, False
        try:
            while True:
                while running < self._concurrency and not exhausted:
                    task = next(tasks, None)
                    exhausted = task is None
                    if task is not None:
                        waiting.put(task)
                        running += 1
                if not running:
                    return
                outcome = done.get()
                running -= 1
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome
        finally:
            for _ in range(self._concurrency):
                waiting.put(None)

    def _work(self, waiting: "SimpleQueue[Task | None]", done: "SimpleQueue[Outcome | Exception]") -> None:
        while (task := waiting.get()) is not None:
            try:
                done.put(self._ask(task))
            except Exception as error:
                # Whatever it is, the thread that waits for this task must learn of it.
                done.put(error)

    def _ask(self, task: Task) -> Outcome:
        try:
            body = self._body(task)
        except (VideoError, InputError) as error:
            return failure(task, error)
        failures = 0
        while True:
            try:
                answer = self._api.call("/v1/chat/completions", body)
                self._watch.well()
                return Outcome(task, _fields(answer))
            except HTTPError as error:
                reason = _reason(error)
                if error.code in _BUSY:
                    time.sleep(_LONGEST_PAUSE_SECONDS)
                    self._watch.wait()
                    continue
                if error.code < 500:
                    return self._refused(task, error.code, reason)
            except _UNREACHABLE as error:
                reason = str(error) or type(error).__name__
            except (ValueError, LookupError, TypeError):
                return failure(task, InputError("the server's answer is not that of an OpenAI API"))
            # A server that was gone took its requests with it, which says nothing about them.
            failures += not self._watch.wait()
            if failures == _TRIES:
                return failure(task, InputError(f"the server failed {_TRIES} times: {reason}"))

    def _refused(self, task: Task, status: int, reason: str) -> Outcome:
        """A request that the server is not going to answer, however often it comes."""
        if status in _NO_ENTRY:
            raise InputError(f"the server lets nobody in ({status}): give its key as --api-key")
        told = self._frames is not None or (self._retention is not None and not task.own_retention)
        if told and _TRUST in reason:
            raise InputError(
                f"the server takes no settings from requests: start it with {_TRUST}, or leave out "
                "--frames and --retention"
            )
        return failure(task, InputError(f"the server refused: {reason}"))

    def _body(self, task: Task) -> dict[str, Any]:
        video = {"type": "video_url", "video_url": {"url": _url(task.path, self._media)}}
        text = {"type": "text", "text": task.question}
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": [video, text]}],
            "max_tokens": task.max_new_tokens,
            "temperature": 0.0,
        }
        if task.retention is not None:
            body["mm_processor_kwargs"] = {REQUEST_KEY: task.retention}
        if self._frames is not None:
            body["media_io_kwargs"] = {"video": {"num_frames": self._frames}}
        return body

    def _model(self, wanted: str | None) -> str:
        while True:
            try:
                listed = json.loads(self._api.call("/v1/models", timeout_s=_HEALTH_SECONDS))["data"]
                served = [str(each["id"]) for each in listed]
            except HTTPError as error:
                if error.code in _NO_ENTRY:
                    raise InputError(f"the server lets nobody in ({error.code}): give its key as --api-key") from error
                if error.code < 500 and error.code not in _BUSY:
                    raise InputError(f"--server {self._api.url} has no OpenAI API ({error.code})") from error
            except _UNREACHABLE:
                pass
            except (ValueError, LookupError, TypeError) as error:
                raise InputError(f"--server {self._api.url} has no OpenAI API: give the URL of one") from error
            else:
                break
            self._watch.wait()
        if wanted is None and len(served) == 1:
            return served[0]
        if wanted not in served:
            raise InputError(f"--model is {wanted}: the server has {', '.join(served) or 'none'}")
        return wanted


class _Watch:
    """Whether a server is there, for all threads that ask it."""

    def __init__(self, api: Api, give_up_s: float, tell: Callable[[str], None]) -> None:
        self._api = api
        self._give_up_s = give_up_s
        self._tell = tell
        self._lock = threading.Lock()
        self._gone_since: float | None = None

    def well(self) -> None:
        """The server has answered."""
        with self._lock:
            if self._gone_since is not None:
                self._gone_since = None
                self._tell("the server is back")

    def wait(self) -> bool:
        """Return once the server is well, after a pause in any case; True if it was gone meanwhile.

        Raises
        ------
        ServerGoneError: it has been gone for too long.
        """
        pause_s, gone = _FIRST_PAUSE_SECONDS, False
        while True:
            time.sleep(pause_s)
            try:
                self._api.call("/health", timeout_s=_HEALTH_SECONDS)
            except _UNREACHABLE:
                gone = True
                self._gone()
            else:
                self.well()
                return gone
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_SECONDS)

    def _gone(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._gone_since is None:
                self._gone_since = now
                self._tell(f"the server {self._api.url} does not answer: waiting for it")
            gone_s = now - self._gone_since
        if gone_s >= self._give_up_s:
            raise ServerGoneError(
                f"the server {self._api.url} has not answered for {gone_s:.0f} s: start it and give the command again, "
                "which goes on from here"
            )


def _fields(answer: bytes) -> dict[str, Any]:
    parsed = json.loads(answer)
    text = parsed["choices"][0]["message"]["content"]
    return {"answer": (text or "").strip(), "prompt_tokens": int(parsed["usage"]["prompt_tokens"])}


def _reason(error: HTTPError) -> str:
    """What the server says of a request that it does not answer."""
    try:
        told = json.loads(error.read())
        return str(told.get("error", told).get("message"))
    except (*_UNREACHABLE, ValueError, AttributeError):
        return f"status {error.code}"


def _url(path: str, media: str) -> str:
    """A video for a request.

    Raises
    ------
    VideoError: no video file.
    InputError: one that is too large for a request.
    """
    file = local_file(path)
    # What cannot even be opened is not worth sending, and is told of in the same words as everywhere.
    container, _ = open_video(file)
    container.close()
    if media == "path":
        return f"file://{quote(str(file))}"
    if (megabytes := file.stat().st_size / 1e6) > _MOST_MEGABYTES:
        raise InputError(
            f"{file} has {megabytes:.0f} MB, too many for a request: let the server read files (vllm serve "
            "--allowed-local-media-path) and give --media path"
        )
    return f"data:video/mp4;base64,{base64.b64encode(Path(file).read_bytes()).decode()}"
