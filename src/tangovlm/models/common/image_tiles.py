"""Models that encode frames of videos and tiles of images alike, in one row, for one placeholder."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from . import tile_runs as pictures
from .family import Family
from .layout import Clip, Grid, Prompt
from .tile_runs import Run, Wording
from .transformers_compat import Arg

GUESS = (
    "neither timestamps nor video_metadata tell frames from images: {frames} pictures with like text between them are "
    "taken for a video"
)
OVERLOOKED = (
    "no picture is taken for a frame of a video, so nothing is pruned: for frames give timestamps= or video_metadata"
)


class ImageTileFamily(Family):
    """A family whose frames come out of `get_image_features` among images, which are never pruned.

    See `pictures` for how frames are told from images.
    """

    feature_method = "get_image_features"
    visual_inputs = (Arg.PIXELS,)
    wording: ClassVar[Wording]

    @property
    @abstractmethod
    def tile(self) -> Grid:
        """Token grid of a tile."""

    @property
    def placeholder(self) -> int:
        """See `Family.placeholder`; images have the same."""
        return int(self.model.config.image_token_id)

    def runs(self, input_ids: Tensor) -> list[Run]:
        """The pictures of prompts, see `pictures.runs`."""
        return pictures.runs(input_ids, self.placeholder, self.tile.tokens)

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """See `Family.clips`: without a prompt pictures are frames only where the given times account for all.

        Raises
        ------
        InputError: the prompt has another number of pictures, or frames cannot be told from images.
        """
        tiles = self.tiles(*args, **kwargs)
        if _prompt.input_ids is None:
            return self._all_clips(_prompt.frames or (), sum(tiles))
        rows: list[list[Run]] = [[] for _ in range(len(_prompt.input_ids))]
        for run in self.runs(_prompt.input_ids):
            rows[run.row].append(run)
        whole = sum(tiles) == sum(run.tiles for row in rows for run in row)
        copies = 1 if whole and not _prompt.continues else self.copies(len(rows), *args, **kwargs)
        rows = pictures.encoded(rows, tiles[::copies])
        found = pictures.videos([run for row in rows for run in row], _prompt.frames, self.wording)
        clips, start = [], 0
        for number, row in enumerate(rows):
            own = [video for video in found if video[0].row == number]
            for _ in range(copies):
                clips += [self._clip(video, row, start, guessed=_prompt.frames is None) for video in own]
                start += sum(run.tiles for run in row)
        return clips

    @abstractmethod
    def tiles(self, *args: Any, **kwargs: Any) -> list[int]:
        """Tiles that a call of `get_image_features` encodes: of each row of pixels, or of all in a single number."""

    def copies(self, prompts: int, *args: Any, **kwargs: Any) -> int:
        """How often a call of `get_image_features` encodes each prompt's pictures, in rows side by side."""
        del prompts, args, kwargs
        return 1

    def check_size(self, pixels: Tensor) -> None:
        """Raise `InputError` unless tiles ``(..., height, width)`` have the size that the model is made for."""
        if tuple(pixels.shape[-2:]) != self.tile_size:
            height, width = self.tile_size
            raise InputError(
                f"pixel_values are {pixels.shape[-2]} x {pixels.shape[-1]}, but a tile of this model is {height} x "
                f"{width}: set the processor's size to that"
            )

    @property
    @abstractmethod
    def tile_size(self) -> tuple[int, int]:
        """Height and width of a tile in pixels."""

    def _all_clips(self, frames: Sequence[int], tiles: int) -> list[Clip]:
        if sum(frames) != tiles:
            return []
        starts = [sum(frames[:number]) for number in range(len(frames))]
        return [Clip(self._grid(count), start) for count, start in zip(frames, starts, strict=True)]

    def _clip(self, video: Sequence[Run], row: Sequence[Run], start: int, *, guessed: bool) -> Clip:
        """A video of a prompt whose first tile is the call's tile number `start`."""
        before = sum(run.tiles for run in row if run.start < video[0].start)
        return Clip(self._grid(len(video)), start + before, (GUESS.format(frames=len(video)),) if guessed else ())

    def _grid(self, frames: int) -> Grid:
        return self.tile._replace(frames=frames)

    def overlooked(self, _prompt: Prompt) -> str | None:
        """See `Family.overlooked`: times may be given once for calls with and without a video."""
        return None if _prompt.frames and _prompt.input_ids is not None else OVERLOOKED

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """See `Family.features`."""
        rows = _rows(output.pooler_output)
        return [rows[self._span(clip)] for clip in clips]

    def replace_video_features(self, output: Any, clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """See `Family.replace_video_features`: rows of images stay as they are."""
        old = output.pooler_output
        rows = _rows(old).clone()
        for clip, values in zip(clips, features, strict=True):
            rows[self._span(clip)] = values
        output.pooler_output = like(old, rows)

    def _span(self, clip: Clip) -> slice:
        first = clip.start * self.tile.tokens
        return slice(first, first + clip.grid.tokens)

    def videos(self, input_ids: Tensor, grids: Sequence[Grid]) -> Tensor:
        """See `Family.videos`."""
        frames = [grid.frames for grid in grids]
        for copies in (count for count in range(1, len(input_ids) + 1) if len(input_ids) % count == 0):
            try:
                found = pictures.videos(self.runs(input_ids[::copies]), frames, self.wording)
            except InputError:
                continue
            if len(found) == len(grids):
                return self._numbers(input_ids[::copies], found).repeat_interleave(copies, dim=0)
        raise InputError("the prompt's placeholders do not fit the videos that were encoded: give the whole prompt")

    def _numbers(self, input_ids: Tensor, found: Sequence[Sequence[Run]]) -> Tensor:
        numbers = torch.full(input_ids.shape, -1)
        seen = [0] * len(input_ids)
        for video in found:
            for run in video:
                numbers[run.row, run.start : run.start + run.length] = seen[run.row]
            seen[video[0].row] += 1
        return numbers.to(input_ids.device)


def _rows(pooled: Any) -> Tensor:
    """Features of all tiles in a row, ``(R, D)``, from one tensor or one a row of the batch."""
    if isinstance(pooled, Tensor):
        return pooled.flatten(0, -2)
    return torch.cat([part.flatten(0, -2) for part in pooled])


def like(pooled: Any, rows: Tensor) -> Any:
    """Rows ``(R, D)`` in the shape of `pooled`."""
    if isinstance(pooled, Tensor):
        return rows.view_as(pooled)
    parts = torch.split(rows, [part.shape[:-1].numel() for part in pooled])
    return type(pooled)(part.view_as(old) for part, old in zip(parts, pooled, strict=True))
