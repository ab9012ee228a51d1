"""Answers from vLLM in this process: many tasks at a time through continuous batching, clips decoded ahead."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn, TypeVar

from ..checkpoints.checkpoint import first_line
from ..errors import InputError, ModelError
from ..models.common.layout import Grid
from ..pipeline.load import BUILTIN
from ..serve import compat
from ..serve.command import engine_options, has_option
from ..serve.options import REQUEST_KEY, ServeOptions
from ..video import Frames, decode
from .engine import EngineDiedError, Outcome, failure
from .prefetch import Prefetch
from .prompts import Prompts, video_item
from .rows import Task

with compat.internals():
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.exceptions import EngineDeadError

compat.require_seams("batch")

T = TypeVar("T")

_TRIES = 2
"""A request whose video vLLM lost from one of its caches is refused once, and taken when it comes again."""


def engine_arguments(model: str | None, options: ServeOptions, extra: Sequence[str]) -> EngineArgs:
    """What vLLM's engine is made from.

    Parameters
    ----------
    model: directory or hub id; None for the embedded model.
    extra: options as those of `vllm serve`, as far as they are the engine's.

    Raises
    ------
    InputError: an option that the engine does not have, or another mistake in them.
    """
    parser = EngineArgs.add_cli_args(_Parser(prog="vllm", add_help=False))
    words = ["--model", str(model or BUILTIN), *engine_options(model, options, extra)]
    if not has_option(extra, "--limit-mm-per-prompt"):
        words += ["--limit-mm-per-prompt", '{"video": 1, "image": 0}']
    return EngineArgs.from_cli_args(parser.parse_args(words))


class InVllm:
    """An engine of vLLM.

    Parameters
    ----------
    arguments: see `engine_arguments`.
    frames: how many to take of a clip; None for what the model is meant for.
    concurrency: how many tasks are in the engine at a time.

    Raises
    ------
    ModelError: vLLM cannot load the model.
    """

    def __init__(self, arguments: EngineArgs, frames: int | None = None, concurrency: int = 16) -> None:
        try:
            self._engine = LLMEngine.from_engine_args(arguments)
        except Exception as error:
            raise ModelError(f"vLLM cannot start with {arguments.model}: {first_line(error)}") from error
        self._prompts = Prompts(arguments.model, self._engine.model_config.hf_config, self._engine.get_tokenizer())
        self._frames = frames or self._prompts.default_frames
        self._concurrency = concurrency
        # A penalty of the checkpoint counts in greedy search too.
        told = self._engine.model_config.get_diff_sampling_param()
        self._sampling = {"temperature": 0.0, "repetition_penalty": told.get("repetition_penalty", 1.0)}
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
                    # With work to do, the engine waits for no clip.
                    taken = clips.take(patient=not self._running)
                    if taken is None:
                        break
                    if (refused := self._admit(*taken)) is not None:
                        yield refused
                if not self._running:
                    return
                for output in self._alive(self._engine.step, Exception):
                    if output.finished and (outcome := self._finish(output)) is not None:
                        yield outcome

    def _decode(self, task: Task) -> Frames:
        return decode(task.path, self._frames, fit=self._prompts.frame_size)

    def _admit(self, task: Task, clip: Future[Frames]) -> Outcome | None:
        try:
            self._add(_Request(task, clip.result()))
        except EngineDiedError:
            raise
        except Exception as error:
            # vLLM raises errors of many classes for a prompt that it does not take.
            return failure(task, error)
        return None

    def _add(self, request: "_Request") -> None:
        """Hand a request to the engine; raises whatever vLLM finds wrong with it."""
        task, clip = request.task, request.clip
        prompt = {
            "prompt": self._prompts.text(task.question),
            "multi_modal_data": {"video": [video_item(clip)]},
            # Frames were decoded in the size that the model is meant for.
            "mm_processor_kwargs": {REQUEST_KEY: task.retention, "do_resize": False},
        }
        (rendered,) = self._engine.renderer.render_cmpl([prompt])
        request.grid = self._prompts.grid(clip, rendered["mm_kwargs"]["video"][0])
        sampling = SamplingParams(max_tokens=task.max_new_tokens, **self._sampling)
        name = str(next(self._names))
        # Other errors than that one are the request's own.
        self._alive(lambda: self._engine.add_request(name, rendered, sampling), EngineDeadError)
        self._running[name] = request

    def _alive(self, call: Callable[[], T], deadly: type[Exception]) -> T:
        """What a call of the engine gives; `deadly` is the class of errors after which there is no engine."""
        try:
            return call()
        except deadly as error:
            raise EngineDiedError("vLLM", len(self._running), first_line(error)) from error

    def _finish(self, output: Any) -> Outcome | None:
        request = self._running.pop(output.request_id)
        (completion,) = output.outputs
        if completion.finish_reason in ("error", "abort"):
            return self._again(request)
        assert request.grid is not None
        fields = {
            "answer": self._prompts.answer(completion.token_ids),
            "tokens_before": request.grid.tokens,
            "tokens_after": self._prompts.kept(output.prompt_token_ids, request.grid),
            "frames": len(request.clip.pixels),
        }
        return Outcome(request.task, fields)

    def _again(self, request: "_Request") -> Outcome | None:
        request.tries += 1
        if request.tries == _TRIES:
            return failure(request.task, ModelError("vLLM gave the request up: see its log"))
        try:
            self._add(request)
        except EngineDiedError:
            raise
        except Exception as error:
            return failure(request.task, error)
        return None


@dataclass
class _Request:
    """A task in the engine, and the grid of its video's tokens before pruning."""

    task: Task
    clip: Frames
    grid: Grid | None = None
    tries: int = 0


class _Parser(FlexibleArgumentParser):
    """vLLM's parser, whose complaints are ours."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"an option for vLLM is wrong: {message}")
