"""How the user sets the cuts of a method inside the language model: a single cut, or several stages."""

from dataclasses import dataclass
from itertools import pairwise

from ....errors import MethodError
from ...common.checks import check_integer, check_number
from .base import InLLMMethod


@dataclass(frozen=True)
class SingleCut(InLLMMethod):
    """A method that prunes once.

    Parameters
    ----------
    retention, exact: see `InLLMMethod`.
    layer: the first layer (from 0) with fewer tokens; None means the paper's, scaled from 28 layers to the model.
    keep_ratio: fraction of the visual tokens to keep; None means the one that follows from `retention`, or the paper's.
    """

    layer: int | None = None
    keep_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None:
            check_integer("layer", self.layer, 1)
        if self.keep_ratio is not None:
            check_number("keep_ratio", self.keep_ratio, 0, 1, above=True)
            _refuse_both(self.retention, "keep_ratio")

    @property
    def custom_layers(self) -> tuple[int, ...] | None:
        """See `InLLMMethod.custom_layers`."""
        return None if self.layer is None else (self.layer,)

    @property
    def custom_ratios(self) -> tuple[float, ...] | None:
        """See `InLLMMethod.custom_ratios`."""
        return None if self.keep_ratio is None else (self.keep_ratio,)


@dataclass(frozen=True)
class MultiStage(InLLMMethod):
    """A method that prunes several times.

    Parameters
    ----------
    retention, exact: see `InLLMMethod`; for a retention, the paper's ratios are raised to one common power.
    layers: the first layer (from 0) after each cut, ascending; None means the paper's, scaled from 28 layers.
    ratios: fraction of the visual tokens that entered the model to keep after each cut, descending; None means those
        that follow from `retention`, or the paper's.
    """

    layers: tuple[int, ...] | None = None
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "ratios"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()
        if self.layers is not None:
            _check_tuple("layers", self.layers)
            for layer in self.layers:
                check_integer("layers", layer, 1)
            if any(after <= before for before, after in pairwise(self.layers)):
                raise MethodError(f"layers must ascend, not {self.layers!r}")
        if self.ratios is not None:
            _check_tuple("ratios", self.ratios)
            for ratio in self.ratios:
                check_number("ratios", ratio, 0, 1, above=True)
            if any(after > before for before, after in pairwise(self.ratios)):
                raise MethodError(f"ratios must not rise, since each is of the tokens that entered: {self.ratios!r}")
            _refuse_both(self.retention, "ratios")

    @property
    def custom_layers(self) -> tuple[int, ...] | None:
        """See `InLLMMethod.custom_layers`."""
        return self.layers

    @property
    def custom_ratios(self) -> tuple[float, ...] | None:
        """See `InLLMMethod.custom_ratios`."""
        return self.ratios


def _check_tuple(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not value:
        raise MethodError(f"{name} must be a tuple with one value per cut, not {value!r}")


def _refuse_both(retention: float | None, name: str) -> None:
    if retention is not None:
        raise MethodError(f"pass retention or {name}, not both: one follows from the other by Eq. 1")
