"""What a family and a session tell each other about one call of a model: token grids, videos, prompts, signals."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from torch import Tensor

# Parts of the signals, under the names of `Signals`: one a call of the tower, or one a frame.
Found: TypeAlias = dict[str, list[Tensor]]


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
    """One video of a call.

    Parameters
    ----------
    grid: of its tokens.
    start: its first frame among all frames (and tiles of images) that the encoder is handed.
    notes: what the user should know of how it was found.
    forwarded_mask: ``(R,)`` bool, which of its features stock code hands on to the language model; None for all.
    """

    grid: Grid
    start: int
    notes: tuple[str, ...] = ()
    forwarded_mask: Tensor | None = None


@dataclass(frozen=True)
class Prompt:
    """What is known of the call for which videos are encoded.

    Parameters
    ----------
    input_ids: ``(B, Q)`` whole prompts, None where the call has none.
    frames: sampled frames of each video where the caller told their times, else None.
    forwarded_mask: ``(R,)`` bool over the features of all videos, which of them the caller forwards; None for all.
    continues: whether a cache holds the beginning of the prompts, so that only later videos are encoded.
    """

    input_ids: Tensor | None = None
    frames: tuple[int, ...] | None = None
    forwarded_mask: Tensor | None = None
    continues: bool = False


@dataclass
class Signals:
    """What the vision encoder gave away during one call, already on the token grid; all frames in a row.

    A tensor has frames along its first dimension; where frames differ in their grids it is a list with one entry each.

    Parameters
    ----------
    saliency: ``(F, H, W)`` or None.
    frame_features: ``(F, Dv)`` or None.
    keys: ``(F, H, W, Dk)`` or None.
    """

    saliency: Tensor | list[Tensor] | None = None
    frame_features: Tensor | list[Tensor] | None = None
    keys: Tensor | list[Tensor] | None = None
