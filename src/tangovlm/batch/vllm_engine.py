"""vLLM in this process: continuous batching of many tasks; clips are decoded ahead."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter
from typing import Any, NoReturn, TypeVar

from ..checkpoints.checkpoint import first_line
from ..errors import InputError, ModelError
from ..models.common.layout import Grid
from ..pipeline.load import embedded_folder
from ..serve import compatibility
from ..serve.command import engine_options, has_option
from ..serve.options import REQUEST_KEY, ServeOptions
from ..serve.videos import video_item
from .clips import DecodedClip, answer_notes, decode_clip
from .corpus import Task
from .engine import EngineDiedError, Outcome, failure
from .prefetch import Prefetch
from .prompts import PromptBuilder

with compatibility.importing_vllm():
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.exceptions import EngineDeadError

compatibility.require_internals("batch")

T = TypeVar("T")

_TRIES = 2
"""Attempts per request: vLLM rejects a request whose video it evicted from one of its caches, and accepts it again."""


def engine_arguments(model: str | None, options: ServeOptions, extra: Sequence[str]) -> EngineArgs:
    """Arguments of vLLM's engine.

    Parameters
    ----------
    model: directory or hub id; None for the embedded model.
    extra: options of `vllm serve` that concern the engine.

    Raises
    ------
    InputError: an unknown option, or another mistake in the options.
    """
    parser = EngineArgs.add_cli_args(_Parser(prog="vllm", add_help=False))
    words = ["--model", str(embedded_folder(model) or model), *engine_options(model, options, extra)]
    if not has_option(extra, "--limit-mm-per-prompt"):
        words += ["--limit-mm-per-prompt", '{"video": 1, "image": 0}']
    return EngineArgs.from_cli_args(parser.parse_args(words))


class VllmEngine:
    """An engine of vLLM.

    Parameters
    ----------
    arguments: see `engine_arguments`.
    frames: number of frames of a task that sets neither a number nor a rate; None for the default of the model.
    concurrency: number of tasks in the engine at a time.

    Raises
    ------
    ModelError: vLLM cannot load the model.
    """

    def __init__(self, arguments: EngineArgs, frames: int | None = None, concurrency: int = 16) -> None:
        try:
            self._engine = LLMEngine.from_engine_args(arguments)
        except Exception as error:
            raise ModelError(f"vLLM cannot start with {arguments.model}: {first_line(error)}") from error
        self._prompts = PromptBuilder(
            arguments.model, self._engine.model_config.hf_config, self._engine.get_tokenizer()
        )
        self._frames = frames or self._prompts.default_frames
        self._concurrency = concurrency
        # A repetition penalty of the checkpoint also applies to greedy search.
        defaults = self._engine.model_config.get_diff_sampling_param()
        self._sampling = {"temperature": 0.0, "repetition_penalty": defaults.get("repetition_penalty", 1.0)}
        self._running: dict[str, _Request] = {}
        self._names = count()

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`.

        Raises
        ------
        EngineDiedError: vLLM died.
        """
        with Prefetch(tasks, self._decode) as clips:
            while True:
                while len(self._running) < self._concurrency:
                    # While requests are running, the engine does not wait for a clip.
                    taken = clips.take(wait=not self._running)
                    if taken is None:
                        break
                    if (failed := self._admit(*taken)) is not None:
                        yield failed
                if not self._running:
                    return
                for output in self._call(self._engine.step, Exception):
                    if output.finished and (outcome := self._finish(output)) is not None:
                        yield outcome

    def _decode(self, task: Task) -> DecodedClip:
        return decode_clip(task, self._frames, self._prompts.frame_size)

    def _admit(self, task: Task, decoding: Future[DecodedClip]) -> Outcome | None:
        known: dict[str, Any] = {}
        try:
            clip = decoding.result()
            known = clip.fields
            self._add(_Request(task, clip))
        except EngineDiedError:
            raise
        except Exception as error:
            # vLLM raises errors of many classes for a prompt that it does not accept.
            return failure(task, error, known)
        return None

    def _add(self, request: "_Request") -> None:
        """Pass a request to the engine; raises any error of vLLM about it."""
        task, clip = request.task, request.clip.frames
        prompt = {
            "prompt": self._prompts.text(task.question),
            "multi_modal_data": {"video": [video_item(clip)]},
            # Frames are already decoded in the size that the model expects.
            "mm_processor_kwargs": {REQUEST_KEY: task.retention, "do_resize": False},
        }
        (rendered,) = self._engine.renderer.render_cmpl([prompt])
        request.grid = self._prompts.grid(clip, rendered["mm_kwargs"]["video"][0])
        sampling = SamplingParams(max_tokens=task.max_new_tokens, **self._sampling)
        name = str(next(self._names))
        # Any other error concerns this request only.
        self._call(lambda: self._engine.add_request(name, rendered, sampling), EngineDeadError)
        self._running[name] = request

    def _call(self, call: Callable[[], T], fatal: type[Exception]) -> T:
        """Call the engine; an error of the class `fatal` means that the engine has died."""
        try:
            return call()
        except fatal as error:
            raise EngineDiedError("vLLM", len(self._running), first_line(error)) from error

    def _finish(self, output: Any) -> Outcome | None:
        request = self._running.pop(output.request_id)
        (completion,) = output.outputs
        if completion.finish_reason in ("error", "abort"):
            return self._retry(request)
        assert request.grid is not None
        answer = self._prompts.answer(completion.token_ids)
        fields: dict[str, Any] = {
            "answer": answer,
            "tokens_before": request.grid.tokens,
            "tokens_after": self._prompts.kept(output.prompt_token_ids, request.grid),
            **request.clip.fields,
        }
        fields["timings_ms"]["engine"] = round(1000 * (perf_counter() - request.start), 3)
        fields["notes"] += [*self._prompts.notes, *answer_notes(answer)]
        return Outcome(request.task, fields)

    def _retry(self, request: "_Request") -> Outcome | None:
        request.tries += 1
        if request.tries == _TRIES:
            error = ModelError("vLLM aborted the request: see its log")
            return failure(request.task, error, request.clip.fields)
        try:
            self._add(request)
        except EngineDiedError:
            raise
        except Exception as error:
            return failure(request.task, error, request.clip.fields)
        return None


@dataclass
class _Request:
    """A task in the engine, the token grid of its video before pruning, and when the engine got it."""

    task: Task
    clip: DecodedClip
    grid: Grid | None = None
    tries: int = 0
    start: float = field(default_factory=perf_counter)


class _Parser(FlexibleArgumentParser):
    """vLLM's parser, which raises `InputError` instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"an option for vLLM is wrong: {message}")
