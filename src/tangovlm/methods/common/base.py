"""The base class of the methods that reduce tokens before the language model, and named variants of a method."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch

from ... import budget
from ...errors import InputError, MethodError
from ...tokens import NO_TIMESTAMPS, Selection, VideoTokens
from .checks import check_flag
from .selection import keep_all

NO_FRAME_FEATURES = "no frame features given: segmented by the mean of each frame's tokens"

_REQUIRED = {"saliency": "(T, H, W)", "keys": "(T, H, W, Dk)"}
_FALLBACKS = {"timestamps": NO_TIMESTAMPS, "frame_features": NO_FRAME_FEATURES}


@dataclass(frozen=True)
class PreLLMMethod(ABC):
    """A method before the language model. A subclass is a frozen dataclass that implements `reduce`.

    Calling the method validates the video, returns all tokens if ``retention`` is 1, and otherwise calls `reduce`
    without gradients. Fields that a subclass adds are its hyper-parameters, with the paper's defaults; it validates
    them in its own ``__post_init__``, which calls that of this class.

    Class attributes
    ----------------
    name: name in the registry.
    paper: address of the paper, "" for a baseline without one.
    official_repo: ``address@commit`` of the authors' code, "" if there is none.
    needs: signals that the method reads, a subset of saliency, keys, timestamps and frame_features. Saliency and keys
        are required unless they are `optional`; without timestamps or frame features the method falls back, and a note
        in the selection says so.
    optional: those of the signals that a model family need not provide, each with the note that the selection has
        without it. They are not read if ``retention`` is 1.
    signal: "attn" or "p-attn", the saliency that the method is designed for; only for a method that reads it.
    positions: position ids of the kept tokens if neither the user nor the family fixes them, see `tangovlm.attach`.
    reads_question: whether the selection depends on the text of the prompt.
    adaptive_fields: fields, with values, that let the content decide how many tokens are kept, see `adaptive`; empty if
        the method cannot.

    Parameters
    ----------
    retention: fraction of the tokens to keep, in (0, 1]; 1 keeps every token unchanged.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False keeps as many as the authors' code does.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str]
    stage: ClassVar[str] = "pre-llm"
    paper: ClassVar[str] = ""
    official_repo: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[Mapping[str, str]] = {}
    positions: ClassVar[Literal["contiguous", "original"]] = "contiguous"
    reads_question: ClassVar[bool] = False
    adaptive_fields: ClassVar[Mapping[str, Any]] = {}

    retention: float = 0.1
    exact: bool = True

    def __post_init__(self) -> None:
        budget.validate_retention(self.retention)
        check_flag("exact", self.exact)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video.

        Raises
        ------
        InputError: a required signal is missing, or one does not fit the method's parameters.
        """
        if self.is_identity:
            # Only segmentation runs, and frame features are the only signal that it may read.
            read = (self.needs & {"frame_features"}) - set(self.optional)
            return self._with_notes(keep_all(tokens, self.segment(tokens)), tokens, read)
        required = [name for name in _REQUIRED if name not in self.optional]
        missing = [f"VideoTokens.{name} {_REQUIRED[name]}" for name in required if self._lacks(name, tokens)]
        if missing:
            pronoun, none = ("it", "none") if len(missing) == 1 else ("both", "neither")
            raise InputError(
                f"{type(self).__name__} needs {' and '.join(missing)}: pass {pronoun}, or choose a method that needs "
                f"{none}"
            )
        selection = self.reduce(tokens, budget.count(self.retention, tokens.count))
        return self._with_notes(selection, tokens, self.needs)

    @abstractmethod
    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        """Choose the tokens of one video, and merge others into them.

        Parameters
        ----------
        tokens: has every required signal.
        count: tokens to keep, ``budget.count(retention, T * H * W)``. A method with counts of its own uses those
            instead if ``exact`` is False.
        """

    def segment(self, tokens: VideoTokens) -> tuple[int, ...]:
        """Frames of each temporal segment, for the identity; by default the video is one segment."""
        return (tokens.frames,)

    @property
    def adaptive(self) -> bool:
        """Whether the content decides how many tokens are kept, so that ``retention`` is an upper bound."""
        return False

    @property
    def keeps_count(self) -> bool:
        """Whether exactly ``budget.count(retention, T * H * W)`` tokens are kept of every video."""
        return self.exact and not self.adaptive

    @property
    def is_identity(self) -> bool:
        """Whether every token is kept unchanged."""
        return self.retention == 1 and not self.adaptive

    def _lacks(self, signal: str, tokens: VideoTokens) -> bool:
        return signal in self.needs and getattr(tokens, signal) is None

    def _with_notes(self, selection: Selection, tokens: VideoTokens, read: frozenset[str]) -> Selection:
        """The selection with a note for each signal that was to be read and is missing."""
        fallbacks = {**_FALLBACKS, **self.optional}
        notes = tuple(note for name, note in fallbacks.items() if name in read and self._lacks(name, tokens))
        return replace(selection, notes=notes + selection.notes) if notes else selection


def variant(cls: type, name: str, fixed: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """Build a method with some of its parameters fixed.

    Raises
    ------
    MethodError: a parameter that the method does not have or that the variant fixes, or one outside its range.
    """
    accepted = {field.name for field in fields(cls) if field.init} - set(fixed)
    if unknown := sorted(set(params) - accepted):
        raise MethodError(
            f"{cls.__name__}.{name} has no parameter {unknown[0]!r}: it takes {', '.join(sorted(accepted))}"
        )
    return cls(**fixed, **params)


class PaperVariant(str):
    """The address of a method's paper. Called on the method's class, it builds the method as the paper defines it.

    Parameters
    ----------
    address: of the paper.
    fixed: parameters of the method for which the paper's text differs from the default.

    Raises
    ------
    MethodError: when called; see `variant`.

    >>> from tangovlm import Tango
    >>> Tango.paper
    'https://arxiv.org/abs/2604.09547'
    >>> Tango.paper(retention=0.15).anchor_weight
    0.0
    """

    fixed: Mapping[str, Any]
    _owner: type

    def __new__(cls, address: str, fixed: Mapping[str, Any]) -> "PaperVariant":
        new = super().__new__(cls, address)
        new.fixed = fixed
        return new

    def __get__(self, _instance: Any, owner: type) -> "PaperVariant":
        bound = PaperVariant(str(self), self.fixed)
        bound._owner = owner
        return bound

    def __reduce__(self) -> Any:
        # A copy or a pickle is a plain string.
        return str, (str(self),)

    def __call__(self, **params: Any) -> Any:
        return variant(self._owner, "paper", self.fixed, params)
