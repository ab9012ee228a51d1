"""Counters on the ``/metrics`` page of vLLM's server: visual tokens before and after pruning."""

from functools import cache
from typing import Any


@cache
def _counters() -> tuple[Any, Any, Any]:
    # A dependency of vLLM. Its registry is global, so counters must be created once.
    from prometheus_client import Counter

    return (
        Counter("tangovlm:videos", "Videos processed; hits of the processor's cache are not counted."),
        Counter("tangovlm:video_tokens_before", "Visual tokens of the videos processed, unpruned."),
        Counter("tangovlm:video_tokens_after", "Visual tokens of the videos processed that are kept."),
    )


def count_video(before: int, after: int) -> None:
    """Count a video with its numbers of tokens before and after pruning."""
    videos, tokens_before, tokens_after = _counters()
    videos.inc()
    tokens_before.inc(before)
    tokens_after.inc(after)
