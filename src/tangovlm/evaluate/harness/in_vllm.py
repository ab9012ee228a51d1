"""Answers of vLLM's engine to the requests of a harness: one video and one question each."""

from collections.abc import Callable, Sequence

from tangovlm.batch.choice import Settings as EngineSettings
from tangovlm.batch.choice import check
from tangovlm.batch.rows import Task
from tangovlm.errors import InputError, MethodError

from .requests import Answered, Request
from .settings import VARIANTS, Settings

_LEAST_AT_ONCE = 16
"""Questions in the engine at a time, whatever the batch size: it batches by itself."""


class VllmAnswerer:
    """An engine of vLLM in this process.

    Parameters
    ----------
    settings: of the model and the method.

    Raises
    ------
    TangoError: vLLM is not installed, does not know the model or the method, or cannot start.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.method.endswith(VARIANTS):
            raise MethodError(f"backend=vllm does not take method={settings.method}: name tango with its parameters")
        self._retention = settings.retention
        engine = EngineSettings(
            model=settings.checkpoint,
            method=settings.method,
            retention=settings.retention,
            saliency=settings.saliency,
            head_weights=settings.head_weights,
            frames=settings.frames,
            dtype=settings.dtype,
            concurrency=max(settings.batch_size, _LEAST_AT_ONCE),
            extra=settings.vllm,
            kind="vllm",
            params=settings.params,
        )
        check(engine)
        self._engine = engine.build()

    def answer(
        self, requests: Sequence[Request], finished: Callable[[int, Answered], None] | None = None
    ) -> list[Answered]:
        """See `Answerer.answer`; times and memory are not known, and stay empty.

        Raises
        ------
        InputError: a request of something else than one video file and one question, sampling or beams; or one that
            vLLM gives no answer to.
        """
        tasks = [_task(place, request, self._retention) for place, request in enumerate(requests)]
        answers: dict[int, Answered] = {}
        for outcome in self._engine.answer(iter(tasks)):
            place, fields = int(outcome.task.id), outcome.fields
            if "error" in fields:
                raise InputError(f"{outcome.task.video}: {fields['error']}")
            answers[place] = Answered(
                requests[place].limits.cut(fields["answer"]),
                tokens_before=fields["tokens_before"],
                tokens_after=fields["tokens_after"],
                frames=fields["frames"],
            )
            if finished is not None:
                finished(place, answers[place])
        return [answers[place] for place in range(len(requests))]


def _task(place: int, request: Request, retention: float) -> Task:
    turns, limits = request.turns, request.limits
    contents = [turn["content"] for turn in turns]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    words = [part["text"] for part in parts if part.get("type") == "text"]
    if len(turns) != 1 or len(request.videos) != 1 or len(words) != 1 or not isinstance(request.videos[0], str):
        raise InputError(
            "backend=vllm takes one video file and one text a question, without a system prompt: take "
            "backend=transformers"
        )
    if limits.temperature or limits.num_beams != 1:
        raise InputError("backend=vllm searches greedily: leave out temperature and num_beams")
    return Task(place, request.videos[0], words[0], retention, limits.max_new_tokens)
