"""Answers the requests of a harness with vLLM's engine; each has one video and one question."""

from collections.abc import Sequence

from tangovlm.batch.corpus import Task
from tangovlm.batch.settings import Settings as EngineSettings
from tangovlm.batch.settings import check_settings
from tangovlm.errors import InputError, MethodError

from .requests import Completion, OnCompletion, Request
from .settings import VARIANTS, Settings

_MIN_CONCURRENCY = 16
"""Least number of questions in the engine at a time, which forms its own batches."""


class VllmAnswerer:
    """A vLLM engine in this process.

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
            concurrency=max(settings.batch_size, _MIN_CONCURRENCY),
            extra=settings.vllm,
            kind="vllm",
            params=settings.params,
            adaptive=settings.adaptive,
            positions=settings.positions,
        )
        check_settings(engine)
        self._engine = engine.build()

    def answer(self, requests: Sequence[Request], on_completion: OnCompletion | None = None) -> list[Completion]:
        """See `Answerer.answer`; times and memory are not measured.

        Raises
        ------
        InputError: a request without exactly one video file and one question, sampling or beam search, or a request
            that vLLM does not answer.
        """
        tasks = [_task(index, request, self._retention) for index, request in enumerate(requests)]
        completions: dict[int, Completion] = {}
        for outcome in self._engine.answer(iter(tasks)):
            index, fields = int(outcome.task.id), outcome.fields
            if "error" in fields:
                raise InputError(f"{outcome.task.video}: {fields['error']}")
            completions[index] = Completion(
                requests[index].options.cut(fields["answer"]),
                tokens_before=fields["tokens_before"],
                tokens_after=fields["tokens_after"],
                frames=fields["frames"],
            )
            if on_completion is not None:
                on_completion(index, completions[index])
        return [completions[index] for index in range(len(requests))]


def _task(index: int, request: Request, retention: float) -> Task:
    turns, options = request.turns, request.options
    contents = [turn["content"] for turn in turns]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    texts = [part["text"] for part in parts if part.get("type") == "text"]
    if len(turns) != 1 or len(request.videos) != 1 or len(texts) != 1 or not isinstance(request.videos[0], str):
        raise InputError(
            "backend=vllm takes one video file and one text per question, without a system prompt: use "
            "backend=transformers"
        )
    if options.temperature or options.num_beams != 1:
        raise InputError("backend=vllm decodes greedily: leave out temperature and num_beams")
    return Task(index, request.videos[0], texts[0], retention, options.max_new_tokens)
