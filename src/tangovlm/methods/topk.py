"""Top-k: the tokens of each frame that the vision encoder looks at most, and nothing else."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..budget import count, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_choice, check_flag, required_saliency
from .common.slots import best_of_frames, even_counts, keep_all, pick


@register_method
@dataclass(frozen=True)
class TopK:
    """Keep the ``retention`` most salient tokens of each frame as they are: the baseline that Tango starts from.

    Saliency is a share of attention within a frame, so frames are not compared with each other: each keeps its part.
    Positions that the encoder over-attends are not masked.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens, the frames' counts at most one apart; off,
        ``budget.count(retention, H * W)`` in every frame.
    signal: what `VideoTokens.saliency` is meant to be: "attn", attention of the encoder's last layer averaged over
        heads and queries, or "p-attn", that of its pooling head. A model asks for it; the choice works the same.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "topk"
    stage: ClassVar[str] = "pre-llm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2604.09547"
    official_repo: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})

    retention: float = 0.1
    exact: bool = True
    signal: Literal["attn", "p-attn"] = "attn"

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)
        check_choice("signal", self.signal, ("attn", "p-attn"))

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video.

        Raises
        ------
        InputError: no saliency.
        """
        if self.retention == 1:
            return keep_all(tokens, (tokens.frames,))
        saliency = required_saliency(self, tokens)
        if self.exact:
            counts = even_counts(count(self.retention, tokens.count), tokens.frames)
        else:
            counts = [count(self.retention, tokens.height * tokens.width)] * tokens.frames
        return pick(tokens, best_of_frames(saliency.flatten(1), counts))
