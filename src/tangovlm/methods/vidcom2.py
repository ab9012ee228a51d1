"""VidCom2: unusual tokens, and more of them in unusual frames (arXiv 2505.14454)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import count, proportional, validate_retention
from ..errors import MethodError
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_flag, check_number
from .common.similarity import compute_dtype, normalize
from .common.slots import best_of_frames, keep_all, pick

_COLDEST = 1e-30
"""Below it a quotient of the softmax overflows float32."""


@register_method
@dataclass(frozen=True)
class VidCom2:
    """Keep ``retention`` of the tokens of a video: those least like their frame and least like the whole video.

    A frame whose tokens are unlike the video as a whole gets a larger part. Likeness is a sum of Gaussian kernels of
    the distance to a mean of unit vectors, taken on the channels that vary least. Kept tokens are unchanged, the
    others dropped.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity. (The authors' own default is 0.25.)
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens, split by the release's shares of the frames;
        off, each frame's share is rounded by itself.
    channel_ratio: fraction of the channels used, in (0, 1], those of lowest variance.
    temperature: of the softmax over the frames' scores, > 0; the lower, the more one frame stands out.
    alphas: widths of the kernels ``exp(-d^2 / (2 alpha))``, each > 0.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "vidcom2"
    stage: ClassVar[str] = "pre-llm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.14454"
    official_repo: ClassVar[str] = "https://github.com/xuyang-liu16/VidCom2@944a17d"
    needs: ClassVar[frozenset[str]] = frozenset()

    retention: float = 0.1
    exact: bool = True
    channel_ratio: float = 0.5
    temperature: float = 0.01
    alphas: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)
        check_number("channel_ratio", self.channel_ratio, 0, 1, above=True)
        check_number("temperature", self.temperature, _COLDEST)
        if isinstance(self.alphas, list):
            object.__setattr__(self, "alphas", tuple(self.alphas))
        if not isinstance(self.alphas, tuple) or not self.alphas:
            raise MethodError(f"alphas must be a tuple of kernel widths such as (0.5, 1.0), not {self.alphas!r}")
        for alpha in self.alphas:
            check_number("each of alphas", alpha, 0, above=True)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video."""
        if self.retention == 1:
            return keep_all(tokens, (tokens.frames,))
        points = self._points(tokens.features.flatten(1, 2))
        to_video = self._likeness(points, points.mean(dim=(0, 1)))
        to_frame = self._likeness(points, points.mean(dim=1, keepdim=True))
        counts = self._counts(-to_video.mean(dim=1), tokens)
        return pick(tokens, best_of_frames(-(to_video + to_frame), counts))

    def _points(self, features: Tensor) -> Tensor:
        """``(T, L, C)``: unit vectors on the channels of lowest variance."""
        wide = features.to(compute_dtype(features.dtype))
        variance = wide.flatten(0, 1).var(dim=0, correction=0)
        channels = max(1, int(wide.shape[-1] * self.channel_ratio))
        calm = variance.sort(stable=True).indices[:channels].sort().values
        return normalize(wide[..., calm])

    def _likeness(self, points: Tensor, center: Tensor) -> Tensor:
        """``(T, L)``: the sum of kernels of the distance of points ``(T, L, C)`` to a center."""
        squared = (points - center).square().sum(dim=-1)
        return torch.stack([torch.exp(squared / (-2 * alpha)) for alpha in self.alphas]).sum(dim=0)

    def _counts(self, scores: Tensor, tokens: VideoTokens) -> list[int]:
        """Tokens to keep of each frame, given how unlike the video the frames are ``(T,)``."""
        weights = torch.softmax((scores - scores.max()) / self.temperature, dim=0)
        scale = (self.retention * (1 + weights - weights.mean())).clamp(max=1)
        length = tokens.height * tokens.width
        if self.exact:
            total = count(self.retention, tokens.count)
            return proportional(total, scale.tolist(), [length] * tokens.frames)
        rounded: list[int] = (scale * length).round().long().clamp(min=1).tolist()
        return rounded
