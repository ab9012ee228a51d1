"""Options of pruning: the mapping `tango` in ``--hf-overrides`` of a server, and the retention of a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from .. import registry
from ..budget import validate_retention
from ..errors import InputError, MethodError, ModelError
from ..methods import build
from ..methods.build import Method, Pair
from ..methods.in_llm.common.base import InLLMMethod
from ..models.common.family import POSITIONS, Family
from ..models.common.layout import Grid
from ..models.common.signals import SALIENCY_KINDS
from ..tokens import Pruner

CONFIG_KEY = "tango"
REQUEST_KEY = "tango_retention"
_REQUEST_PREFIX = "tango_"
NEWLINES = ("kept", "all")
ADAPTIVE_REASON = (
    "lets the content decide how many tokens are kept, but vLLM sizes a prompt before it encodes the video: serve it "
    "with a fixed number, or run it with transformers (tangovlm ask, tangovlm batch --engine transformers)"
)
"""Why adaptive counts cannot be served, to follow the name of a method."""


@dataclass(frozen=True)
class ServeOptions:
    """How the videos of a server are pruned.

    Parameters
    ----------
    retention: fraction of a video's tokens to keep, in (0, 1]; a request may override it.
    method: a registered method before the language model that keeps an exact number of tokens.
    params: its other hyper-parameters.
    saliency: "p-attn", "attn" or "mean-query"; None for the one that the method was designed for.
    head_weights: safetensors file, checkpoint directory or hub id with SigLIP's pooling head, for a checkpoint
        without it.
    positions: position ids of the kept tokens, "contiguous" or "original" (see `tangovlm.attach`); None for those of
        the method and the model.
    newlines: "kept" or "all": which newlines of a pruned video remain, for a model that has one after every row of a
        frame (LLaVA-Video). "kept", as in `tangovlm.attach`, are those of rows that keep a token, whose number is not
        known before encoding.

    Raises
    ------
    InputError: a retention outside (0, 1], an unknown saliency, unknown positions or newlines.
    MethodError: an unknown method or hyper-parameter, or a method whose number of tokens is not known before encoding.
    """

    retention: float = 0.1
    method: str = "tango"
    params: Mapping[str, Any] = field(default_factory=dict)
    saliency: str | None = None
    head_weights: str | None = None
    positions: str | None = None
    newlines: str = "kept"

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        if self.saliency is not None and self.saliency not in SALIENCY_KINDS:
            raise InputError(f"saliency is {self.saliency!r}: choose {' or '.join(map(repr, SALIENCY_KINDS))}")
        if self.positions not in (None, *POSITIONS):
            raise InputError(f"positions is {self.positions!r}: choose {' or '.join(map(repr, POSITIONS))}")
        if self.newlines not in NEWLINES:
            raise InputError(f"newlines is {self.newlines!r}: choose {' or '.join(map(repr, NEWLINES))}")
        if not isinstance(self.params, Mapping) or "retention" in self.params:
            raise InputError(
                "params must be a mapping of hyper-parameters without retention, which is an option of its own"
            )
        _check_exact(self.method, self._pruner)

    @classmethod
    def from_mapping(cls, options: object) -> "ServeOptions":
        """From the value of ``--hf-overrides '{"tango": ...}'``.

        Raises
        ------
        InputError: not a mapping, or an unknown key; see also `ServeOptions`.
        """
        if not isinstance(options, Mapping):
            raise InputError(f"{CONFIG_KEY} must be a mapping such as {{'retention': 0.1}}, not {options!r}")
        known = [each.name for each in fields(cls)]
        if options.get("adaptive"):
            raise MethodError(f"{CONFIG_KEY} with 'adaptive' {ADAPTIVE_REASON}")
        if unknown := sorted(set(map(str, options)) - set(known)):
            raise InputError(f"{CONFIG_KEY} has no option {unknown[0]!r}: it takes {', '.join(known)}")
        return cls(**options)

    @classmethod
    def of(cls, config: Any) -> "ServeOptions | None":
        """Options in a model's configuration; None if pruning is not requested."""
        options = getattr(config, CONFIG_KEY, None)
        return None if options is None else cls.from_mapping(options)

    def as_mapping(self) -> dict[str, Any]:
        """The argument of `from_mapping`, without options that have their default."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        defaults = {each.name: each.default for each in fields(self)} | {"params": {}}
        return {name: value for name, value in values.items() if name == "retention" or value != defaults[name]}

    def request_retention(self, kwargs: Mapping[str, object]) -> float:
        """The retention of one request.

        Parameters
        ----------
        kwargs: its ``mm_processor_kwargs``.

        Raises
        ------
        InputError: a retention outside (0, 1], or an option that does not exist.
        """
        known = (REQUEST_KEY,)
        if kwargs.get("tango_adaptive"):
            raise InputError(f"mm_processor_kwargs.tango_adaptive {ADAPTIVE_REASON}")
        if unknown := sorted(key for key in kwargs if key.startswith(_REQUEST_PREFIX) and key not in known):
            raise InputError(f"mm_processor_kwargs has no option {unknown[0]!r}: it takes {', '.join(known)}")
        asked = kwargs.get(REQUEST_KEY)
        if asked is None:
            return self.retention
        try:
            return validate_retention(asked)
        except InputError as error:
            raise InputError(f"mm_processor_kwargs.{REQUEST_KEY}: {error}") from None

    def pruner(self, retention: float) -> Pruner:
        """The method with the retention of a request."""
        pruner: Any = self._pruner
        return pruner if retention == self.retention else replace(pruner, retention=retention)

    def signals(self, family: Family) -> tuple[frozenset[str], str]:
        """The signals that the method reads, and the kind of its saliency.

        Raises
        ------
        ModelError: the family does not provide them.
        """
        pruner = self._pruner
        kind = self.saliency or family.signals.resolve_saliency(getattr(pruner, "signal", None))
        needs = family.signals.readable(pruner)
        family.signals.check(pruner.name, needs, kind)
        return needs, kind

    def check_newlines(self, family: Family) -> None:
        """Check that the number of newlines of a pruned video does not depend on its content.

        Raises
        ------
        ModelError: it does.
        """
        # As many tokens as rows, so that the least and the largest number differ if they can.
        least, most = family.layout.newline_range(2, Grid(1, 2, 2))
        if self.newlines == "kept" and least != most:
            raise ModelError(
                f"{family.name} keeps the newlines of rows that keep a token, but vLLM sizes a prompt before it "
                "encodes the video: choose 'newlines': 'all', which keeps all of them, or run it with transformers"
            )

    def original_positions(self, family: Family) -> bool:
        """Whether kept tokens have the positions of the unpruned prompt.

        Raises
        ------
        InputError: the family supports no others than these, and the options ask for others.
        """
        return family.resolve_positions(self.positions, getattr(self._pruner, "positions", "contiguous")) == "original"

    @cached_property
    def _pruner(self) -> Pruner:
        pruner: Pruner = build.method(self.method, retention=self.retention, **self.params)
        return pruner


def without_ours(kwargs: Mapping[str, object]) -> dict[str, object]:
    """The ``mm_processor_kwargs`` of a request that the stock processor accepts."""
    return {key: value for key, value in kwargs.items() if not key.startswith(_REQUEST_PREFIX)}


def _check_exact(name: str, pruner: Method) -> None:
    """Refuse a method whose number of tokens does not follow from the grid: vLLM sizes prompts before encoding."""
    if isinstance(pruner, InLLMMethod | Pair):
        before = [name for name, cls in registry.methods().items() if not issubclass(cls, InLLMMethod)]
        raise MethodError(
            f"method {name!r} prunes inside the language model, which is run by vLLM: choose one of {', '.join(before)}"
        )
    if build.is_adaptive(pruner):
        raise MethodError(f"method {name!r} {ADAPTIVE_REASON}")
    if getattr(pruner, "exact", None) is not True:
        raise MethodError(
            f"method {name!r} keeps a number of tokens that is not known before encoding: only methods whose field "
            "`exact` is True can be served"
        )
