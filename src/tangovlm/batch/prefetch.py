"""Prepares tasks in threads, ahead of an engine."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from types import TracebackType
from typing import Generic, Self, TypeVar

from .corpus import Task

T = TypeVar("T")

THREADS = min(4, os.cpu_count() or 1)
"""Few, because each decoder itself uses several threads."""


class Prefetch(Generic[T]):
    """Results of `work` on tasks, in the order in which they are finished; a context manager.

    Parameters
    ----------
    tasks: drawn by the thread that calls `take`.
    work: called in a thread, once for consecutive tasks about the same frames; so it may use only `Task.clip`.
    threads: number of threads; twice as many tasks are in progress or finished but not taken.
    """

    def __init__(self, tasks: Iterator[Task], work: Callable[[Task], T], threads: int = THREADS) -> None:
        self._tasks = tasks
        self._work = work
        self._depth = 2 * threads
        self._threads = ThreadPoolExecutor(threads)
        self._waiting: list[tuple[Task, Future[T]]] = []
        self._last: tuple[object, Future[T]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def take(self, *, wait: bool = True) -> tuple[Task, Future[T]] | None:
        """Take a task and its result, which may be an error; None if there is none.

        Parameters
        ----------
        wait: wait for the next result, so that None means that all tasks have been taken.
        """
        while len(self._waiting) < self._depth and (task := next(self._tasks, None)) is not None:
            self._waiting.append((task, self._begin(task)))
        if wait and self._waiting:
            wait_for([future for _, future in self._waiting], return_when=FIRST_COMPLETED)
        place = next((place for place, (_, future) in enumerate(self._waiting) if future.done()), None)
        return None if place is None else self._waiting.pop(place)

    def _begin(self, task: Task) -> Future[T]:
        if self._last is None or self._last[0] != task.clip:
            self._last = task.clip, self._threads.submit(self._work, task)
        return self._last[1]
