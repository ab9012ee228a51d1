"""A layer of a KV cache that does not copy all tokens whenever one is added."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_ROOM = 64


class GrowingLayer(DynamicLayer):  # type: ignore[misc] # transformers is not followed
    """A `DynamicLayer` whose keys and values are the beginning of larger tensors, into which new tokens are written.

    The stock layer concatenates, and so copies the whole cache for every token of an answer: with the tokens of a video
    in every row of a batch, that takes longer than the model. Keys and values are the same numbers as there.
    """

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self._buffers: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, layer: Any) -> "GrowingLayer":
        """A layer with the keys and values ``(B, heads, n, width)`` of a `DynamicLayer`, which it does not change."""
        made = cls()
        made.lazy_initialization(layer.keys, layer.values)
        made.keys, made.values = layer.keys, layer.values
        return made

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        for name in ("keys", "values"):
            held = getattr(self, name)
            buffer = _room_for(held, len(held) * repeats, held.shape[-2])
            grown = buffer[..., : held.shape[-2], :]
            grown.view(len(held), repeats, *grown.shape[1:]).copy_(held[:, None])
            self._hold(name, buffer, grown)

    def rewind(self, tokens: int) -> None:
        """Forget the last tokens, and write the next ones in their place, which `crop` does not: earlier results of
        `update` that hold these tokens change.
        """
        for name in ("keys", "values"):
            held = getattr(self, name)
            buffer, grown = self._buffers.get(name, (held, None))
            shorter = held[..., : held.shape[-2] - tokens, :]
            setattr(self, name, shorter)
            if held is grown:
                self._buffers[name] = buffer, shorter

    def reset(self) -> None:
        """Forget the tokens."""
        # Older releases of transformers write zeros into the tensors, which others may hold too.
        if self.is_initialized:
            self.keys, self.values = self.keys.clone(), self.values.clone()
        super().reset()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values ``(B, heads, n, head_dim)``, and return all."""
        if not self.is_initialized or key_states.dtype != self.keys.dtype:
            both: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return both
        return self._append("keys", key_states), self._append("values", value_states)

    def _append(self, name: str, new: Tensor) -> Tensor:
        held = getattr(self, name)
        length, total = held.shape[-2], held.shape[-2] + new.shape[-2]
        buffer, written = self._buffers.get(name, (held, None))
        # Stock methods that crop, reorder or select replace the tensor.
        if written is not held or total > buffer.shape[-2]:
            buffer = _room_for(held, len(held), total)
            buffer[..., :length, :] = held
        buffer[..., length:total, :] = new
        return self._hold(name, buffer, buffer[..., :total, :])

    def _hold(self, name: str, buffer: Tensor, grown: Tensor) -> Tensor:
        self._buffers[name] = buffer, grown
        setattr(self, name, grown)
        return grown


def _room_for(held: Tensor, rows: int, total: int) -> Tensor:
    return held.new_empty(rows, held.shape[1], total + total // 8 + _ROOM, held.shape[-1])
