"""VisionZip: the most salient tokens of each frame, and a few that summarize the others (arXiv 2412.04467)."""

from collections import defaultdict
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Self

import torch
from torch import Tensor

from ..budget import apportion, exact
from ..errors import MethodError
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_integer, check_number
from .common.merge import sum_by_label
from .common.selection import SelectionBuilder, even_counts, take, top_indices
from .common.similarity import compute_dtype, normalize


@register_method
@dataclass(frozen=True)
class VisionZip(PreLLMMethod):
    """Keep dominant tokens of each frame unchanged, and merge the others into contextual tokens.

    Dominant tokens are the most salient ones of a frame. Every n-th of the others is a contextual target; each of the
    rest is assigned to the target with the most similar key. As in the authors' code, a contextual token is the target
    plus the mean of the tokens assigned to it: a sum, not an average.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens, the frames' counts differ by at most one; False
        keeps the same number in every frame: `tokens_per_frame`, or ``ceil(retention * H * W)``.
    dominant_ratio: fraction of the kept tokens that are dominant, in [0, 1]. The default is that of the comparison in
        the Tango paper, 5 % contextual tokens; the authors use 54 of 64, see `VisionZip.release`.
    tokens_per_frame: with ``exact=False``, replaces `retention`; >= 1. The authors' scripts use 20, 30, 40 and 50 of
        196 tokens.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range, or `tokens_per_frame` with ``exact=True``.
    """

    name: ClassVar[str] = "visionzip"
    signal: ClassVar[str] = "attn"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.04467"
    official_repo: ClassVar[str] = "https://github.com/dvlab-research/VisionZip@3151f6d"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency", "keys"})

    dominant_ratio: float = 0.95
    tokens_per_frame: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("dominant_ratio", self.dominant_ratio, 0, 1)
        if self.tokens_per_frame is not None:
            check_integer("tokens_per_frame", self.tokens_per_frame, 1)
            if self.exact:
                raise MethodError("tokens_per_frame counts as the release does: pass exact=False, or a retention")

    @classmethod
    def release(
        cls, *, retention: float = 0.1, dominant_ratio: float = 54 / 64, tokens_per_frame: int | None = None
    ) -> Self:
        """The method as in the authors' code: 54 of 64 tokens are dominant, the same number in every frame.

        >>> VisionZip.release(retention=0.1).dominant_ratio
        0.84375

        Raises
        ------
        InputError, MethodError: see the class.
        """
        return cls(retention, False, dominant_ratio, tokens_per_frame)

    @property
    def is_identity(self) -> bool:
        """Whether every token is kept unchanged; `tokens_per_frame` takes precedence over the retention."""
        return super().is_identity and self.tokens_per_frame is None

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        assert tokens.saliency is not None
        assert tokens.keys is not None
        saliency, keys = tokens.saliency.flatten(1), normalize(tokens.keys).flatten(1, 2)
        features = tokens.features.flatten(1, 2)
        frames_with: dict[tuple[int, int], list[int]] = defaultdict(list)
        for frame, counts in enumerate(self._counts(tokens, count)):
            frames_with[counts].append(frame)
        builder = SelectionBuilder(tokens)
        for (dominant, contextual), numbers in frames_with.items():
            frames = torch.tensor(numbers, device=features.device)
            first = frames[:, None] * features.shape[1]
            top, rest = _split(saliency[frames], dominant)
            builder.keep(top + first)
            if contextual:
                targets, others = _every_nth(rest, contextual)
                builder.keep(targets + first)
                _merge(builder, first, targets, others, keys[frames], features[frames])
        return builder.build((tokens.frames,))

    def _counts(self, tokens: VideoTokens, count: int) -> list[tuple[int, int]]:
        """(dominant, contextual) tokens to keep in each frame."""
        length = tokens.height * tokens.width
        if self.exact:
            kept = even_counts(count, tokens.frames)
            dominant = apportion(exact(self.dominant_ratio) * k for k in kept)
            return [(d, k - d) for d, k in zip(dominant, kept, strict=True)]
        in_frame = min(self.tokens_per_frame or ceil(exact(self.retention) * length), length)
        dominant_num = int(in_frame * self.dominant_ratio)
        return [(dominant_num, in_frame - dominant_num)] * tokens.frames


def _split(saliency: Tensor, dominant: int) -> tuple[Tensor, Tensor]:
    """Indices of the ``dominant`` most salient tokens of each frame ``(B, L)``, and of the others, ascending."""
    top = top_indices(saliency, dominant)
    is_top = torch.zeros_like(saliency, dtype=torch.uint8).scatter_(1, top, 1)
    return top, is_top.sort(dim=1, stable=True).indices[:, : saliency.shape[1] - dominant]


def _every_nth(rest: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Split ``rest (B, R)`` into ``number`` columns, every ``R // number``-th from the first on, and the others."""
    column = torch.arange(rest.shape[1], device=rest.device)
    step = max(1, rest.shape[1] // number)
    is_target = (column % step == 0) & (column // step < number)
    return rest[:, is_target], rest[:, ~is_target]


def _merge(
    builder: SelectionBuilder, first: Tensor, targets: Tensor, others: Tensor, keys: Tensor, features: Tensor
) -> None:
    """Add to each target the mean of the other tokens whose keys are most similar to its own.

    Parameters
    ----------
    first: ``(B, 1)`` grid index of the first token of each frame; targets, others: positions ``(B, m)``, ``(B, n)``.
    keys: ``(B, L, Dk)`` unit vectors; features: ``(B, L, D)``.
    """
    if not others.numel():
        return
    labels = (take(keys, others) @ take(keys, targets).mT).argmax(dim=-1)
    values = take(features, others)
    sums, members = sum_by_label(values.to(compute_dtype(values.dtype)), labels, targets.shape[1])
    own = take(features, targets)
    builder.assign(others + first, targets.gather(1, labels) + first)
    builder.set_values(targets + first, torch.where(members > 0, own + sums / members.clamp_min(1), own))
