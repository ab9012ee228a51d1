"""Decoding a clip in a background thread while its first frames are already in use."""

import threading
import time
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from .decode import decode
from .frames import Frames
from .input import VideoSource
from .input.sampling import FrameSampling
from .pixels import Fit, Size


class FramesChangedError(Exception):
    """The file is damaged, and its frames differ from those announced: decode it as a whole."""


class FramePrefetcher:
    """The frames that `decode` returns, in order, each as soon as it is decoded. Use it in a `with` statement.

    Leaving the context stops the thread. An error in `decode` is raised by the next call.

    Parameters
    ----------
    path, frames, size, fit, pin_memory, threads: see `decode`.

    Attributes
    ----------
    waited_ms: time that calls have waited for the thread.
    """

    def __init__(
        self,
        path: VideoSource,
        frames: int | FrameSampling,
        *,
        size: Size = None,
        fit: Fit | None = None,
        pin_memory: bool = False,
        threads: int | None = None,
    ) -> None:
        self.waited_ms = 0.0
        self._options: dict[str, Any] = {"size": size, "fit": fit, "pin_memory": pin_memory, "threads": threads}
        self._changed = threading.Condition()
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
        """`(T,)` seconds of the frames that will be decoded."""
        self._wait(lambda: self._timestamps_s is not None)
        assert self._timestamps_s is not None
        return self._timestamps_s

    def take(self, start: int, stop: int) -> Tensor:
        """Frames `start` to `stop` as `(stop - start, 3, H, W)` uint8.

        Raises
        ------
        FramesChangedError: the decoded frames are not those announced by `timestamps_s`.
        """
        last = stop == len(self.timestamps_s)
        # Only after the last frame is it certain that all are those announced.
        pictures = self._wait(lambda: self._count >= stop and not last)
        if isinstance(self._outcome, Frames) and not torch.equal(self._outcome.timestamps_s, self.timestamps_s):
            raise FramesChangedError
        return pictures[start:stop]

    def result(self) -> Frames:
        """All frames; waits until they are decoded."""
        self._wait(lambda: False)
        assert isinstance(self._outcome, Frames)
        return self._outcome

    # --- in the decoding thread -----------------------------------------------------------------------------------

    def _run(self, path: VideoSource, frames: int | FrameSampling) -> None:
        outcome: Frames | Exception
        try:
            outcome = decode(path, frames, watch=self, **self._options)
        except Exception as error:
            outcome = error
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()

    def on_timestamps(self, timestamps_s: Tensor) -> None:
        """See `decode.DecodeObserver`."""
        with self._changed:
            if self._timestamps_s is None:  # else the index of the file was wrong; `take` compares the times at the end
                self._timestamps_s = timestamps_s
            self._changed.notify_all()

    def on_frames(self, pictures: Tensor, count: int) -> None:
        """See `decode.DecodeObserver`."""
        if self._stopped:
            raise _StoppedError
        with self._changed:
            self._pictures, self._count = pictures, count
            self._changed.notify_all()

    # --- in the calling thread ------------------------------------------------------------------------------------

    def _wait(self, enough: Any) -> Tensor:
        """Wait until `enough()` or the thread has ended; raise the error that ended it.

        Returns
        -------
        The pictures at that moment: others take their place if the file is read again because its index was wrong.
        """
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None or enough())
            pictures = self._pictures
        self.waited_ms += 1000 * (time.perf_counter() - start)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return pictures


class _StoppedError(Exception):
    """The context was left: the remaining frames are not needed."""
