"""FrameFusion: merge tokens that hardly change over time (arXiv 2501.01986), in one step before the LLM."""

from dataclasses import dataclass
from math import floor
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import exact
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_number
from .common.selection import SelectionBuilder, keep_all
from .common.similarity import adjacent_similarity, compute_dtype, normalize


@register_method
@dataclass(frozen=True)
class FrameFusion(PreLLMMethod):
    """Merge the tokens that are most similar to their predecessor in time into it.

    This is the merging step of FrameFusion, applied once and before the language model. The authors' method works
    inside the model: it merges before the first layer and after each of the next ones, then prunes once by attention.
    The later merges and the pruning have no counterpart here.

    Tokens at the same position of adjacent frames are compared by cosine, and the most similar pairs are joined. A run
    of joined tokens becomes its mean, at the position of the earliest. If joining all tokens of every position still
    leaves too many (a retention below 1 / T), the means at adjacent positions in raster order are joined, again the
    most similar first, so that any budget is met.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False keeps what the release's first merge
        keeps: only pairs with a cosine of at least `threshold` are joined, and at most ``1 - retention`` of all tokens.
    threshold: least cosine of a joined pair, in [-1, 1]; used with ``exact=False`` only.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "framefusion"
    paper: ClassVar[str] = "https://arxiv.org/abs/2501.01986"
    official_repo: ClassVar[str] = "https://github.com/thu-nics/FrameFusion@fbec1d2"

    threshold: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold", self.threshold, -1, 1)

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        features = tokens.features.flatten(1, 2)
        # Pair i joins token i + L to token i, its predecessor in time.
        similarity = adjacent_similarity(normalize(features)).flatten()
        merges = self._merges(tokens, similarity, count)
        if not merges:
            return keep_all(tokens, (tokens.frames,))
        joined = torch.zeros(tokens.count, dtype=torch.bool, device=features.device)
        length = features.shape[1]
        joined[length + _highest(similarity, merges)] = True
        if merges > len(similarity):
            means = features.to(similarity.dtype).mean(dim=0)
            joined[1 + _highest(adjacent_similarity(normalize(means)), merges - len(similarity))] = True
        return _fuse(tokens, joined.view(-1, length))

    def _merges(self, tokens: VideoTokens, similarity: Tensor, count: int) -> int:
        """How many tokens are joined to their predecessor."""
        if self.exact:
            return tokens.count - count
        return min(int((similarity >= self.threshold).sum()), floor((1 - exact(self.retention)) * tokens.count))


def _highest(similarity: Tensor, number: int) -> Tensor:
    """Indices of the ``number`` highest, or of all if there are fewer; the lowest index wins a tie."""
    return similarity.sort(descending=True, stable=True).indices[:number]


def _fuse(tokens: VideoTokens, joined: Tensor) -> Selection:
    """Average each run of tokens that are joined to their predecessor, ``joined (T, L)``.

    Tokens are ordered by position, then by frame, so that the predecessor of a token in the first frame is the last
    token at the previous position.
    """
    frames, length = joined.shape
    starts = ~joined.T.flatten()
    labels = starts.cumsum(0) - 1
    anchors = starts.nonzero().flatten()
    by_position = tokens.features.flatten(1, 2).transpose(0, 1).flatten(0, 1)
    values = _means_of_runs(by_position.to(compute_dtype(by_position.dtype)), anchors, labels)
    slots = anchors % frames * length + anchors // frames
    grid_indices = torch.arange(tokens.count, device=slots.device).view(frames, length).T.flatten()
    builder = SelectionBuilder(tokens)
    builder.keep(slots)
    builder.assign(grid_indices, slots[labels])
    builder.set_values(slots, values)
    return builder.build((frames,))


def _means_of_runs(values: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
    """``(K, D)``: means of runs of ``values (N, D)``, which begin at ``anchors (K,)`` and have ``labels (N,)``.

    Differences from the anchor are averaged, so that equal tokens keep their value exactly.
    """
    own = values[anchors]
    lengths = torch.bincount(labels, minlength=len(anchors))
    return own + torch.segment_reduce(values - own[labels], "mean", lengths=lengths, axis=0)
