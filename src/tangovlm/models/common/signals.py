"""Which signals a vision encoder provides, and the hooks that collect them."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...tokens import Pruner
from .layout import Grid
from .part import FamilyPart

SALIENCY_KINDS: tuple[str, ...] = ("p-attn", "attn", "mean-query")

# Parts of the signals, under the names of `Signals`: one for each call of the encoder, or one for each frame.
SignalParts: TypeAlias = dict[str, list[Tensor]]


@dataclass
class Signals:
    """Signals of the vision encoder in one call, on the token grid, the F frames of all videos in order.

    A tensor has the frames in its first dimension. If frames have different grids it is a list, one entry per frame.

    Parameters
    ----------
    saliency: ``(F, H, W)`` float32 or None.
    frame_features: ``(F, Dv)`` float32 or None.
    keys: ``(F, H, W, Dk)`` float32 or None.
    """

    saliency: Tensor | list[Tensor] | None = None
    frame_features: Tensor | list[Tensor] | None = None
    keys: Tensor | list[Tensor] | None = None


class ForwardHook(NamedTuple):
    """One hook.

    Parameters
    ----------
    module: a module of the vision encoder.
    before: whether `function` is called before the module, with (module, args, kwargs); else after it, with (module,
        args, output).
    function: the function of the hook; it returns nothing.
    """

    module: nn.Module
    before: bool
    function: Callable[..., None]

    def register(self, function: Callable[..., Any] | None = None) -> Any:
        """Register the hook, or another function in its place; return the handle, which has `remove`."""
        called = self.function if function is None else function
        if self.before:
            return self.module.register_forward_pre_hook(called, with_kwargs=True)
        return self.module.register_forward_hook(called)


def on_input(module: nn.Module, function: Callable[..., None]) -> ForwardHook:
    """A hook that is called before a module."""
    return ForwardHook(module, True, function)


def on_output(module: nn.Module, function: Callable[..., None]) -> ForwardHook:
    """A hook that is called with the output of a module."""
    return ForwardHook(module, False, function)


class EncoderSignals(FamilyPart, ABC):
    """How the signals of a vision encoder are collected, with forward hooks only.

    The encoder keeps its attention implementation.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"saliency", "timestamps", "frame_features", "keys"})
    """Signals that the family can provide."""
    saliency_kinds: ClassVar[tuple[str, ...]] = SALIENCY_KINDS
    """Kinds of saliency that the family can provide, the default first."""

    def resolve_saliency(self, wanted: str | None = None) -> str:
        """Kind of saliency to use.

        It is the one that the family was created with, else `wanted` if the family provides it, else the family's
        first.
        """
        chosen: str | None = self.family.saliency
        if chosen is not None:
            return chosen
        return wanted if wanted in self.saliency_kinds else self.saliency_kinds[0]

    @classmethod
    def readable(cls, pruner: Pruner) -> frozenset[str]:
        """Signals that a method reads with this family: all that it needs but optional ones that are not provided."""
        return pruner.needs - (frozenset(getattr(pruner, "optional", ())) - cls.provides)

    def check(self, name: str, needs: frozenset[str], kind: str) -> None:
        """Check that the signals that a method needs are available.

        Parameters
        ----------
        name: of the method, for the message.
        needs: names of signals.
        kind: of the saliency.

        Raises
        ------
        ModelError: the family does not provide a signal, with any checkpoint.
        """
        missing = sorted(needs - self.provides)
        kinds = not missing and "saliency" in needs and kind not in self.saliency_kinds
        if kinds:
            missing = [f"the saliency {kind!r}"]
        if missing:
            raise ModelError(
                f"method {name!r} needs {missing[0]}, which the family {self.family.name} does not provide: choose "
                f"another {'saliency, ' + ' or '.join(map(repr, self.saliency_kinds)) if kinds else 'method'}"
            )

    def prepare(self, needs: frozenset[str], kind: str | None = None) -> None:
        """Load what the signals need, so that an error is raised before anything is encoded.

        Parameters
        ----------
        needs: names of signals.
        kind: of the saliency, see `resolve_saliency`.

        Raises
        ------
        ModelError: the model cannot provide a signal.
        """
        del needs, kind

    @contextmanager
    def observe(self, needs: frozenset[str], kind: str | None = None) -> Iterator[Signals]:
        """Collect signals of the vision encoder within the context; the yielded object is filled on exit.

        The encoder may be called several times, such as once for each chunk of frames.

        Parameters
        ----------
        needs: names of signals.
        kind: of the saliency, see `resolve_saliency`.
        """
        signals = Signals()
        collected: SignalParts = defaultdict(list)
        handles = [hook.register() for hook in self.hooks(collected, needs, self.resolve_saliency(kind))]
        try:
            yield signals
        finally:
            for handle in handles:
                handle.remove()
        self.collect(collected, signals)

    @abstractmethod
    def hooks(self, collected: SignalParts, needs: frozenset[str], kind: str) -> list[ForwardHook]:
        """Hooks on the encoder that append to `collected`.

        For the same `needs` and `kind` they are always on the same modules in the same order.
        """

    def collect(self, collected: SignalParts, signals: Signals) -> None:
        """Join what the hooks of `hooks` have appended and write it into `signals`."""
        for name, parts in collected.items():
            setattr(signals, name, self.join(parts))

    def join(self, parts: list[Tensor]) -> Tensor | list[Tensor]:
        """Parts of a signal in the form of `Signals`; by default there is one part per call, frames first."""
        return torch.cat(parts)

    def sinks(self, _grid: Grid) -> tuple[int, ...] | None:
        """Grid positions with known attention sinks; None if unmeasured."""
        return None
