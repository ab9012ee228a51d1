"""Signals of an encoder that receives the patches of all videos of a call as one sequence.

Shape letters: S patches of a call, F steps (frames of the token grids) of a call, P patches of a step, A heads, d
channels of a head.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .saliency import grouped_mean, mean_attention, mean_keys, mean_query_attention, rotate_half
from .signals import EncoderSignals, ForwardHook, ReadPoint, SignalParts, on_input, on_output
from .transformers_compat import Arg


class PatchSequenceSignals(EncoderSignals):
    """Signals of the last layer of the encoder, step by step.

    "mean-query": after the rotary embedding, the mean of a step's queries attends to the keys of its tokens (each the
    mean of its patches' keys), averaged over heads (Tango's release for Qwen2.5-VL). "attn": the mean attention that
    the patches of a token receive. Frame features are the means of a step's tokens.
    """

    saliency_kinds = ("mean-query", "attn")

    def hooks(self, collected: SignalParts, needs: frozenset[str], kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        family = self.family
        recorder = family.recorder(family, collected, needs, kind)
        hooks = [on_input(family.tower, recorder.before_tower)]
        if "frame_features" in needs:
            hooks.append(on_output(family.token_module, recorder.on_tokens))
        if needs & {"saliency", "keys"}:
            hooks.append(on_input(family.attention, recorder.before_attention))
            hooks += [on_output(module, recorder.on_query_key) for module in family.query_key]
        return hooks

    def value_hooks(
        self, collected: SignalParts, points: Sequence[ReadPoint], take: Callable[[Tensor], Tensor]
    ) -> list[ForwardHook]:
        """See `EncoderSignals.value_hooks`: means over the patches of a token."""
        recorder = self.family.recorder(self.family, collected, frozenset(), self.saliency_kinds[0])

        def reader(name: str) -> Callable[[Tensor], None]:
            return lambda hidden: recorder.add_values(name, take(hidden).flatten())

        hooks = [on_input(self.family.tower, recorder.before_tower)]
        return hooks + [point.hook(reader(point.name)) for point in points]

    def join(self, parts: list[Tensor]) -> list[Tensor]:
        """See `EncoderSignals.join`: a list, as videos may have different grids."""
        return parts


class PatchSignalRecorder:
    """The functions of the hooks on one encoder, which keep what they need of the current call.

    Parameters
    ----------
    family: a `PatchSequenceFamily`, bound to a model.
    collected: to which steps are appended.
    needs: names of signals.
    kind: of the saliency.
    """

    def __init__(self, family: Any, collected: SignalParts, needs: frozenset[str], kind: str) -> None:
        self._family = family
        self._collected = collected
        self._needs = needs
        self._kind = kind
        self._thw: Tensor
        self._steps: list[tuple[int, int]] = []
        self._rotary: tuple[Tensor, Tensor]
        self._outputs: dict[nn.Module, Tensor] = {}

    def before_tower(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Store the grids of the call."""
        self._thw = torch.as_tensor(kwargs[Arg.GRIDS] if Arg.GRIDS in kwargs else args[1])
        side = self._family.merge_size
        self._steps = [(high // side, wide // side) for count, high, wide in self._thw.tolist() for _ in range(count)]

    def before_attention(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Store the rotary tables of the call, ``(S, d)`` each."""
        self._rotary = kwargs[Arg.ROTARY]
        self._outputs.clear()

    @torch.no_grad()
    def on_query_key(self, module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        """Compute saliency and keys once queries and keys are available."""
        self._outputs[module] = output
        if len(self._outputs) < len(self._family.query_key):
            return
        outputs = [self._outputs[module] for module in self._family.query_key]
        parts = outputs[0].chunk(3, dim=-1)[:2] if len(outputs) == 1 else outputs
        query, key = (part.view(*part.shape[:-1], self._family.heads, -1) for part in parts)
        self._outputs.clear()
        group = self._family.merge_size**2
        if "saliency" in self._needs:
            cos, sin = (table.float()[:, None] for table in self._rotary)
            scores = [self._scores(q, k, c, s, group) for q, k, c, s in self._equal_steps(query, key, cos, sin)]
            self._add("saliency", torch.cat(scores))
        if "keys" in self._needs:
            flat = key.flatten(1)
            self._add("keys", grouped_mean(mean_keys(flat[None], self._family.heads), group)[0])

    @torch.no_grad()
    def on_tokens(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """Compute frame features from the tokens, which are in raster order."""
        tokens = getattr(output, "pooler_output", output)
        sizes = [height * width for height, width in self._steps]
        self._collected["frame_features"] += [
            step.mean(dim=0, dtype=torch.float32) for step in torch.split(tokens, sizes)
        ]

    def add_values(self, name: str, values: Tensor) -> None:
        """Append values ``(S,)`` of patches, in the order of the layers, as means over those of each token."""
        self._add(name, grouped_mean(values[None, :, None], self._family.merge_size**2)[0, :, 0])

    def _scores(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, group: int) -> Tensor:
        """Scores ``(F * tokens,)`` of steps with equal numbers of patches: all arguments are ``(F, P, A or 1, d)``."""
        query, key = (part.float() * cos + rotate_half(part.float()) * sin for part in (query, key))
        if self._kind == "mean-query":
            return mean_query_attention(query, key, group).flatten()
        attention = mean_attention(query.flatten(2), key.flatten(2), self._family.heads)
        return grouped_mean(attention[..., None], group).flatten()

    def _equal_steps(self, *sequences: Tensor) -> list[tuple[Tensor, ...]]:
        """Sequences ``(S, ...)`` as ``(F, P, ...)``, for each group of adjacent steps with equal numbers of patches."""
        sizes = [height * width * self._family.merge_size**2 for height, width in self._steps]
        borders = [step for step in range(1, len(sizes)) if sizes[step] != sizes[step - 1]]
        groups, start = [], 0
        for first, last in pairwise([0, *borders, len(sizes)]):
            stop = start + (last - first) * sizes[first]
            groups.append(tuple(part[start:stop].reshape(last - first, -1, *part.shape[1:]) for part in sequences))
            start = stop
        return groups

    def _add(self, name: str, values: Tensor) -> None:
        """Append values ``(tokens, ...)``, which are in the order of the last layer, as one tensor per step."""
        order = self._family.token_order(self._thw)
        if order is not None:
            ordered = torch.empty_like(values)
            ordered[order.to(values.device)] = values
            values = ordered
        parts = torch.split(values, [height * width for height, width in self._steps])
        self._collected[name] += [
            part.view(*grid, *part.shape[1:]) for part, grid in zip(parts, self._steps, strict=True)
        ]


class RasterPatchSignals(EncoderSignals):
    """Signals of the last layer, frame by frame, whose patches are in raster order and have no rotary embedding.

    Values are averaged over the patches of a token. The encoder may have merged windows of 2 x 2 patches before. Frame
    features are the means of a frame's tokens.
    """

    saliency_kinds = ("attn",)

    def hooks(self, collected: SignalParts, needs: frozenset[str], _kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        recorder = _RasterRecorder(self.family, collected)
        hooks = [on_input(self.family.tower, recorder.before_tower)]
        attention = self.family.attention
        if "saliency" in needs:
            hooks.append(on_output(attention.q_proj, recorder.on_query))
        if needs & {"saliency", "keys"}:
            hooks.append(on_output(attention.k_proj, recorder.on_key(needs)))
        if "frame_features" in needs:
            hooks.append(on_output(self.family.token_module, recorder.on_tokens))
        return hooks

    def value_hooks(
        self, collected: SignalParts, points: Sequence[ReadPoint], take: Callable[[Tensor], Tensor]
    ) -> list[ForwardHook]:
        """See `EncoderSignals.value_hooks`."""
        recorder = _RasterRecorder(self.family, collected)

        def reader(name: str) -> Callable[[Tensor], None]:
            return lambda hidden: recorder.add(name, take(hidden)[0, :, None], squeeze=True)

        hooks = [on_input(self.family.tower, recorder.before_tower)]
        return hooks + [point.hook(reader(point.name)) for point in points]

    def join(self, parts: list[Tensor]) -> list[Tensor]:
        """See `EncoderSignals.join`: a list, as videos may have different grids."""
        return parts


class _RasterRecorder:
    """The functions of the hooks, which keep the grids of the current call."""

    def __init__(self, family: Any, collected: SignalParts) -> None:
        self._family = family
        self._collected = collected
        self._sizes: list[list[int]] = []
        self._side = 0
        self._query: list[Tensor] = []

    def before_tower(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Store the grids of the call in patches of the frames, and the side of a token in them."""
        self._sizes = kwargs[Arg.SIZES].tolist()
        self._side = self._family.merge_size * (2 if kwargs.get(Arg.MERGES_WINDOWS, True) else 1)
        self._query.clear()

    def on_query(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        """Store queries ``(1, S, C)``."""
        self._query.append(output)

    def on_key(self, needs: frozenset[str]) -> Callable[..., None]:
        """A function that computes saliency and keys from keys ``(1, S, C)``."""

        @torch.no_grad()
        def hook(_module: nn.Module, _args: tuple[Any, ...], key: Tensor) -> None:
            heads = self._family.attention.num_heads
            if self._query:
                queries, keys = (self._frames(values[0]) for values in (self._query.pop(), key))
                scores = [mean_attention(q[None], k[None], heads)[0] for q, k in zip(queries, keys, strict=True)]
                self.add("saliency", torch.cat(scores)[:, None], squeeze=True)
            if "keys" in needs:
                self.add("keys", mean_keys(key, heads)[0])

        return hook

    @torch.no_grad()
    def on_tokens(self, _module: nn.Module, _args: tuple[Any, ...], frames: Sequence[Tensor]) -> None:
        """Compute frame features from the tokens of each frame."""
        self._collected["frame_features"] += [frame.mean(dim=0, dtype=torch.float32) for frame in frames]

    def add(self, name: str, values: Tensor, *, squeeze: bool = False) -> None:
        """Append values ``(S, c)`` as means over the patches of each token, ``(H, W, c)`` or ``(H, W)`` a frame."""
        grids = self._grids(len(values))
        factor = self._side * grids[0][0] // self._sizes[0][0]
        for frame, (rows, columns) in zip(self._frames(values), grids, strict=True):
            square = frame.view(rows, columns, -1).permute(2, 0, 1)[None]
            means = functional.avg_pool2d(square, factor)[0].permute(1, 2, 0)
            self._collected[name].append(means[..., 0] if squeeze else means)

    def _frames(self, values: Tensor) -> Sequence[Tensor]:
        return torch.split(values, [rows * columns for rows, columns in self._grids(len(values))])

    def _grids(self, patches: int) -> list[tuple[int, int]]:
        """Rows and columns of each frame in a layer with this number of patches, before or after windows are merged."""
        side = 1 if patches == sum(rows * columns for rows, columns in self._sizes) else 2
        return [(rows // side, columns // side) for rows, columns in self._sizes]
