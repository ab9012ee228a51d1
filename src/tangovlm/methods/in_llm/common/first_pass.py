"""Methods that may rank visual tokens in a pass of their own, before the prefill that reads the chosen ones only."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .base import InLLMMethod
from .view import PromptView


@dataclass(frozen=True)
class FirstPassMethod(InLLMMethod):
    """A method that prunes between the layers of the prefill, or, for a long video, before it.

    In the second case the frames are divided into groups. For each group, the layers before the cut read the prompt
    with the visual tokens of the group alone, and `scores` ranks them. The prefill then reads the embeddings of the
    chosen tokens of all groups. `tangovlm.session.in_llm.first_pass` runs the layers.
    """

    @abstractmethod
    def groups(self, frames: int) -> int:
        """Groups into which this many frames are divided for the first pass, frame t into group ``t % groups``; 0 if
        there is no first pass, because the tokens are pruned between the layers of the prefill."""

    @abstractmethod
    def scores(self, view: PromptView) -> Tensor:
        """Scores ``(n,)`` of the visual tokens of a prompt, or of one with the tokens of a group; the highest are kept.

        Raises
        ------
        InputError: there is no text after the video.
        """

    @abstractmethod
    def counts(self, sizes: Sequence[int]) -> list[int]:
        """Tokens to keep of each group, given the numbers of their visual tokens; `sizes` itself to keep all.

        Raises
        ------
        InputError: a budget of which no group gets a token.
        """
