"""What a method inside the language model sees, what it answers, and how its layers and ratios are found.

Shape letters, beside those of `tokens`:

    N  positions of one prompt in the layer at hand, padding left out     n  visual ones among them
    R  query positions          A  attention heads          G  heads of keys and values          d  their channels

A method is asked in front of a layer, once for each row of a batch and only while the prompt is read. It names the
visual tokens that go on and their values; text always goes on. It is a function of plain tensors: hooks, padding,
caches and position ids are the `runner`'s.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ....budget import count, round_half_up, schedule, validate_retention
from ....errors import InputError, MethodError
from ...common.checks import check_flag, check_integer, check_number
from ...common.select import top_salient

PAPER_LAYERS = 28


class AttentionProbe(Protocol):
    """What attention gives away at the layer that a method looks at; computed only when it is called."""

    def attention(self, queries: Tensor | None = None) -> Tensor:
        """Softmax rows ``(A, R, N)`` of the queries ``(R,)``, by default of the last position; never a full map."""
        ...

    def keys(self) -> Tensor:
        """Keys ``(G, N, d)``, rotated by their positions."""
        ...

    def norm(self, hidden: Tensor) -> Tensor:
        """The model's final norm of hidden states ``(..., D)``."""
        ...


@dataclass(frozen=True, eq=False)
class PromptView:
    """One prompt in front of a layer.

    Parameters
    ----------
    hidden: ``(N, D)`` hidden states.
    visual: ``(n,)`` int64, ascending positions of the visual tokens.
    entered: visual tokens that entered the language model.
    ratio: fraction of them that shall go on.
    probe: see `AttentionProbe`.
    memo: what the method's `begin` returned.
    """

    hidden: Tensor
    visual: Tensor
    entered: int
    ratio: float
    probe: AttentionProbe
    memo: Tensor | None = None

    @property
    def keep(self) -> int:
        """Visual tokens that go on: ``budget.count(ratio, entered)``, at most n."""
        return min(count(self.ratio, self.entered) if self.ratio else 1, self.visual.numel())

    @property
    def text(self) -> Tensor:
        """``(t,)`` int64, ascending positions behind the last visual token."""
        return torch.arange(int(self.visual[-1]) + 1, self.hidden.shape[0], device=self.visual.device)


class Step(NamedTuple):
    """What goes on.

    Parameters
    ----------
    indices: ``(k,)`` int64, strictly increasing, into the n visual tokens.
    values: ``(k + m, D)`` in the type of the hidden states; the m last ones are new tokens that stand behind the k.
    """

    indices: Tensor
    values: Tensor


class Cut(NamedTuple):
    """From this layer on the fraction `keep` of the visual tokens that entered the language model is left."""

    layer: int
    keep: float


class InLLMMethod(ABC):
    """A method inside the language model. Implementations are frozen dataclasses.

    Class attributes
    ----------------
    looks_at: "before", queries and keys of the layer before the cut, or "own", those of the cut's layer.
    renumbers: whether positions are counted anew without gaps from each cut on; otherwise tokens keep theirs.
    paper_cuts: the cuts of the paper, for a model of 28 layers.
    """

    name: ClassVar[str]
    stage: ClassVar[str] = "in-llm"
    paper: ClassVar[str]
    official_repo: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    looks_at: ClassVar[Literal["before", "own"]] = "before"
    renumbers: ClassVar[bool] = False
    paper_cuts: ClassVar[tuple[Cut, ...]]

    retention: float | None
    exact: bool

    @abstractmethod
    def __call__(self, view: PromptView) -> Step:
        """Choose among the visual tokens of one prompt."""

    def begin(self, _visual: Tensor, _text: Tensor) -> Tensor | None:
        """Look at the embeddings ``(n, D)`` and ``(t, D)`` of the visual tokens and of the text behind them, once."""
        return None

    @property
    @abstractmethod
    def given_layers(self) -> tuple[int, ...] | None:
        """Layers that the user chose."""

    @property
    @abstractmethod
    def given_ratios(self) -> tuple[float, ...] | None:
        """Kept fractions that the user chose."""

    def cuts(self, layers: int) -> tuple[Cut, ...]:
        """Where a model of so many layers is cut, and what is left from there on.

        Layers that the user did not give are the paper's, scaled from 28 (see `scaled`). Fractions are the user's, or
        those that solve Eq. 1 for `retention`, or, without either, the paper's. Keeping everything is no cut.

        Raises
        ------
        MethodError: a layer that the model has not, or a model with one layer.
        InputError: a retention that Eq. 1 cannot reach.
        """
        if layers < 2:
            raise MethodError(f"method {self.name!r} prunes between layers, but the model has {layers}")
        if self.retention == 1:
            return ()
        ratios = self.given_ratios or tuple(cut.keep for cut in self.paper_cuts)
        places = self.given_layers or tuple(scaled(cut.layer, layers) for cut in self.paper_cuts)
        for place in places:
            if not 1 <= place < layers:
                raise MethodError(f"method {self.name!r} cuts in front of layer {place}: choose 1 to {layers - 1}")
        if len(places) != len(ratios):
            if self.retention is not None:
                raise MethodError(
                    f"method {self.name!r}: with retention, layers must name {len(ratios)} cuts, not {len(places)}"
                )
            raise MethodError(
                f"method {self.name!r} has {len(places)} layers and {len(ratios)} ratios: give both alike"
            )
        # Where scaling puts two cuts at one place, what is left after the later one counts.
        cuts = [Cut(*cut) for cut in dict(zip(places, ratios, strict=True)).items()]
        if self.retention is not None:
            try:
                kept = schedule(self.retention, cuts, layers)
            except InputError as error:
                raise InputError(f"method {self.name!r}: {error}") from error
            cuts = [Cut(cut.layer, keep) for cut, keep in zip(cuts, kept, strict=True)]
        return tuple(cut for cut in cuts if cut.keep < 1)

    def moved(self, layers: int) -> str | None:
        """A note for the report where the paper's layers had to be scaled."""
        if self.given_layers is not None or layers == PAPER_LAYERS or not self.cuts(layers):
            return None
        paper = [cut.layer for cut in self.paper_cuts]
        now = dict.fromkeys(scaled(layer, layers) for layer in paper)
        word = "layer" if len(paper) == 1 else "layers"
        return (
            f"{self.name}: the paper's {word} {', '.join(map(str, paper))} of {PAPER_LAYERS} became "
            f"{', '.join(map(str, now))} of {layers}"
        )


@dataclass(frozen=True)
class OneCut(InLLMMethod):
    """A method that prunes once.

    Parameters
    ----------
    retention: mean kept fraction over the layers (Eq. 1), from which `keep_ratio` follows; None: `keep_ratio` counts.
    exact: counts by the library's rounding (half up); off, by the release's, of the product of floats.
    layer: the first layer (from 0) with fewer tokens; None: the paper's of 28, scaled to the model.
    keep_ratio: fraction of the visual tokens that goes on; None: by `retention`, or the paper's.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range, or both a retention and a keep_ratio.
    """

    retention: float | None = None
    exact: bool = True
    layer: int | None = None
    keep_ratio: float | None = None

    def __post_init__(self) -> None:
        check_common(self)
        if self.layer is not None:
            check_integer("layer", self.layer, 1)
        if self.keep_ratio is not None:
            check_ratio("keep_ratio", self.keep_ratio)
            refuse_both(self.retention, "keep_ratio")

    @property
    def given_layers(self) -> tuple[int, ...] | None:
        """See `InLLMMethod.given_layers`."""
        return None if self.layer is None else (self.layer,)

    @property
    def given_ratios(self) -> tuple[float, ...] | None:
        """See `InLLMMethod.given_ratios`."""
        return None if self.keep_ratio is None else (self.keep_ratio,)


@dataclass(frozen=True)
class Stages(InLLMMethod):
    """A method that prunes several times.

    Parameters
    ----------
    retention: mean kept fraction over the layers (Eq. 1); the paper's ratios are raised to the one power that gives
        it. None: `ratios` counts.
    exact: counts by the library's rounding (half up); off, by the release's.
    layers: the first layer (from 0) after each cut, ascending; None: the paper's of 28, scaled to the model.
    ratios: fractions of the visual tokens that entered the model which are left after each cut, descending; None: by
        `retention`, or the paper's.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range, or both a retention and ratios.
    """

    retention: float | None = None
    exact: bool = True
    layers: tuple[int, ...] | None = None
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "ratios"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_common(self)
        if self.layers is not None:
            check_steps("layers", self.layers)
            for layer in self.layers:
                check_integer("layers", layer, 1)
            if any(after <= before for before, after in pairwise(self.layers)):
                raise MethodError(f"layers must ascend, not {self.layers!r}")
        if self.ratios is not None:
            check_steps("ratios", self.ratios)
            for ratio in self.ratios:
                check_ratio("ratios", ratio)
            if any(after > before for before, after in pairwise(self.ratios)):
                raise MethodError(f"ratios must not rise, since each is of the tokens that entered: {self.ratios!r}")
            refuse_both(self.retention, "ratios")

    @property
    def given_layers(self) -> tuple[int, ...] | None:
        """See `InLLMMethod.given_layers`."""
        return self.layers

    @property
    def given_ratios(self) -> tuple[float, ...] | None:
        """See `InLLMMethod.given_ratios`."""
        return self.ratios


def scaled(layer: int, layers: int) -> int:
    """The paper's layer of 28 in a model with another number of layers: ``layer * layers / 28``, rounded, inside it.

    >>> scaled(18, 28), scaled(18, 4), scaled(2, 4)
    (18, 3, 1)
    """
    return min(max(1, round_half_up(Fraction(layer * layers, PAPER_LAYERS))), layers - 1)


def top(scores: Tensor, keep: int) -> Tensor:
    """Ascending indices ``(keep,)`` of the highest of ``scores (n,)``; the lowest of equals first."""
    return top_salient(scores[None], keep)[0].sort().values


def check_common(method: InLLMMethod) -> None:
    """Raise for a retention outside (0, 1] or an `exact` that is no bool."""
    if method.retention is not None:
        validate_retention(method.retention)
    check_flag("exact", method.exact)


def check_ratio(name: str, value: object) -> None:
    """Raise `MethodError` unless the value is a number in (0, 1]."""
    check_number(name, value, 0, 1, above=True)


def check_steps(name: str, value: object) -> None:
    """Raise `MethodError` unless the value is a tuple with something in it."""
    if not isinstance(value, tuple) or not value:
        raise MethodError(f"{name} must be a tuple with one value a cut, not {value!r}")


def refuse_both(retention: float | None, name: str) -> None:
    """Raise `MethodError` if there is a retention beside the ratio that it would determine."""
    if retention is not None:
        raise MethodError(f"give retention or {name}, not both: one follows from the other by Eq. 1")
