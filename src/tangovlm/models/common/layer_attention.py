"""Saliency and keys of one layer of a vision encoder, from the modules that compute its queries and keys.

Shape letters: F frames, P patches of a frame, C channels of the encoder.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .saliency import mean_attention, mean_keys
from .signals import EncoderSignals, ForwardHook, ReadPoint, SignalParts, on_output, value_hooks


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """The modules of one attention layer.

    Parameters
    ----------
    query, key: modules whose outputs ``(F, leading + P, C)`` are the layer's queries and keys; queries come first.
    heads: of the layer.
    pool: pools values of patches ``(F, P, c)`` to the token grid, ``(F, H, W, c)``.
    leading: number of tokens before the patches, such as a class token. Saliency is the attention that the patches
        receive, averaged over heads and all queries and divided by its sum over the frame.
    """

    query: nn.Module
    key: nn.Module
    heads: int
    pool: Callable[[Tensor], Tensor]
    leading: int = 0

    def hooks(self, collected: SignalParts, needs: frozenset[str]) -> list[ForwardHook]:
        """Hooks that append "saliency" ``(F, H, W)`` and "keys" ``(F, H, W, c)`` to `collected`, if needed."""
        queries: list[Tensor] = []
        hooks = []
        if "saliency" in needs:
            hooks.append(on_output(self.query, lambda _module, _args, output: queries.append(output)))
        if needs & {"saliency", "keys"}:
            hooks.append(on_output(self.key, self._on_key(collected, needs, queries)))
        return hooks

    def _on_key(self, collected: SignalParts, needs: frozenset[str], queries: list[Tensor]) -> Callable[..., None]:
        @torch.no_grad()
        def hook(_module: nn.Module, _args: tuple[Any, ...], key: Tensor) -> None:
            if queries:
                scores = mean_attention(queries.pop(), key, self.heads)[:, self.leading :]
                if self.leading:
                    scores = scores / scores.sum(dim=1, keepdim=True)
                collected["saliency"].append(self.pool(scores[..., None])[..., 0])
            if "keys" in needs:
                collected["keys"].append(self.pool(mean_keys(key[:, self.leading :], self.heads)))

        return hook


class LayerSignals(EncoderSignals):
    """Saliency ("attn") and keys of one layer; a subclass may add hooks for frame features."""

    saliency_kinds = ("attn",)

    @property
    @abstractmethod
    def layer(self) -> LayerAttention:
        """The layer."""

    def hooks(self, collected: SignalParts, needs: frozenset[str], _kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        return self.layer.hooks(collected, needs)

    def value_hooks(
        self, collected: SignalParts, points: Sequence[ReadPoint], take: Callable[[Tensor], Tensor]
    ) -> list[ForwardHook]:
        """See `EncoderSignals.value_hooks`: without the tokens before the patches."""
        layer = self.layer
        return value_hooks(points, collected, lambda hidden: layer.pool(take(hidden)[:, layer.leading :, None])[..., 0])


def output_hook(module: nn.Module, collected: SignalParts, name: str, take: Callable[[Tensor], Tensor]) -> ForwardHook:
    """A hook that appends `take` of the module's output to ``collected[name]``, in float32."""

    @torch.no_grad()
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        collected[name].append(take(output).float())

    return on_output(module, hook)


def layer_of(hidden_states: int | Sequence[int], layers: nn.ModuleList) -> Any:
    """The last of the layers whose outputs are these entries of the hidden states.

    The first entry of the hidden states is the input of the first layer; negative entries count from the end.
    """
    entries = [hidden_states] if isinstance(hidden_states, int) else hidden_states
    last = max(entry if entry >= 0 else len(layers) + 1 + entry for entry in entries)
    return layers[max(last, 1) - 1]
