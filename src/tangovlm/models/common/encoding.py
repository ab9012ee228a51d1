"""How the vision encoder is run on a few frames at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from . import chunks
from .layout import Grid
from .part import FamilyPart
from .transformers_compat import Arg


class ChunkedEncoding(FamilyPart, ABC):
    """Runs a stock `feature_method` on chunks of frames, so that memory does not grow with the length of a video."""

    @abstractmethod
    def frame_bytes(self, grids: Sequence[Grid]) -> int:
        """Estimate of the working memory in bytes that the encoder needs for one frame."""

    def encode(self, original: Callable[..., Any], chunk_frames: int | None, *args: Any, **kwargs: Any) -> Any:
        """The output of the stock `feature_method`, computed in chunks.

        It equals the output of a single call up to rounding (a matrix product of another size may add in another
        order), without the hidden states that stock code collects for itself. If one chunk is enough, the stock method
        is called with the arguments as they are.

        Parameters
        ----------
        original: the stock `feature_method`.
        chunk_frames: maximum number of frames of a chunk, counted over all videos; None to choose it by the memory of
            the device.
        args, kwargs: of the call.

        Raises
        ------
        InputError: the device is out of memory.
        """
        grids: list[Grid] = self.family.layout.grids(*args, **kwargs)
        frames, frame_bytes, device = sum(grid.frames for grid in grids), self.frame_bytes(grids), self.family.device
        at_once = min(frames, chunk_frames or chunks.frames_at_once(frame_bytes, device))
        with chunks.guarded(at_once, frame_bytes, device):
            if at_once == frames:
                return original(*args, **kwargs)
            as_tuple = kwargs.pop(Arg.AS_DICT, None) is False
            output = self.encode_chunks(
                original, chunks.bounds(frames, at_once), *args, **{Arg.AS_DICT: True}, **kwargs
            )
        return output.to_tuple() if as_tuple else output

    @abstractmethod
    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """Call the stock method once per chunk and join the outputs; see `encode`.

        Parameters
        ----------
        bounds: (start, stop) of each chunk, at least two.
        """
