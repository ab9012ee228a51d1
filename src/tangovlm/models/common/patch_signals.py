"""Hooks on a tower that takes the patches of all videos of a call in one row: saliency, keys and means of steps.

Shape letters: S patches of a call, F steps (frames of the token grids) of a call, P patches of a step, A heads, d
channels of a head.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .layout import Found
from .saliency import grouped_mean, mean_attention, mean_keys, mean_query_attention, rotate_half
from .transformers_compat import Arg

if TYPE_CHECKING:
    from .patch_sequence import PatchSequenceFamily


class Listener:
    """Hooks on one tower; what a call tells before it computes is kept for as long as it lasts."""

    def __init__(self, family: PatchSequenceFamily, found: Found, needs: frozenset[str], kind: str) -> None:
        self._family = family
        self._found = found
        self._needs = needs
        self._kind = kind
        self._thw: Tensor
        self._steps: list[tuple[int, int]] = []
        self._rotary: tuple[Tensor, Tensor]
        self._projected: dict[nn.Module, Tensor] = {}

    def before_tower(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the grids of the call."""
        self._thw = torch.as_tensor(kwargs[Arg.GRIDS] if Arg.GRIDS in kwargs else args[1])
        side = self._family.merge
        self._steps = [(high // side, wide // side) for count, high, wide in self._thw.tolist() for _ in range(count)]

    def before_attention(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the rotary tables of the call, ``(S, d)`` each."""
        self._rotary = kwargs[Arg.ROTARY]
        self._projected.clear()

    @torch.no_grad()
    def on_projection(self, module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        """Queries and keys are there, once all projections have run."""
        self._projected[module] = output
        if len(self._projected) < len(self._family.projections):
            return
        found = [self._projected[projection] for projection in self._family.projections]
        parts = found[0].chunk(3, dim=-1)[:2] if len(found) == 1 else found
        query, key = (part.view(*part.shape[:-1], self._family.heads, -1) for part in parts)
        self._projected.clear()
        group = self._family.merge**2
        if "saliency" in self._needs:
            cos, sin = (table.float()[:, None] for table in self._rotary)
            scores = [self._scores(q, k, c, s, group) for q, k, c, s in self._runs(query, key, cos, sin)]
            self._add("saliency", torch.cat(scores))
        if "keys" in self._needs:
            flat = key.flatten(1)
            self._add("keys", grouped_mean(mean_keys(flat[None], self._family.heads), group)[0])

    @torch.no_grad()
    def on_tokens(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """The finished tokens are there, in raster order."""
        tokens = getattr(output, "pooler_output", output)
        sizes = [height * width for height, width in self._steps]
        self._found["frame_features"] += [step.mean(dim=0, dtype=torch.float32) for step in torch.split(tokens, sizes)]

    def _scores(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, group: int) -> Tensor:
        """Scores ``(F * tokens,)`` of steps with equally many patches: all arguments are ``(F, P, A or 1, d)``."""
        query, key = (part.float() * cos + rotate_half(part.float()) * sin for part in (query, key))
        if self._kind == "mean-query":
            return mean_query_attention(query, key, group).flatten()
        attention = mean_attention(query.flatten(2), key.flatten(2), self._family.heads)
        return grouped_mean(attention[..., None], group).flatten()

    def _runs(self, *rows: Tensor) -> list[tuple[Tensor, ...]]:
        """Rows ``(S, ...)`` as ``(F, P, ...)``, for each run of steps with equally many patches."""
        sizes = [height * width * self._family.merge**2 for height, width in self._steps]
        borders = [place for place in range(1, len(sizes)) if sizes[place] != sizes[place - 1]]
        runs, start = [], 0
        for first, last in pairwise([0, *borders, len(sizes)]):
            stop = start + (last - first) * sizes[first]
            runs.append(tuple(part[start:stop].reshape(last - first, -1, *part.shape[1:]) for part in rows))
            start = stop
        return runs

    def _add(self, name: str, values: Tensor) -> None:
        """Values ``(tokens, ...)`` in the order of the last layer, as one tensor a step."""
        places = self._family.raster(self._thw)
        if places is not None:
            ordered = torch.empty_like(values)
            ordered[places.to(values.device)] = values
            values = ordered
        parts = torch.split(values, [height * width for height, width in self._steps])
        self._found[name] += [part.view(*grid, *part.shape[1:]) for part, grid in zip(parts, self._steps, strict=True)]
