"""A running server with the OpenAI API: several requests at a time, which are repeated if the server restarts."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from ..errors import InputError, VideoError
from ..serve.options import REQUEST_KEY
from ..serve.videos import LOADER, media_io
from ..video import FrameSampling
from ..video.source import local_file, open_video
from .clips import answer_notes
from .corpus import Task
from .engine import Outcome, failure
from .server_api import BUSY, LOOK_SECONDS, NO_ENTRY, UNREACHABLE, ServerApi, ServerMonitor, reason

MEDIA = ("base64", "path")
"""How videos are sent: within the request, or as paths that the server is allowed to read."""
_MAX_MEGABYTES = 512
_MAX_FAILURES = 3
"""Failures of a request on an available server, after which its row counts as failed."""
_MAX_OUTAGES = 5
"""Outages of the server during a request, after which its row counts as failed."""
_MAX_CONSECUTIVE_FAILURES = 32
"""Failed rows one after another, after which the cause is not the rows, and the command ends."""
_NOT_FOUND = 404
_TRUST = "--trust-request-mm-kwargs"
_NO_LOADER = f"class {LOADER} not found"


class ServerEngine:
    """A server that may become unavailable and come back.

    Parameters
    ----------
    model: its name on the server; None for the only one that the server has.
    sampling: which frames the tasks take that do not say it themselves, for error messages.
    retention: of rows that do not set their own; None for the default of the server.
    concurrency: number of requests at a time.
    media: one of `MEDIA`.
    give_up_s: how long the server may be unavailable, or too busy for a request.
    notify: called with one line of text when the server becomes unavailable and when it is back.

    Raises
    ------
    InputError: the server does not have the model, or denies access.
    ServerGoneError: it has been unavailable for `give_up_s`.
    """

    def __init__(
        self,
        api: ServerApi,
        model: str | None = None,
        *,
        sampling: FrameSampling | None = None,
        retention: float | None = None,
        concurrency: int = 16,
        media: str = "base64",
        give_up_s: float = 600.0,
        notify: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._api = api
        self._sampling = sampling or FrameSampling()
        self._retention = retention
        self._concurrency = concurrency
        self._media = media
        self._monitor = ServerMonitor(api, give_up_s, notify)
        self._one_by_one = threading.Lock()
        self._consecutive_failures = 0
        self.model = self._model_name(model)

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`.

        Raises
        ------
        ServerGoneError: see `ServerEngine`.
        InputError: the server does not accept settings from requests, but the command line has some; it denies access
            or does not have the model any more; or it refuses every request.
        """
        waiting: SimpleQueue[Task | None] = SimpleQueue()
        done: SimpleQueue[Outcome | Exception] = SimpleQueue()
        # Daemon threads, because the process may end while requests are in progress.
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
                # The thread that waits for this task must get any error.
                done.put(error)

    def _ask(self, task: Task) -> Outcome:
        try:
            body = self._body(task)
        except (VideoError, InputError) as error:
            return failure(task, error)
        attempts = _Attempts()
        while True:
            # One of the requests during an outage may be its cause: sent one at a time, it is found.
            with self._one_by_one if attempts.outages else nullcontext():
                outcome = self._try(task, body, attempts)
            if outcome is not None:
                return outcome

    def _try(self, task: Task, body: dict[str, Any], attempts: "_Attempts") -> Outcome | None:
        """Send a request once; None if it must be repeated, now that the server is available."""
        busy, outages = False, self._monitor.outages
        start = time.perf_counter()
        try:
            answer = self._api.call("/v1/chat/completions", body)
            self._monitor.record_answer()
            outcome = Outcome(task, _fields(answer, 1000 * (time.perf_counter() - start)))
            self._consecutive_failures = 0
            return outcome
        except HTTPError as error:
            why, busy = reason(error), error.code in BUSY
            if _NO_LOADER in why:
                return self._fail(task, "the server cannot take a part of a video: it must prune with this package")
            if error.code < 500 and not busy:
                return self._refused(task, error.code, why)
        except UNREACHABLE as error:
            why = str(error) or type(error).__name__
        except (ValueError, LookupError, TypeError):
            return self._fail(task, "the server's answer is not that of an OpenAI API")
        self._monitor.wait(busy=busy)
        # Another thread may have noticed the outage.
        gone = self._monitor.outages != outages
        if (verdict := attempts.add_failure(why, gone=gone, busy=busy, patience_s=self._monitor.give_up_s)) is None:
            return None
        if busy and not gone:
            self._monitor.check_answers()
        return self._fail(task, verdict)

    def _refused(self, task: Task, status: int, why: str) -> Outcome:
        """A request that the server would refuse again if it were repeated."""
        if status in NO_ENTRY:
            raise InputError(f"the server denies access ({status}): give its key as --api-key")
        if status == _NOT_FOUND:
            raise InputError(f"the server has no model {self.model} any more ({why}): start it with that one")
        of_command = self._sampling != FrameSampling() or (self._retention is not None and not task.own_retention)
        if of_command and _TRUST in why:
            raise InputError(
                f"the server accepts no settings from requests: start it with {_TRUST}, or leave out --retention and "
                "the options that choose frames"
            )
        return self._fail(task, f"the server refused: {why}")

    def _fail(self, task: Task, why: str) -> Outcome:
        """The outcome of a row that the server does not answer; raises if it does not answer any."""
        self._consecutive_failures += 1
        if self._consecutive_failures >= _MAX_CONSECUTIVE_FAILURES:
            raise InputError(
                f"{_MAX_CONSECUTIVE_FAILURES} rows one after another got no answer; of the last one, {why}: fix that "
                "and give the command again with --retry-failed"
            )
        return failure(task, InputError(why))

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
        if options := media_io(task.sampling):
            body["media_io_kwargs"] = options
        return body

    def _model_name(self, name: str | None) -> str:
        while True:
            try:
                listed = json.loads(self._api.call("/v1/models", timeout_s=LOOK_SECONDS))["data"]
                served = [str(each["id"]) for each in listed]
            except HTTPError as error:
                if error.code in NO_ENTRY:
                    raise InputError(f"the server denies access ({error.code}): give its key as --api-key") from error
                if error.code < 500 and error.code not in BUSY:
                    raise InputError(f"--server {self._api.url} has no OpenAI API ({error.code})") from error
            except UNREACHABLE:
                pass
            except (ValueError, LookupError, TypeError) as error:
                raise InputError(f"--server {self._api.url} has no OpenAI API: give the URL of one") from error
            else:
                break
            self._monitor.wait()
            self._monitor.check_answers()
        if name is None and len(served) == 1:
            return served[0]
        if name not in served:
            raise InputError(f"--model is {name}: the server has {', '.join(served) or 'none'}")
        return name


@dataclass
class _Attempts:
    """Unsuccessful attempts of a request so far."""

    outages: int = 0
    failures: int = 0
    busy_since: float | None = None

    def add_failure(self, why: str, *, gone: bool, busy: bool, patience_s: float) -> str | None:
        """Count an unsuccessful attempt; returns why the row has failed, or None if the request must be repeated.

        Parameters
        ----------
        why: the reason given by the server.
        gone: whether the server became unavailable; the request counts as the cause only after repeated outages.
        busy: whether the server was too busy.
        patience_s: how long it may be too busy.
        """
        now = time.monotonic()
        if gone:
            self.outages, self.busy_since = self.outages + 1, None
            if self.outages < _MAX_OUTAGES:
                return None
            return f"the server became unavailable {_MAX_OUTAGES} times with this row in progress"
        if busy:
            self.busy_since = now if self.busy_since is None else self.busy_since
            busy_s = now - self.busy_since
            return f"the server was too busy for this row for {busy_s:.0f} s: {why}" if busy_s >= patience_s else None
        self.failures += 1
        return f"the server failed {_MAX_FAILURES} times: {why}" if self.failures == _MAX_FAILURES else None


def _fields(body: bytes, request_ms: float) -> dict[str, Any]:
    parsed = json.loads(body)
    answer = (parsed["choices"][0]["message"]["content"] or "").strip()
    return {
        "answer": answer,
        "prompt_tokens": int(parsed["usage"]["prompt_tokens"]),
        # The server chooses the frames, and does not name them.
        "frame_times_s": None,
        "timings_ms": {"request": round(request_ms, 3)},
        "notes": answer_notes(answer),
    }


def _url(path: str, media: str) -> str:
    """URL of a video for a request.

    Raises
    ------
    VideoError: not a video file.
    InputError: one that is too large for a request.
    """
    file = local_file(path)
    # A file that cannot be opened is not sent; the message is the same as with other engines.
    container, _ = open_video(file)
    container.close()
    if media == "path":
        return f"file://{quote(str(file))}"
    if (megabytes := file.stat().st_size / 1e6) > _MAX_MEGABYTES:
        raise InputError(
            f"{file} has {megabytes:.0f} MB, too many for a request: let the server read files (vllm serve "
            "--allowed-local-media-path) and give --media path"
        )
    return f"data:video/mp4;base64,{base64.b64encode(Path(file).read_bytes()).decode()}"
