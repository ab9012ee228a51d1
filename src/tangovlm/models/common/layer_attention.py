"""Saliency and keys of one layer of a vision encoder, from the modules that make its queries and its keys.

Shape letters: F frames, P patches of a frame, C channels of the encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .layout import Found
from .saliency import mean_attention, mean_keys
from .taps import Tap, behind


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """Where the attention of a layer is to be heard.

    Parameters
    ----------
    query, key: modules whose outputs ``(F, leading + P, C)`` are the layer's queries and keys; queries come first.
    heads: of the layer.
    pool: takes values of patches ``(F, P, c)`` to the token grid, ``(F, H, W, c)``.
    leading: tokens in front of the patches, such as a class token. Saliency is the attention that the others get,
        averaged over heads and all queries and divided by its sum over the frame.
    """

    query: nn.Module
    key: nn.Module
    heads: int
    pool: Callable[[Tensor], Tensor]
    leading: int = 0

    def listen(self, found: Found, needs: frozenset[str]) -> list[Tap]:
        """Taps that append "saliency" ``(F, H, W)`` and "keys" ``(F, H, W, c)`` to `found`, where needed."""
        queries: list[Tensor] = []
        taps = []
        if "saliency" in needs:
            taps.append(behind(self.query, lambda _module, _args, output: queries.append(output)))
        if needs & {"saliency", "keys"}:
            taps.append(behind(self.key, self._on_key(found, needs, queries)))
        return taps

    def _on_key(self, found: Found, needs: frozenset[str], queries: list[Tensor]) -> Callable[..., None]:
        @torch.no_grad()
        def hook(_module: nn.Module, _args: tuple[Any, ...], key: Tensor) -> None:
            if queries:
                scores = mean_attention(queries.pop(), key, self.heads)[:, self.leading :]
                if self.leading:
                    scores = scores / scores.sum(dim=1, keepdim=True)
                found["saliency"].append(self.pool(scores[..., None])[..., 0])
            if "keys" in needs:
                found["keys"].append(self.pool(mean_keys(key[:, self.leading :], self.heads)))

        return hook


def listen_to_output(module: nn.Module, found: Found, name: str, take: Callable[[Tensor], Tensor]) -> Tap:
    """A tap that appends what `take` makes of the module's output to `found` under a name, in float32."""

    @torch.no_grad()
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        found[name].append(take(output).float())

    return behind(module, hook)


def layer_of(hidden_states: int | Sequence[int], layers: nn.ModuleList) -> Any:
    """The last of the layers whose outputs are these entries of the hidden states, of which the first is their input.

    Negative entries count from the end.
    """
    entries = [hidden_states] if isinstance(hidden_states, int) else hidden_states
    last = max(entry if entry >= 0 else len(layers) + 1 + entry for entry in entries)
    return layers[max(last, 1) - 1]
