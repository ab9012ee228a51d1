"""Top-k: the most salient tokens of each frame."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .. import budget
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_choice
from .common.selection import even_counts, keep_only, top_per_frame


@register_method
@dataclass(frozen=True)
class TopK(PreLLMMethod):
    """Keep the most salient tokens of each frame unchanged: the baseline of Tango, without a mask for sinks.

    Parameters
    ----------
    retention: fraction of the tokens to keep, in (0, 1]; 1 is the identity.
    exact: the frames' counts differ by at most one; False keeps ``budget.count(retention, H * W)`` in every frame.
    signal: the saliency to ask the model for: "attn" or "p-attn".
    """

    name: ClassVar[str] = "topk"
    paper: ClassVar[str] = "https://arxiv.org/abs/2604.09547"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})

    signal: Literal["attn", "p-attn"] = "attn"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("signal", self.signal, ("attn", "p-attn"))

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        assert tokens.saliency is not None
        in_frame = budget.count(self.retention, tokens.height * tokens.width)
        counts = even_counts(count, tokens.frames) if self.exact else [in_frame] * tokens.frames
        return keep_only(tokens, top_per_frame(tokens.saliency.flatten(1), counts))
