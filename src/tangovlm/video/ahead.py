"""A clip that a thread decodes while its first frames are used already."""

import os
import threading
import time
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from .decode import Frames, decode
from .pixels import Fit, Size


class FramesChangedError(Exception):
    """Damage left other frames than the file announced: decode it whole."""


class Ahead:
    """The frames that `decode` takes, in order, each as soon as it is there. Use it in a `with` statement.

    Leaving the context stops the thread. An error of `decode` is raised by whatever is asked for next.

    Parameters
    ----------
    path, frames, size, fit, pin_memory: see `decode`.

    Attributes
    ----------
    waited_ms: time that calls have spent waiting for the thread.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        frames: int,
        *,
        size: Size = None,
        fit: Fit | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.waited_ms = 0.0
        self._options: dict[str, Any] = {"size": size, "fit": fit, "pin_memory": pin_memory}
        self._news = threading.Condition()
        self._stopped = False
        self._timestamps_s: Tensor | None = None
        self._pictures = torch.empty(0, dtype=torch.uint8)
        self._count = 0
        self._outcome: Frames | Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(path, frames), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._thread.join()

    @property
    def timestamps_s(self) -> Tensor:
        """`(T,)` seconds of the frames that are on their way."""
        self._wait(lambda: self._timestamps_s is not None)
        assert self._timestamps_s is not None
        return self._timestamps_s

    def take(self, start: int, stop: int) -> Tensor:
        """Frames `start` to `stop` as `(stop - start, 3, H, W)` uint8.

        Raises
        ------
        FramesChangedError: what there is are not the frames that `timestamps_s` announced.
        """
        last = stop == len(self.timestamps_s)
        # With the last frame comes the certainty that all are what was announced.
        self._wait(lambda: self._count >= stop and not last)
        if isinstance(self._outcome, Frames) and not torch.equal(self._outcome.timestamps_s, self.timestamps_s):
            raise FramesChangedError
        return self._pictures[start:stop]

    def result(self) -> Frames:
        """All frames, once they are there."""
        self._wait(lambda: False)
        assert isinstance(self._outcome, Frames)
        return self._outcome

    # --- in the thread --------------------------------------------------------------------------------------------

    def _run(self, path: str | os.PathLike[str], frames: int) -> None:
        outcome: Frames | Exception
        try:
            outcome = decode(path, frames, watch=self, **self._options)
        except Exception as error:
            outcome = error
        with self._news:
            self._outcome = outcome
            self._news.notify_all()

    def planned(self, timestamps_s: Tensor) -> None:
        """See `decode.Watch`."""
        with self._news:
            self._timestamps_s = timestamps_s
            self._news.notify_all()

    def arrived(self, pictures: Tensor, count: int) -> None:
        """See `decode.Watch`."""
        if self._stopped:
            raise _StoppedError
        with self._news:
            self._pictures, self._count = pictures, count
            self._news.notify_all()

    # --- in the other one -----------------------------------------------------------------------------------------

    def _wait(self, enough: Any) -> None:
        """Until there is enough or the thread has ended; raises what ended it."""
        start = time.perf_counter()
        with self._news:
            self._news.wait_for(lambda: self._outcome is not None or enough())
        self.waited_ms += 1000 * (time.perf_counter() - start)
        if isinstance(self._outcome, Exception):
            raise self._outcome


class _StoppedError(Exception):
    """Nobody waits for the frames any more."""
