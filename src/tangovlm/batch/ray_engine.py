"""Engines on many machines: Ray Data distributes the tasks and collects the outcomes.

Tasks and outcomes are sent as lines of JSON. Each machine reads the videos of its tasks, so paths must be valid on all.
A block of tasks is answered as a whole or not at all.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ..errors import InputError
from ..machine.installation import install_command
from .corpus import Task
from .engine import Engine, Outcome
from .settings import Settings

_BLOCK_FACTOR = 4
"""Tasks in a block, as a multiple of those that an engine runs at a time, so that it is seldom idle."""


def check_ray() -> None:
    """Raise `InputError` if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"Ray is not installed: {install_command('ray')}, or leave out --ray")


class RayEngine:
    """Engines that Ray starts.

    Parameters
    ----------
    settings: of each engine; its kind must be set.
    workers: number of engines.
    """

    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings = settings
        self._workers = workers

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Engine.answer`; all tasks are drawn before the first answer.

        Raises
        ------
        InputError: a worker cannot start, or keeps failing.
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
        least = -(-len(tasks) // (_BLOCK_FACTOR * self._settings.concurrency))
        blocks = max(least, min(self._workers, len(tasks)))
        results = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=blocks).map_batches(
            Worker,
            fn_constructor_args=(self._settings,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=self._workers),
            num_gpus=self._gpus(),
        )
        for row in results.iter_rows():
            yield row["outcome"]

    def _gpus(self) -> int | None:
        """GPUs per worker, which its engine uses; None on a cluster without GPUs."""
        import ray

        if not ray.cluster_resources().get("GPU"):
            return None
        if self._settings.kind != "vllm":
            return 1
        from .vllm_engine import engine_arguments

        arguments = engine_arguments(self._settings.model, self._settings.options, self._settings.extra)
        return int(arguments.tensor_parallel_size * arguments.pipeline_parallel_size)


class Worker:
    """An engine on one machine; called by Ray Data."""

    def __init__(self, settings: Settings) -> None:
        self._engine: Engine = settings.build()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Outcomes of a batch of tasks, in any order."""
        tasks = (Task.from_dict(json.loads(line)) for line in batch["task"])
        return {"outcome": [json.dumps([each.task.id, dict(each.fields)]) for each in self._engine.answer(tasks)]}


def _cause(error: Exception) -> str:
    """The last line of the error of Ray, which is the error of the worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
