"""How the vision encoder is run on a few frames at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ...errors import InputError
from . import chunks
from .layout import Grid
from .part import FamilyPart
from .transformers_compat import Arg

CELLS = 16
"""Cells along each side of a frame that the encoder receives as a whole; else a cell is a patch."""


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

    def encode_some(
        self, original: Callable[..., Any], chunk_frames: int | None, rows: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """As `encode`, but only some frames are encoded, and the others get their features.

        The output has the features only, without the hidden states of single frames.

        Parameters
        ----------
        rows: ``(F,)`` int64, the number among the encoded frames of the one whose features each frame gets. A frame is
            encoded if it is the first with its number. See `tower.changed.Changed.rows`.
        """
        as_tuple = kwargs.pop(Arg.AS_DICT, None) is False
        some, options = self.of_frames(encoded_frames(rows), *args, **kwargs)
        output = self.encode(original, chunk_frames, *some, **{Arg.AS_DICT: True}, **options)
        spread = self.spread(output, rows, *args, **kwargs)
        return spread.to_tuple() if as_tuple else spread

    def colors(self, *_args: Any, **_kwargs: Any) -> list[Tensor]:
        """Mean colours ``(V,)`` of the cells of each frame that a call encodes, in 255ths of the range.

        They follow from the pixels by the normalisation of the family's published checkpoints.

        Raises
        ------
        InputError: the family cannot encode single frames of a video.
        """
        raise InputError(f"encode must be 'all' for the family {self.family.name}, which encodes whole videos only")

    def of_frames(self, chosen: Tensor, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the stock method that encode some frames, in one video or in those that they come from.

        Parameters
        ----------
        chosen: numbers of the frames, ``(K,)`` int64, ascending, at least one of each video.
        args, kwargs: of a call that encodes all frames.
        """
        raise NotImplementedError

    def spread(self, output: Any, rows: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The output for all frames, from that for the arguments of `of_frames`; see `encode_some`."""
        raise NotImplementedError

    @abstractmethod
    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """Call the stock method once per chunk and join the outputs; see `encode`.

        Parameters
        ----------
        bounds: (start, stop) of each chunk, at least two.
        """


def encoded_frames(rows: Tensor) -> Tensor:
    """Numbers ``(K,)`` of the frames that are encoded, given `rows` of `ChunkedEncoding.encode_some`.

    >>> encoded_frames(torch.tensor([0, 0, 1, 2, 2])).tolist()
    [0, 2, 3]
    """
    return torch.cat([rows.new_ones(1), rows.diff()]).nonzero().flatten()


def cell_colors(frames: Tensor, std: Sequence[float]) -> list[Tensor]:
    """Mean colours of the cells of normalised frames ``(F, 3, height, width)``, see `ChunkedEncoding.colors`.

    Parameters
    ----------
    std: of the normalisation.
    """
    scale = 255 * torch.tensor(std, device=frames.device)[:, None, None]
    return [adaptive_avg_pool2d(frame.float(), CELLS).mul_(scale).flatten() for frame in frames]


def with_pixels(
    pixels: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a stock method with other pixels, which are its first argument, or have a name."""
    return ((pixels, *args[1:]), dict(kwargs)) if args else ((), {**kwargs, name: pixels})
