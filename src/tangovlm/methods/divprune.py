"""DivPrune: the most diverse tokens of the whole video (arXiv 2503.02175)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..budget import count, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_flag
from .common.select import max_min
from .common.similarity import normalize
from .common.slots import keep_all, pick


@register_method
@dataclass(frozen=True)
class DivPrune:
    """Keep ``retention`` of the tokens of a video such that the two most alike of them are as unlike as can be.

    Tokens are chosen greedily, all frames together: first the one whose nearest neighbour is farthest by cosine, then
    each time the one that is farthest from its nearest chosen token. A chosen token does not compete again, so that
    duplicates cannot lower the count (in the authors' code they do). Kept tokens are unchanged, the others dropped.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity. (The authors' own default, for images, is 0.098.)
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; off, the release's rounding, where a half goes
        to the even number, at least one.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "divprune"
    stage: ClassVar[str] = "pre-llm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02175"
    official_repo: ClassVar[str] = "https://github.com/vbdi/divprune@799e2d9"
    needs: ClassVar[frozenset[str]] = frozenset()

    retention: float = 0.1
    exact: bool = True

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video."""
        keep = count(self.retention, tokens.count) if self.exact else max(1, round(self.retention * tokens.count))
        if keep == tokens.count:
            return keep_all(tokens, (tokens.frames,))
        chosen = max_min(normalize(tokens.features).flatten(0, 2)[None], keep)[0]
        kept = torch.zeros(tokens.count, dtype=torch.bool, device=chosen.device)
        kept[chosen] = True
        return pick(tokens, kept)
