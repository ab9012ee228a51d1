"""DivPrune: the most diverse tokens of the whole video (arXiv 2503.02175)."""

from dataclasses import dataclass
from typing import ClassVar

from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.diversity import max_min
from .common.selection import keep_only
from .common.similarity import normalize


@register_method
@dataclass(frozen=True)
class DivPrune(PreLLMMethod):
    """Keep the most diverse tokens of a video: maximize the distance between the two most similar ones.

    Tokens are chosen greedily over all frames together: first the one whose nearest neighbour is farthest by cosine,
    then, step by step, the one that is farthest from its nearest chosen token. A chosen token does not compete again,
    so that duplicates cannot lower the count, as they do in the authors' code. Kept tokens are unchanged, the others
    are dropped.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity. (The authors' own default, for images, is 0.098.)
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False rounds as the release does, halves to
        even, and keeps at least one.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "divprune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02175"
    official_repo: ClassVar[str] = "https://github.com/vbdi/divprune@799e2d9"

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        keep = count if self.exact else max(1, round(self.retention * tokens.count))
        return keep_only(tokens, max_min(normalize(tokens.features).flatten(0, 2)[None], keep)[0])
