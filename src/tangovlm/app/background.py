"""Work in a thread whose results are iterated over while it runs, and which ends if nobody wants them any more."""

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class CancelledWork(Exception):  # noqa: N818 # not an error
    """Raised inside the work when its results are not wanted any more."""


class Emitter(Generic[T]):
    """Passes results from the work to the iterator."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[T | BaseException | None] = SimpleQueue()
        self.cancelled = Event()

    def __call__(self, result: T) -> None:
        """Pass a result; raises `CancelledWork` if nobody wants it."""
        self.check()
        self.queue.put(result)

    def check(self) -> None:
        """Raise `CancelledWork` if nobody wants further results."""
        if self.cancelled.is_set():
            raise CancelledWork


def iterate(work: Callable[[Emitter[T]], None], pause_s: float = 0.1) -> Iterator[T]:
    """Run `work` in a thread and yield what it emits; of results that come within a pause, only the last.

    If the iterator is closed, the work gets `CancelledWork` from its next call of the emitter. An exception of the work
    is raised after the results before it.

    Parameters
    ----------
    pause_s: the shortest time between two results, except before the last one.
    """
    emitter: Emitter[T] = Emitter()

    def run() -> None:
        try:
            work(emitter)
        except CancelledWork:
            pass
        except BaseException as error:
            emitter.queue.put(error)
        finally:
            emitter.queue.put(None)

    Thread(target=run, name="tangovlm-app", daemon=True).start()
    try:
        ended, until = False, 0.0
        while not ended:
            waiting = [emitter.queue.get()]
            # Endless work would fill the queue again while it is emptied.
            while waiting[-1] is not None and (left := until - monotonic()) > 0:
                try:
                    waiting.append(emitter.queue.get(timeout=left))
                except Empty:
                    break
            waiting += [emitter.queue.get() for _ in range(emitter.queue.qsize())]
            ended, until = waiting[-1] is None, monotonic() + pause_s
            results = [each for each in waiting if each is not None and not isinstance(each, BaseException)]
            if results:
                yield results[-1]
            for each in waiting:
                if isinstance(each, BaseException):
                    raise each
    finally:
        emitter.cancelled.set()
