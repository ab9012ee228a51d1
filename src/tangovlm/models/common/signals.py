"""Which signals a vision encoder provides, and the hooks that collect them."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
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

    def of_rows(self, rows: Tensor) -> "Signals":
        """The signals of all frames ``(F,)``, given the number of the one whose signals each of them gets."""
        return Signals(*(_of_rows(each, rows) for each in (self.saliency, self.frame_features, self.keys)))


def _of_this_thread(function: Callable[..., None]) -> Callable[..., None]:
    """A hook that does nothing in other threads."""
    own = get_ident()

    def hook(*arguments: Any) -> None:
        if get_ident() == own:
            function(*arguments)

    return hook


def _of_rows(signal: Tensor | list[Tensor] | None, rows: Tensor) -> Tensor | list[Tensor] | None:
    if isinstance(signal, Tensor):
        return signal[rows.to(signal.device)]
    return None if signal is None else [signal[row] for row in rows.tolist()]


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


class ReadPoint(NamedTuple):
    """A place in the vision encoder where hidden states pass.

    Parameters
    ----------
    name: under which values are collected.
    module: a module whose input or output are the hidden states of all patches, first in a tuple if there are several.
    before: whether its input is read, else its output.
    """

    name: str
    module: nn.Module
    before: bool = False

    def hook(self, function: Callable[[Tensor], None]) -> ForwardHook:
        """A hook that calls a function with the hidden states, without gradients."""

        @torch.no_grad()
        def on_input_of(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            function(args[0] if args else next(iter(kwargs.values())))

        @torch.no_grad()
        def on_output_of(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            function(output[0] if isinstance(output, tuple) else output)

        return on_input(self.module, on_input_of) if self.before else on_output(self.module, on_output_of)


def value_hooks(
    points: Sequence[ReadPoint], collected: SignalParts, to_grid: Callable[[Tensor], Tensor]
) -> list[ForwardHook]:
    """Hooks that append ``to_grid(hidden states)`` at several points to `collected`, under their names."""

    def reader(name: str) -> Callable[[Tensor], None]:
        return lambda hidden: collected[name].append(to_grid(hidden))

    return [point.hook(reader(point.name)) for point in points]


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

        The encoder may be called several times, such as once for each chunk of frames. Calls of other threads, which
        may use the model at the same time, do not count.

        Parameters
        ----------
        needs: names of signals.
        kind: of the saliency, see `resolve_saliency`.
        """
        signals = Signals()
        collected: SignalParts = defaultdict(list)
        hooks = self.hooks(collected, needs, self.resolve_saliency(kind))
        handles = [hook.register(_of_this_thread(hook.function)) for hook in hooks]
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

    def value_hooks(
        self, collected: SignalParts, points: Sequence[ReadPoint], take: Callable[[Tensor], Tensor]
    ) -> list[ForwardHook]:
        """Hooks that append a value of each token at several points of the encoder to `collected`.

        Values of patches become values of tokens in the way in which the saliency does. `join` joins the parts.

        Parameters
        ----------
        points: where to read hidden states.
        take: values ``(..., P)`` of hidden states ``(..., P, C)``.

        Raises
        ------
        ModelError: the family does not support it.
        """
        del collected, points, take
        raise ModelError(
            f"the family {self.family.name} does not define where the values of its encoder's patches are on the grid"
        )

    def sinks(self, _grid: Grid) -> tuple[int, ...] | None:
        """Grid positions with known attention sinks; None if unmeasured."""
        return None
