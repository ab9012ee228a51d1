"""Answers from a stock model in this process, one after another; clips are decoded ahead."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..methods import build
from ..pipeline import ask as pipeline
from ..pipeline.load import VideoLLM
from ..video import Frames, decode
from .engine import Outcome, failure
from .prefetch import Prefetch
from .rows import Task


class InTransformers:
    """`tangovlm.ask` for every task.

    Parameters
    ----------
    llm: what `tangovlm.load` returned.
    method: of the registry, with `params` beside its retention.
    frames: how many to take of a clip; None for what the model is meant for.
    """

    def __init__(self, llm: VideoLLM, method: str, frames: int | None = None, **params: Any) -> None:
        self._llm = llm
        self._method = method
        self._params = params
        self._frames = frames or llm.default_frames

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`."""
        with Prefetch(tasks, self._decode) as clips:
            while (taken := clips.take()) is not None:
                task, clip = taken
                try:
                    yield self._ask(task, clip.result())
                except Exception as error:
                    # Whatever a clip does to the libraries, the others are not to suffer.
                    yield failure(task, error)

    def _decode(self, task: Task) -> Frames:
        return decode(task.path, self._frames, fit=partial(self._llm.family.frame_size, self._llm.config))

    def _ask(self, task: Task, clip: Frames) -> Outcome:
        pruner = build.method(self._method, retention=task.retention, **self._params)
        answer = pipeline.ask(clip, task.question, model=self._llm, method=pruner, max_new_tokens=task.max_new_tokens)
        fields = {
            "answer": str(answer),
            "tokens_before": answer.tokens_before,
            "tokens_after": answer.tokens_after,
            "frames": len(clip.pixels),
        }
        return Outcome(task, fields)
