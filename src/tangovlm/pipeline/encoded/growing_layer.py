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
        """Repeat each row; a single one is copied when the next token is added."""
        if len(self.keys) == 1:
            self.keys, self.values = (each.expand(repeats, -1, -1, -1) for each in (self.keys, self.values))
        else:
            super().batch_repeat_interleave(repeats)

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
        self.keys, self.values = self._append("keys", key_states), self._append("values", value_states)
        return self.keys, self.values

    def _append(self, name: str, new: Tensor) -> Tensor:
        held = getattr(self, name)
        length, total = held.shape[-2], held.shape[-2] + new.shape[-2]
        buffer, written = self._buffers.get(name, (held, None))
        # Stock methods that crop, reorder or select replace the tensor.
        if written is not held or total > buffer.shape[-2]:
            buffer = held.new_empty(*held.shape[:-2], total + total // 8 + _ROOM, held.shape[-1])
            buffer[..., :length, :] = held
        buffer[..., length:total, :] = new
        grown = buffer[..., :total, :]
        self._buffers[name] = buffer, grown
        return grown
