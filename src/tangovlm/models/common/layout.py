"""How the features of videos are laid out: token grids, videos in a call of the encoder, placeholders in a prompt."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...tokens import Selection
from .part import FamilyPart

TEXT, OFF_GRID = -1, -2
"""In place of the number of a video: a token of the text, and a feature of a video that is not on its grid."""


class Grid(NamedTuple):
    """Token grid of one video."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens of the video, without newlines."""
        return self.frames * self.height * self.width


class Clip(NamedTuple):
    """One video of a call of the encoder.

    Parameters
    ----------
    grid: its token grid.
    start: index of its first frame among all frames (and tiles of images) that the encoder receives.
    notes: what the user should know about how the video was recognised.
    forwarded_mask: ``(R,)`` bool, which of its features stock code forwards to the language model; None for all.
    encoded: number of its frames that the encoder runs on; None for all.
    """

    grid: Grid
    start: int
    notes: tuple[str, ...] = ()
    forwarded_mask: Tensor | None = None
    encoded: int | None = None

    @property
    def frames(self) -> tuple[int, int]:
        """(start, stop) of its frames among all that the encoder receives."""
        return self.start, self.start + self.grid.frames


@dataclass(frozen=True)
class Prompt:
    """The call for which videos are encoded.

    Parameters
    ----------
    input_ids: ``(B, Q)`` complete prompts, None if the call has none.
    frames: number of sampled frames of each video if the caller gave their times, else None.
    forwarded_mask: ``(R,)`` bool over the features of all videos, which of them the caller forwards; None for all.
    continues: whether a cache has the beginning of the prompts, so that only later videos are encoded.
    """

    input_ids: Tensor | None = None
    frames: tuple[int, ...] | None = None
    forwarded_mask: Tensor | None = None
    continues: bool = False


class FeatureLayout(FamilyPart, ABC):
    """Where the features of videos are, in the output of the encoder and in a prompt.

    A video has R features of D channels. Most models have one for each of the N = T * H * W tokens of its grid, some
    have newlines as well.
    """

    closing_tokens: ClassVar[int] = 0
    """Number of special tokens after a video without which the stock model cannot read the beginning of a prompt."""

    # --- in a call of the encoder -------------------------------------------------------------------------------

    @abstractmethod
    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """Token grids of what a call of the family's `feature_method` encodes, from its arguments."""

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """The videos in a call of `feature_method`; by default everything that it encodes, one video per grid."""
        clips, start = [], 0
        for grid in self.grids(*args, **kwargs):
            clips.append(Clip(grid, start))
            start += grid.frames
        return clips

    def no_video_note(self, _prompt: Prompt) -> str | None:
        """A note for the user if `clips` returned no video."""
        return None

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """Features of each video, ``(R, D)``, from the output of `feature_method`."""
        del clips
        return list(output.pooler_output)

    def replace_video_features(self, output: Any, clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """Write features ``(R, D)`` of each video into the output of `feature_method`, where `features` reads them."""
        del clips
        old = output.pooler_output
        output.pooler_output = torch.stack(list(features)) if isinstance(old, Tensor) else type(old)(features)

    def after_grid(self, features: Tensor, grid: Grid) -> Tensor:
        """Those of the features of a video that follow its grid, for families with `Family.in_one_piece`."""
        return features[grid.tokens :]

    # --- features of a video ------------------------------------------------------------------------------------

    def feature_count(self, grid: Grid) -> int:
        """R: number of features of a video, including those that are not on the grid, such as newlines."""
        return grid.tokens

    def grid_indices(self, grid: Grid) -> slice | Tensor:
        """Indices of the grid's tokens among the R features, in raster order; ``(N,)`` if a tensor."""
        return slice(0, grid.tokens)

    def kept_features(self, selection: Selection, grid: Grid) -> Tensor:
        """Which of the R features the language model receives: ``(R,)`` bool; by default all those off the grid."""
        kept = torch.ones(self.feature_count(grid), dtype=torch.bool, device=selection.indices.device)
        on_grid = torch.zeros(grid.tokens, dtype=torch.bool, device=kept.device)
        on_grid[selection.indices] = True
        kept[self.grid_indices(grid)] = on_grid
        return kept

    def newlines(self, _selection: Selection, grid: Grid) -> int:
        """Number of features that are not on the grid and remain with a selection; by default all of them."""
        return self.feature_count(grid) - grid.tokens

    def newline_range(self, _tokens: int, grid: Grid) -> tuple[int, int]:
        """The least and the largest number of `newlines` that remain with this many tokens, whichever they are."""
        newlines = self.feature_count(grid) - grid.tokens
        return newlines, newlines

    def tokens_within(self, features: float, grid: Grid) -> float:
        """Number of tokens of a grid that can be kept, whichever they are, so that at most `features` remain."""
        return features - (self.feature_count(grid) - grid.tokens)

    @property
    def frames_per_step(self) -> int:
        """Number of sampled frames that one frame of the token grid represents."""
        return 1

    # --- in a prompt --------------------------------------------------------------------------------------------

    @property
    def placeholder(self) -> int:
        """Id of the token that represents one feature of a video in a prompt."""
        config = self.model.config
        return int(getattr(config, "video_token_index", None) or config.video_token_id)

    def check_inputs(self, _prompt: Prompt, _options: Mapping[str, Any]) -> None:
        """Check a call with pixels or a cache, with its arguments, before anything is encoded; by default all pass.

        Raises
        ------
        InputError: the model would answer, but wrongly.
        """

    def video_numbers(self, input_ids: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Number of the video that each token of a prompt belongs to.

        Parameters
        ----------
        input_ids: ``(B, Q)`` complete prompts with their placeholders.
        grids: of the videos, in order. Each prompt may be repeated, in adjacent entries of the batch.

        Returns
        -------
        ``(B, Q)`` int64, counted from 0 in each prompt; `TEXT`, or `OFF_GRID` for newlines.
        """
        placeholder = input_ids == self.placeholder
        counts = placeholder.sum(dim=1).tolist()
        copies = max(1, sum(counts) // sum(self.feature_count(grid) for grid in grids))
        result, remaining = torch.full_like(input_ids, TEXT), list(grids)
        for first in range(0, len(counts), copies):
            numbers: list[Tensor] = []
            while sum(map(len, numbers)) < counts[first] and remaining:
                grid = remaining.pop(0)
                number = torch.full((self.feature_count(grid),), OFF_GRID, device=input_ids.device)
                number[self.grid_indices(grid)] = len(numbers)
                numbers.append(number)
            for entry in range(first, min(first + copies, len(counts)) if numbers else first):
                result[entry, placeholder[entry]] = torch.cat(numbers)
        return result
