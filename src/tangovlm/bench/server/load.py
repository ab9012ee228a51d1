"""Client of an OpenAI-compatible server: concurrent requests, and the times of their tokens."""

import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tangovlm.errors import ModelError

from .process import HOST

_REQUEST_S = 300
_DATA, _DONE = b"data: ", b"[DONE]"


@dataclass(frozen=True)
class Reply:
    """The times and counts of one request.

    Parameters
    ----------
    first_token_s, last_token_s: seconds since the request was sent.
    prompt_tokens, new_tokens: as the server counts them.
    """

    first_token_s: float
    last_token_s: float
    prompt_tokens: int
    new_tokens: int


def request(model: str, video: str, question: str, new_tokens: int) -> dict[str, Any]:
    """The body of a request for exactly ``new_tokens`` tokens, which are streamed.

    Parameters
    ----------
    video: a URL.
    """
    content = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": question}]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def drive(port: int, bodies: Sequence[dict[str, Any]], concurrency: int) -> tuple[list[Reply], float]:
    """Send all requests, ``concurrency`` of them at the same time.

    Returns
    -------
    The replies, and the seconds from the first request to the last token.

    Raises
    ------
    ModelError: the server refuses one, or stops answering.
    """
    start = time.perf_counter()
    pool = ThreadPoolExecutor(concurrency)
    try:
        replies = list(pool.map(lambda body: ask(port, body), bodies))
        return replies, time.perf_counter() - start
    finally:
        # After a failure, requests in progress are not awaited: they end with the server.
        pool.shutdown(wait=False, cancel_futures=True)


def ask(port: int, body: dict[str, Any]) -> Reply:
    """Send one request and read its stream to the end.

    Raises
    ------
    ModelError: see `drive`.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=_REQUEST_S)
    text = json.dumps(body)
    start = time.perf_counter()
    try:
        connection.request("POST", "/v1/chat/completions", text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ModelError(f"the server refused a request with status {answer.status}: {answer.read().decode()}")
        return _read(answer, start)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(f"the server stopped answering: {error!r}") from error
    finally:
        connection.close()


def _read(answer: http.client.HTTPResponse, start: float) -> Reply:
    """Read server-sent events; each contains the number of tokens so far."""
    first = last = None
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    for line in answer:
        if not line.startswith(_DATA) or line.startswith(_DATA + _DONE):
            continue
        event = json.loads(line.removeprefix(_DATA))
        if "error" in event:
            raise ModelError(f"the server ended a request: {event['error']}")
        tokens = usage["completion_tokens"]
        usage = event.get("usage") or usage
        if usage["completion_tokens"] > tokens:
            last = time.perf_counter() - start
            first = first or last
    if first is None or last is None:
        raise ModelError("the server sent no token: its release does not count tokens while it streams")
    return Reply(first, last, usage["prompt_tokens"], usage["completion_tokens"])
