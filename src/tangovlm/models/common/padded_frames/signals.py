"""Signals of an encoder whose frames are sequences of patches, padded to one length, with the position of each patch.

Shape letters: F frames, P patches of a frame with padding, n without, A heads, d channels of a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..saliency import mean_attention, mean_keys, rotate_half
from ..signals import EncoderSignals, ForwardHook, ReadPoint, SignalParts, on_input, on_output
from ..transformers_compat import Arg


class PaddedFrameSignals(EncoderSignals):
    """Saliency ("attn") and keys of the encoder's last layer, averaged over the patches of a token.

    The saliency is the attention that the patches receive from those of their frame, after the rotary embedding,
    averaged over heads and queries. Frame features are the means of a frame's tokens. The family has a `tower`, the
    side `pool` of a token in patches, and `sides`.
    """

    saliency_kinds = ("attn",)

    def hooks(self, collected: SignalParts, needs: frozenset[str], _kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        recorder, attention = _Recorder(self.family, collected, needs), self.family.tower.encoder.layers[-1].self_attn
        hooks = [on_input(self.family.tower, recorder.before_tower)]
        if "frame_features" in needs:
            hooks.append(on_output(self.family.encoder.embed_vision, recorder.on_tokens))
        if needs & {"saliency", "keys"}:
            hooks.append(on_input(attention, recorder.before_attention))
            hooks.append(on_output(attention.q_norm, recorder.on_query))
            hooks.append(on_output(attention.k_norm, recorder.on_key))
        return hooks

    def value_hooks(
        self, collected: SignalParts, points: Sequence[ReadPoint], take: Callable[[Tensor], Tensor]
    ) -> list[ForwardHook]:
        """See `EncoderSignals.value_hooks`: means over the patches of a token."""
        recorder = _Recorder(self.family, collected, frozenset())

        def reader(name: str) -> Callable[[Tensor], None]:
            return lambda hidden: recorder.add(name, take(hidden)[..., None], squeeze=True)

        hooks = [on_input(self.family.tower, recorder.before_tower)]
        return hooks + [point.hook(reader(point.name)) for point in points]

    def join(self, parts: list[Tensor]) -> list[Tensor]:
        """See `EncoderSignals.join`: a list, as videos may have different grids."""
        return parts


class _Recorder:
    """The functions of the hooks on one encoder, which keep what they need of the current call.

    Parameters
    ----------
    family: bound to a model.
    collected: to which frames are appended.
    needs: names of signals.
    """

    def __init__(self, family: Any, collected: SignalParts, needs: frozenset[str]) -> None:
        self._family = family
        self._collected = collected
        self._needs = needs
        self._sides: list[tuple[int, int]] = []
        self._rotary: tuple[Tensor, Tensor]
        self._query: Tensor

    def before_tower(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Store the grids of the call."""
        positions = kwargs[Arg.PATCH_POSITIONS] if Arg.PATCH_POSITIONS in kwargs else args[1]
        self._sides = self._family.sides(positions)

    def before_attention(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Store the rotary tables of the call, ``(F, P, d)`` each."""
        self._rotary = kwargs[Arg.ROTARY]

    def on_query(self, _module: nn.Module, _args: tuple[Any, ...], query: Tensor) -> None:
        """Store the queries ``(F, P, A, d)``."""
        self._query = query

    @torch.no_grad()
    def on_key(self, _module: nn.Module, _args: tuple[Any, ...], key: Tensor) -> None:
        """Compute saliency and keys, from keys ``(F, P, A', d)``, which may have fewer heads than queries."""
        heads = key.shape[2]
        if "saliency" in self._needs:
            # A frame at a time, without its padding.
            frames = zip(self._query, key, *self._rotary, self._sides, strict=True)
            for query_PAd, key_PAd, cos, sin, (rows, columns) in frames:
                count = rows * columns * self._family.pool**2
                turned = (_rotated(part[:count], cos[:count], sin[:count]) for part in (query_PAd, key_PAd))
                self._add_frame("saliency", self._attention(*turned)[:, None], (rows, columns), squeeze=True)
            del self._query
        if "keys" in self._needs:
            self.add("keys", mean_keys(key.flatten(2), heads))

    @torch.no_grad()
    def on_tokens(self, _module: nn.Module, _args: tuple[Any, ...], tokens: Tensor) -> None:
        """Compute frame features from the tokens of all frames."""
        sizes = [rows * columns for rows, columns in self._sides]
        self._collected["frame_features"] += [
            frame.mean(dim=0, dtype=torch.float32) for frame in torch.split(tokens, sizes)
        ]

    def add(self, name: str, values: Tensor, squeeze: bool = False) -> None:
        """Append values ``(F, P, c)`` of patches, as means over those of each token; with `squeeze`, c is 1."""
        for frame, (rows, columns) in zip(values, self._sides, strict=True):
            self._add_frame(name, frame[: rows * columns * self._family.pool**2], (rows, columns), squeeze)

    def _add_frame(self, name: str, values: Tensor, sides: tuple[int, int], squeeze: bool) -> None:
        (rows, columns), pool = sides, self._family.pool
        means = values.view(rows, pool, columns, pool, -1).mean(dim=(1, 3))
        self._collected[name].append(means[..., 0] if squeeze else means)

    def _attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention ``(n,)`` that patches receive; `mean_attention` divides by the root of d, the layer does not."""
        attention = self._family.tower.encoder.layers[-1].self_attn
        scale = attention.scaling * query.shape[-1] ** 0.5
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        return mean_attention((query * scale).flatten(1)[None], key.flatten(1)[None], query.shape[1])[0]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channels ``(n, A, d)`` float32 after the rotary embedding: the first half by columns, the second by rows."""
    halves = zip(*(part.float().chunk(2, dim=-1) for part in (x, cos[:, None], sin[:, None])), strict=True)
    return torch.cat([part * cosine + rotate_half(part) * sine for part, cosine, sine in halves], dim=-1)
