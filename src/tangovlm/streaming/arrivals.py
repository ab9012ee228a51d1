"""Frames of a stream that have arrived and do not make a whole chunk yet."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs.pixels import check_frames


class Arrivals:
    """Checks frames as they arrive, and holds them until they are taken.

    Parameters
    ----------
    fps: frames per second, for frames that come without times.

    Attributes
    ----------
    count: frames that have arrived so far.
    last_s: time of the last; None before the first.
    """

    def __init__(self, fps: float) -> None:
        if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
            raise InputError(f"fps is {fps!r}: give frames per second, a number above 0")
        self.fps = fps
        self.count = 0
        self.last_s: float | None = None
        self._size: tuple[int, int] | None = None
        self._pictures: list[Tensor] = []
        self._times: list[float] = []

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def next_s(self) -> float:
        """The time of a frame that comes without one."""
        return 0.0 if self.last_s is None else self.last_s + 1 / self.fps

    def checked(self, frames: Tensor, time_s: object) -> Iterator[tuple[Tensor, float]]:
        """Frames with their times, all checked before the first is returned.

        Parameters
        ----------
        frames: one ``(3, H, W)`` or several ``(T, 3, H, W)``, uint8.
        time_s: seconds of one frame, a sequence or tensor ``(T,)`` of those of several, None for a steady rate.

        Raises
        ------
        InputError: see `Stream.add`.
        """
        several = frames if isinstance(frames, Tensor) and frames.dim() == 4 else frames[None]
        check_frames(several)
        size = several.shape[-2], several.shape[-1]
        if self._size not in (None, size):
            height, width = self._size or size
            raise InputError(
                f"frame {self.count} is {size[0]} x {size[1]} pixels, those before it are {height} x {width}: resize "
                "it, or begin another stream"
            )
        times = self._checked_times(time_s, len(several))
        return zip(several, times, strict=True)

    def push(self, picture: Tensor, time_s: float) -> None:
        """Hold a frame of `checked`."""
        self._size = picture.shape[-2], picture.shape[-1]
        # The caller may reuse the memory of the frame.
        self._pictures.append(picture.clone())
        self._times.append(time_s)
        self.last_s = time_s
        self.count += 1

    def held(self) -> tuple[Tensor, list[float]]:
        """The frames that are held, ``(T, 3, H, W)``, and their times."""
        return torch.stack(self._pictures), list(self._times)

    def drop(self) -> None:
        """Hold none of them any longer."""
        self._pictures, self._times = [], []

    def _checked_times(self, time_s: object, count: int) -> list[float]:
        if time_s is None:
            return [self.next_s + place / self.fps for place in range(count)]
        try:
            times = torch.as_tensor(time_s, dtype=torch.float64).flatten().tolist()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError("the time of a frame must be a number of seconds, or one for each frame") from error
        if len(times) != count:
            raise InputError(f"{count} frames but {len(times)} times are given: give one time for each frame")
        last = -math.inf if self.last_s is None else self.last_s
        for place, time in enumerate(times):
            if not math.isfinite(time) or time <= last:
                before = "a finite number of seconds" if not math.isfinite(time) else f"after {last:g} s, the last one"
                raise InputError(f"the time of frame {self.count + place} is {time:g} s: it must be {before}")
            last = time
        return times
