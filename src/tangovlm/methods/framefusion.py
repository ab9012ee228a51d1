"""FrameFusion: tokens that hardly change in time become one (arXiv 2501.01986), in one step before the LLM."""

from dataclasses import dataclass
from math import floor
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import count, exact, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_flag, check_number
from .common.similarity import adjacent_similarity, compute_dtype, normalize
from .common.slots import Slots, keep_all


@register_method
@dataclass(frozen=True)
class FrameFusion:
    """Keep ``retention`` of the tokens of a video: each token most like the one before it in time is merged into it.

    This is the merging step of FrameFusion, taken once and before the language model. The authors' method works inside
    it: it merges before the first layer and after each of the next ones, and then prunes once by attention; the later
    merges and the pruning have no counterpart here.

    Tokens at the same place of adjacent frames are compared by cosine, and the most similar pairs are joined. A run of
    joined tokens becomes its mean, at the place of the earliest. If joining every run through all frames still leaves
    too many tokens (a retention below 1 / T), then the means at adjacent places in raster order are joined, again the
    most similar first, so that any budget is met.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; off, what the release's first merge keeps: only
        pairs with a cosine of at least `threshold` are joined, and no more than ``1 - retention`` of all tokens.
    threshold: used with ``exact=False`` only, in [-1, 1].

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "framefusion"
    stage: ClassVar[str] = "pre-llm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2501.01986"
    official_repo: ClassVar[str] = "https://github.com/thu-nics/FrameFusion@fbec1d2"
    needs: ClassVar[frozenset[str]] = frozenset()

    retention: float = 0.1
    exact: bool = True
    threshold: float = 0.6

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)
        check_number("threshold", self.threshold, -1, 1)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video."""
        features = tokens.features.flatten(1, 2)
        # A pair has the grid index of its later token, less the first frame.
        similarity = adjacent_similarity(normalize(features)).flatten()
        merges = self._merges(tokens, similarity)
        if not merges:
            return keep_all(tokens, (tokens.frames,))
        joined = torch.zeros(tokens.count, dtype=torch.bool, device=features.device)
        length = features.shape[1]
        joined[length + _highest(similarity, merges)] = True
        if merges > len(similarity):
            means = features.to(similarity.dtype).mean(dim=0)
            joined[1 + _highest(adjacent_similarity(normalize(means)), merges - len(similarity))] = True
        return _fuse(tokens, joined.view(-1, length))

    def _merges(self, tokens: VideoTokens, similarity: Tensor) -> int:
        """How many tokens are joined to the one before them."""
        if self.exact:
            return tokens.count - count(self.retention, tokens.count)
        return min(int((similarity >= self.threshold).sum()), floor((1 - exact(self.retention)) * tokens.count))


def _highest(similarity: Tensor, number: int) -> Tensor:
    """Places of the highest, the lowest of equals first; all of them where there are no more than ``number``."""
    return similarity.sort(descending=True, stable=True).indices[:number]


def _fuse(tokens: VideoTokens, joined: Tensor) -> Selection:
    """Make one token of each run of tokens ``(T, L)`` that are joined to the one before them.

    Tokens are lined up place by place, each through all its frames, so that the one before a token of the first frame
    is the last one at the place before.
    """
    frames, length = joined.shape
    starts = ~joined.T.flatten()
    labels = starts.cumsum(0) - 1
    anchors = starts.nonzero().flatten()
    lined_up = tokens.features.flatten(1, 2).transpose(0, 1).flatten(0, 1)
    values = _means_of_runs(lined_up.to(compute_dtype(lined_up.dtype)), anchors, labels)
    places = anchors % frames * length + anchors // frames
    lined_up_places = torch.arange(tokens.count, device=places.device).view(frames, length).T.flatten()
    slots = Slots(tokens)
    slots.keep(places)
    slots.send(lined_up_places, places[labels])
    slots.write(places, values)
    return slots.finish((frames,))


def _means_of_runs(values: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
    """``(K, D)``: means of consecutive ``values (N, D)``; a run that begins at ``anchors (K,)`` has one label.

    Differences to the anchor are averaged, so that equal tokens keep their value exactly.
    """
    own = values[anchors]
    lengths = torch.bincount(labels, minlength=len(anchors))
    return own + torch.segment_reduce(values - own[labels], "mean", lengths=lengths, axis=0)
