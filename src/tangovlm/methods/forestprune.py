"""ForestPrune: the tokens nearest to the roots of trees that link similar tokens over time (arXiv 2603.22911)."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_number
from .common.forest import Candidates, grow_forest
from .common.root_merging import most_distinct
from .common.selection import keep_only, top_indices
from .common.similarity import clamped_norms, compute_dtype

_EDGE = 0.5
_TEMPERATURE = 0.03
_NO_EDGE = -5000.0
_STEPS = 5
# Elements of features or similarities processed at a time: on a CPU 32 MiB in float32.
_CHUNK_ELEMENTS = (1 << 23, 1 << 26)


@register_method
@dataclass(frozen=True)
class ForestPrune(PreLLMMethod):
    """Keep the tokens nearest to the roots of trees of similar tokens over time.

    In each frame, half of the tokens are candidates: those with the highest mass after a few steps on the graph of
    similar tokens, divided by their number of neighbours. A candidate is attached to the tree that has the most similar
    token of an earlier frame nearby, or becomes a root. If there are more roots than tokens to keep, the most similar
    pair of roots is joined until there are as many. Otherwise tokens are kept in the order of their depth, then of
    their frame. Kept tokens are unchanged, the others are dropped.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens, with more candidates if there are too few; False
        uses the release's count, which is at most `candidate_ratio` of the tokens.
    candidate_ratio: fraction of a frame's tokens that are candidates, in (0, 1].
    similarity: least cosine of a token and one that it is attached by, in [-1, 1].
    closeness: 1 minus the largest difference of their rows, and of their columns, as fractions of the grid; in [0, 1].

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "forestprune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2603.22911"
    official_repo: ClassVar[str] = "https://github.com/luminousllsa/ForestPrune@1686829"

    candidate_ratio: float = 0.5
    similarity: float = 0.9
    closeness: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("candidate_ratio", self.candidate_ratio, 0, 1, above=True)
        check_number("similarity", self.similarity, -1, 1)
        check_number("closeness", self.closeness, 0, 1)

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        length = tokens.height * tokens.width
        in_frame = min(round(length * self.candidate_ratio), length)
        if self.exact:
            in_frame = max(in_frame, ceil(count / tokens.frames))
        else:
            count = round(tokens.frames * in_frame * self.retention / self.candidate_ratio)
        places = top_indices(candidate_scores(tokens.features.flatten(1, 2)), in_frame).sort(dim=1).values
        keep = min(count, places.numel())
        chosen = self._choose(tokens, places, keep) if 0 < keep < places.numel() else torch.arange(keep)
        first = torch.arange(tokens.frames, device=places.device)[:, None] * length
        return keep_only(tokens, (places + first).flatten()[chosen.to(places.device)])

    def _choose(self, tokens: VideoTokens, places: Tensor, keep: int) -> Tensor:
        """``(keep,)`` numbers of candidates, given their ``places (T, k)`` in the frames."""
        candidates = Candidates.of(tokens, places)
        forest = grow_forest(candidates, self.similarity, 1 - self.closeness)
        roots = forest.roots
        if len(roots) > keep:
            return roots[most_distinct(candidates.units(roots), keep).kept]
        frames = torch.arange(tokens.frames).repeat_interleave(places.shape[1])
        # The release adds a thousandth of the frame, in float32, which exceeds a step of depth in a long video.
        order = forest.depth * tokens.frames + frames if self.exact else forest.depth + frames.float() / 1000
        return order.sort(stable=True).indices[:keep]


def candidate_scores(features: Tensor) -> Tensor:
    """``(T, L)``: how much mass reaches a token of ``features (T, L, D)``, divided by its number of neighbours.

    Mass starts as the norm of each token and takes five steps in the graph of the frame, whose edges have a cosine of
    at least 0.5 and the weight ``softmax(cosine / 0.03)``. A token without edges, which is zero, reaches all.
    """
    frames, length, dim = features.shape
    at_once = max(1, _CHUNK_ELEMENTS[features.device.type != "cpu"] // (length * max(length, dim)))
    scores = []
    for start in range(0, frames, at_once):
        wide = features[start : start + at_once].to(compute_dtype(features.dtype))
        norms = clamped_norms(wide)
        unit = wide / norms[..., None]
        similarity = unit @ unit.mT
        logits = torch.where(similarity < _EDGE, _NO_EDGE, similarity / _TEMPERATURE)
        step = logits.softmax(dim=-1)
        mass = torch.linalg.vector_norm(wide, dim=-1)[:, None]
        for _ in range(_STEPS):
            mass = mass @ step
        scores.append(mass[:, 0] / (step > 0).sum(dim=-1))
    return torch.cat(scores)
