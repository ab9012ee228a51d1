"""The base class of the methods that prune inside the language model, and where they cut."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from ....budget import round_half_up, schedule, validate_retention
from ....errors import InputError, MethodError
from ...common.checks import check_flag
from .view import LayerSelection, PromptView, kept_at_cut

PAPER_LAYERS = 28


class Cut(NamedTuple):
    """From `layer` on, the fraction `keep` of the visual tokens that entered the language model is kept."""

    layer: int
    keep: float


@dataclass(frozen=True)
class InLLMMethod(ABC):
    """A method inside the language model. A subclass is a frozen dataclass, derived from `SingleCut` or `MultiStage`.

    It is called before the layer of each cut, once per prompt of a batch and only during prefill. It returns the visual
    tokens that enter the layer and their values; text tokens are always kept. It computes on plain tensors: hooks,
    padding, caches and position ids are handled by `tangovlm.session`.

    Class attributes
    ----------------
    name: name in the registry.
    paper: address of the paper.
    official_repo: ``address@commit`` of the authors' code.
    probe_layer: "before" to read queries and keys of the layer before the cut, "own" for those of the cut's layer.
    reads_question: whether the selection depends on the text of the prompt.
    in_pairs: whether a `Pair` can have the method as its second part.
    renumbers: whether position ids are renumbered without gaps from each cut on; otherwise tokens keep theirs.
    paper_cuts: the cuts of the paper, for a model of 28 layers.

    Parameters
    ----------
    retention: mean kept fraction over the layers (Eq. 1), in (0, 1], which determines the ratios of the cuts; None uses
        the ratios given, or the paper's.
    exact: round counts as the library does (half up); False rounds as the release does.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range, or both a retention and a ratio.
    """

    name: ClassVar[str]
    stage: ClassVar[str] = "in-llm"
    paper: ClassVar[str]
    official_repo: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    probe_layer: ClassVar[Literal["before", "own"]] = "before"
    reads_question: ClassVar[bool] = True
    in_pairs: ClassVar[bool] = True
    renumbers: ClassVar[bool] = False
    paper_cuts: ClassVar[tuple[Cut, ...]]

    retention: float | None = None
    exact: bool = True

    def __post_init__(self) -> None:
        if self.retention is not None:
            validate_retention(self.retention)
        check_flag("exact", self.exact)

    @abstractmethod
    def __call__(self, view: PromptView) -> LayerSelection:
        """Select among the visual tokens of one prompt."""

    def prepare(self, _visual: Tensor, _text: Tensor) -> Tensor | None:
        """Called once per prompt with the embeddings ``(n, D)`` of the visual tokens and ``(t, D)`` of the text after
        them. The return value is available as `PromptView.memo`."""
        return None

    @property
    @abstractmethod
    def custom_layers(self) -> tuple[int, ...] | None:
        """Layers of the cuts as the user set them, or None."""

    @property
    @abstractmethod
    def custom_ratios(self) -> tuple[float, ...] | None:
        """Kept fractions as the user set them, or None."""

    def kept_count(self, ratio: float, entered: int, present: int) -> int | None:
        """Visual tokens that remain of a prompt after a cut; None if only a run can say.

        Parameters
        ----------
        ratio: of the cut.
        entered: visual tokens that entered the language model.
        present: those that are left before the cut.
        """
        return kept_at_cut(ratio, entered, present) if self.exact else None

    @property
    def absolute_count(self) -> int | None:
        """Visual tokens to keep of a prompt, if the user set their number instead of a fraction."""
        return None

    def cuts(self, layers: int) -> tuple[Cut, ...]:
        """The cuts in a model with this number of layers. A cut that keeps everything is omitted.

        Without custom layers, those of the paper are scaled from 28 layers (see `scale_layer`). The fractions are the
        custom ones, or those that solve Eq. 1 for `retention`, or else the paper's.

        Raises
        ------
        MethodError: a layer outside the model, or a model with one layer.
        InputError: a retention that Eq. 1 cannot reach.
        """
        if layers < 2:
            raise MethodError(f"method {self.name!r} prunes between layers, but the model has {layers}")
        if self.retention == 1:
            return ()
        ratios = self.custom_ratios or tuple(cut.keep for cut in self.paper_cuts)
        places = self.custom_layers or tuple(scale_layer(cut.layer, layers) for cut in self.paper_cuts)
        for place in places:
            if not 1 <= place < layers:
                raise MethodError(f"method {self.name!r} cuts before layer {place}: choose 1 to {layers - 1}")
        if len(places) != len(ratios):
            if self.retention is not None:
                raise MethodError(
                    f"method {self.name!r}: with retention, layers must have {len(ratios)} entries, not {len(places)}"
                )
            raise MethodError(
                f"method {self.name!r} has {len(places)} layers and {len(ratios)} ratios: pass equally many"
            )
        # If scaling moves two cuts to one layer, the ratio of the later one applies.
        cuts = [Cut(*cut) for cut in dict(zip(places, ratios, strict=True)).items()]
        if self.retention is not None:
            try:
                kept = schedule(self.retention, cuts, layers)
            except InputError as error:
                raise InputError(f"method {self.name!r}: {error}") from error
            cuts = [Cut(cut.layer, keep) for cut, keep in zip(cuts, kept, strict=True)]
        return tuple(cut for cut in cuts if cut.keep < 1)

    def scaling_note(self, layers: int) -> str | None:
        """A note for the report if the paper's layers had to be scaled."""
        if self.custom_layers is not None or layers == PAPER_LAYERS or not self.cuts(layers):
            return None
        paper = [cut.layer for cut in self.paper_cuts]
        now = dict.fromkeys(scale_layer(layer, layers) for layer in paper)
        word = "layer" if len(paper) == 1 else "layers"
        return (
            f"{self.name}: the paper's {word} {', '.join(map(str, paper))} of {PAPER_LAYERS} became "
            f"{', '.join(map(str, now))} of {layers}"
        )


def scale_layer(layer: int, layers: int) -> int:
    """The paper's layer of 28 in a model with another number of layers: ``layer * layers / 28``, rounded and clamped.

    >>> scale_layer(18, 28), scale_layer(18, 4), scale_layer(2, 4)
    (18, 3, 1)
    """
    return min(max(1, round_half_up(Fraction(layer * layers, PAPER_LAYERS))), layers - 1)
