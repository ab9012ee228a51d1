"""VidCom2: distinctive tokens, and more of them in distinctive frames (arXiv 2505.14454)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import proportional
from ..errors import MethodError
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_number
from .common.selection import keep_only, top_per_frame
from .common.similarity import compute_dtype, normalize

_MIN_TEMPERATURE = 1e-30  # below, a quotient in the softmax overflows float32


@register_method
@dataclass(frozen=True)
class VidCom2(PreLLMMethod):
    """Keep the tokens that are least similar to their frame and to the whole video.

    A frame whose tokens are dissimilar to the video as a whole gets a larger share. Similarity is a sum of Gaussian
    kernels of the distance to a mean of unit vectors, computed on the channels of lowest variance. Kept tokens are
    unchanged, the others are dropped.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity. (The authors' own default is 0.25.)
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens, split by the release's shares of the frames;
        False rounds the share of each frame separately.
    channel_ratio: fraction of the channels used, in (0, 1], those of lowest variance.
    temperature: of the softmax over the frames' scores, > 0; the lower it is, the more uneven the shares are.
    alphas: widths of the kernels ``exp(-d^2 / (2 alpha))``, each > 0.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "vidcom2"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.14454"
    official_repo: ClassVar[str] = "https://github.com/xuyang-liu16/VidCom2@944a17d"

    channel_ratio: float = 0.5
    temperature: float = 0.01
    alphas: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("channel_ratio", self.channel_ratio, 0, 1, above=True)
        check_number("temperature", self.temperature, _MIN_TEMPERATURE)
        if isinstance(self.alphas, list):
            object.__setattr__(self, "alphas", tuple(self.alphas))
        if not isinstance(self.alphas, tuple) or not self.alphas:
            raise MethodError(f"alphas must be a tuple of kernel widths such as (0.5, 1.0), not {self.alphas!r}")
        for alpha in self.alphas:
            check_number("each of alphas", alpha, 0, above=True)

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        points = self._points(tokens.features.flatten(1, 2))
        to_video = self._similarity(points, points.mean(dim=(0, 1)))
        to_frame = self._similarity(points, points.mean(dim=1, keepdim=True))
        counts = self._counts(-to_video.mean(dim=1), tokens, count)
        return keep_only(tokens, top_per_frame(-(to_video + to_frame), counts))

    def _points(self, features: Tensor) -> Tensor:
        """``(T, L, C)``: unit vectors on the channels of lowest variance."""
        wide = features.to(compute_dtype(features.dtype))
        variance = wide.flatten(0, 1).var(dim=0, correction=0)
        channels = max(1, int(wide.shape[-1] * self.channel_ratio))
        steady = variance.sort(stable=True).indices[:channels].sort().values
        return normalize(wide[..., steady])

    def _similarity(self, points: Tensor, center: Tensor) -> Tensor:
        """``(T, L)``: the sum of kernels of the distance of points ``(T, L, C)`` to a center."""
        squared = (points - center).square().sum(dim=-1)
        return torch.stack([torch.exp(squared / (-2 * alpha)) for alpha in self.alphas]).sum(dim=0)

    def _counts(self, scores: Tensor, tokens: VideoTokens, count: int) -> list[int]:
        """Tokens to keep in each frame, given its dissimilarity to the video ``(T,)``."""
        weights = torch.softmax((scores - scores.max()) / self.temperature, dim=0)
        scale = (self.retention * (1 + weights - weights.mean())).clamp(max=1)
        length = tokens.height * tokens.width
        if self.exact:
            return proportional(count, scale.tolist(), [length] * tokens.frames)
        rounded: list[int] = (scale * length).round().long().clamp(min=1).tolist()
        return rounded
