"""Answers from engines on many machines: Ray Data deals the tasks out, the caller gets them back.

Tasks and outcomes travel as lines of JSON; videos are read by the machine that needs them, so paths must mean the same
on all. What is dealt out at a time is answered as a whole or not at all.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ..errors import InputError
from .choice import Settings
from .engine import Engine, Outcome
from .rows import Task

_DEAL = 4
"""A worker gets so many times as many tasks at once as its engine answers side by side, which seldom idles then."""


def check_ray() -> None:
    """Raise `InputError` where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("Ray is not installed: pip install 'tangovlm[ray]', or leave out --ray")


class InRay:
    """Engines that Ray starts.

    Parameters
    ----------
    settings: of each engine; its kind is decided.
    workers: how many engines.
    """

    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings = settings
        self._workers = workers

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`; tasks are drawn before the first answer.

        Raises
        ------
        InputError: a worker cannot start, or went on failing.
        """
        import ray

        waiting = {task.id: task for task in tasks}
        if not waiting:
            return
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
        try:
            for line in self._lines([json.dumps(asdict(task)) for task in waiting.values()]):
                name, fields = json.loads(line)
                yield Outcome(waiting[name], fields)
        except ray.exceptions.RayError as error:
            raise InputError(f"Ray cannot go on: {_cause(error)}") from error

    def _lines(self, tasks: list[str]) -> Iterator[str]:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        deals = -(-len(tasks) // (_DEAL * self._settings.concurrency))
        blocks = max(deals, min(self._workers, len(tasks)))
        dealt = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=blocks).map_batches(
            Worker,
            fn_constructor_args=(self._settings,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=self._workers),
            num_gpus=self._gpus(),
        )
        for row in dealt.iter_rows():
            yield row["outcome"]

    def _gpus(self) -> int | None:
        """Of each worker: what its engine spreads over, on a cluster that has any."""
        import ray

        if not ray.cluster_resources().get("GPU"):
            return None
        if self._settings.kind != "vllm":
            return 1
        from .in_vllm import engine_arguments

        arguments = engine_arguments(self._settings.model, self._settings.options, self._settings.extra)
        return int(arguments.tensor_parallel_size * arguments.pipeline_parallel_size)


class Worker:
    """An engine on one machine, as Ray Data calls it."""

    def __init__(self, settings: Settings) -> None:
        self._engine: Engine = settings.build()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Outcomes of a batch, in any order."""
        tasks = (Task(**json.loads(line)) for line in batch["task"])
        return {"outcome": [json.dumps([each.task.id, dict(each.fields)]) for each in self._engine.answer(tasks)]}


def _cause(error: Exception) -> str:
    """The end of what Ray tells, which is what happened to the worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
