"""Answers from a server with the OpenAI API: some requests at a time, which outlive the server's restarts."""

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
from ..serve.command import media_io
from ..serve.options import REQUEST_KEY
from ..video.source import local_file, open_video
from .api import BUSY, LOOK_SECONDS, NO_ENTRY, UNREACHABLE, Api, Watch, reason
from .engine import Outcome, failure
from .rows import Task

MEDIA = ("base64", "path")
"""How a server gets videos: within the request, or by their path, which it must be allowed to read."""
_MOST_MEGABYTES = 512
_TRIES = 3
"""So often a request may fail within a server that is well, before that is its row's fault."""
_DEATHS = 5
"""So often the server may go away with a request under way, before that is its row's fault."""
_MOST_IN_VAIN = 32
"""So many rows one after another that the server does not answer are not the rows' fault."""
_NOT_FOUND = 404
_TRUST = "--trust-request-mm-kwargs"


class Server:
    """A server that may go away and come back.

    Parameters
    ----------
    model: as the server calls it; None for the only one that it has.
    frames: how many to take of a clip; None for the server's own number.
    retention: of all rows that do not say; None for the server's own.
    concurrency: requests at a time.
    media: of `MEDIA`.
    give_up_s: how long the server may be gone, or too busy for a request.
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
        self._watch = Watch(api, give_up_s, tell)
        self._one_by_one = threading.Lock()
        self._in_vain = 0
        self.model = self._model(model)

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`.

        Raises
        ------
        ServerGoneError: see `Server`.
        InputError: it takes no settings from requests, but the command line has some; lets nobody in any more; does
            not have the model any more; or refuses whatever is asked.
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
        troubles = _Troubles()
        while True:
            # One of the requests that a server took with it may be why it went: one after another they tell.
            with self._one_by_one if troubles.deaths else nullcontext():
                outcome = self._try(task, body, troubles)
            if outcome is not None:
                return outcome

    def _try(self, task: Task, body: dict[str, Any], troubles: "_Troubles") -> Outcome | None:
        """Ask once; None for a task that is to be asked again, as the server is well now."""
        busy, departures = False, self._watch.departures
        try:
            answer = self._api.call("/v1/chat/completions", body)
            self._watch.answered()
            outcome = Outcome(task, _fields(answer))
            self._in_vain = 0
            return outcome
        except HTTPError as error:
            why, busy = reason(error), error.code in BUSY
            if error.code < 500 and not busy:
                return self._refused(task, error.code, why)
        except UNREACHABLE as error:
            why = str(error) or type(error).__name__
        except (ValueError, LookupError, TypeError):
            return self._given_up(task, "the server's answer is not that of an OpenAI API")
        self._watch.wait(busy=busy)
        # Another thread may have seen it.
        gone = self._watch.departures != departures
        if (verdict := troubles.one_more(why, gone=gone, busy=busy, patience_s=self._watch.give_up_s)) is None:
            return None
        if busy and not gone:
            self._watch.check_answers()
        return self._given_up(task, verdict)

    def _refused(self, task: Task, status: int, why: str) -> Outcome:
        """A request that the server is not going to answer, however often it comes."""
        if status in NO_ENTRY:
            raise InputError(f"the server lets nobody in ({status}): give its key as --api-key")
        if status == _NOT_FOUND:
            raise InputError(f"the server has no model {self.model} any more ({why}): start it with that one")
        told = self._frames is not None or (self._retention is not None and not task.own_retention)
        if told and _TRUST in why:
            raise InputError(
                f"the server takes no settings from requests: start it with {_TRUST}, or leave out "
                "--frames and --retention"
            )
        return self._given_up(task, f"the server refused: {why}")

    def _given_up(self, task: Task, why: str) -> Outcome:
        """A row that the server does not answer, as long as it answers others."""
        self._in_vain += 1
        if self._in_vain >= _MOST_IN_VAIN:
            raise InputError(
                f"{_MOST_IN_VAIN} rows one after another got no answer; of the last one, {why}: mend that and give "
                "the command again with --retry-failed"
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
        if self._frames is not None:
            body["media_io_kwargs"] = media_io(self._frames)
        return body

    def _model(self, wanted: str | None) -> str:
        while True:
            try:
                listed = json.loads(self._api.call("/v1/models", timeout_s=LOOK_SECONDS))["data"]
                served = [str(each["id"]) for each in listed]
            except HTTPError as error:
                if error.code in NO_ENTRY:
                    raise InputError(f"the server lets nobody in ({error.code}): give its key as --api-key") from error
                if error.code < 500 and error.code not in BUSY:
                    raise InputError(f"--server {self._api.url} has no OpenAI API ({error.code})") from error
            except UNREACHABLE:
                pass
            except (ValueError, LookupError, TypeError) as error:
                raise InputError(f"--server {self._api.url} has no OpenAI API: give the URL of one") from error
            else:
                break
            self._watch.wait()
            self._watch.check_answers()
        if wanted is None and len(served) == 1:
            return served[0]
        if wanted not in served:
            raise InputError(f"--model is {wanted}: the server has {', '.join(served) or 'none'}")
        return wanted


@dataclass
class _Troubles:
    """What has become of a request so far."""

    deaths: int = 0
    failures: int = 0
    busy_since: float | None = None

    def one_more(self, why: str, *, gone: bool, busy: bool, patience_s: float) -> str | None:
        """Count a request that was not answered; what is wrong with it once it has been asked often enough.

        Parameters
        ----------
        why: what the server said.
        gone: whether the server went away, which says nothing about a request until it goes again and again.
        busy: whether the server had no room for it.
        patience_s: how long that may be so.
        """
        now = time.monotonic()
        if gone:
            self.deaths, self.busy_since = self.deaths + 1, None
            return f"the server went away {_DEATHS} times with this row under way" if self.deaths == _DEATHS else None
        if busy:
            self.busy_since = now if self.busy_since is None else self.busy_since
            busy_s = now - self.busy_since
            return f"the server was too busy for this row for {busy_s:.0f} s: {why}" if busy_s >= patience_s else None
        self.failures += 1
        return f"the server failed {_TRIES} times: {why}" if self.failures == _TRIES else None


def _fields(answer: bytes) -> dict[str, Any]:
    parsed = json.loads(answer)
    text = parsed["choices"][0]["message"]["content"]
    return {"answer": (text or "").strip(), "prompt_tokens": int(parsed["usage"]["prompt_tokens"])}


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
