"""A stock model in this process, which answers one task after another; clips are decoded ahead."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..methods import build
from ..pipeline.ask import ask
from ..pipeline.load import VideoLLM
from ..video import Frames, decode
from .corpus import Task
from .engine import Outcome, failure
from .prefetch import Prefetch


class TransformersEngine:
    """`tangovlm.ask` for every task.

    Parameters
    ----------
    llm: from `tangovlm.load`.
    method: name of a registered method; `params` are its hyper-parameters other than the retention.
    frames: number of frames to sample from a clip; None for the default of the model.
    adaptive: see `tangovlm.method`.
    positions: see `tangovlm.attach`.
    """

    def __init__(
        self,
        llm: VideoLLM,
        method: str,
        frames: int | None = None,
        *,
        adaptive: bool = False,
        positions: str | None = None,
        **params: Any,
    ) -> None:
        self._llm = llm
        self._method = method
        self._params = params
        self._adaptive = adaptive
        self._positions = positions
        self._frames = frames or llm.default_frames

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`."""
        with Prefetch(tasks, self._decode) as clips:
            while (taken := clips.take()) is not None:
                task, clip = taken
                try:
                    yield self._ask(task, clip.result())
                except Exception as error:
                    # An error of any library on one clip must not affect the others.
                    yield failure(task, error)

    def _decode(self, task: Task) -> Frames:
        return decode(task.path, self._frames, fit=partial(self._llm.family.prompt.frame_size, self._llm.config))

    def _ask(self, task: Task, clip: Frames) -> Outcome:
        pruner = build.method(self._method, adaptive=self._adaptive, retention=task.retention, **self._params)
        answer = ask(
            clip,
            task.question,
            model=self._llm,
            method=pruner,
            max_new_tokens=task.max_new_tokens,
            positions=self._positions,
        )
        fields: dict[str, Any] = {
            "answer": str(answer),
            "tokens_before": answer.tokens_before,
            "tokens_after": answer.tokens_after,
            "frames": len(clip.pixels),
        }
        if answer.tokens_cap is not None:
            fields["tokens_cap"] = answer.tokens_cap
        return Outcome(task, fields)
