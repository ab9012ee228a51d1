"""Access to the parts of a stock text model that a method between its layers reads: queries, keys, rotary tables."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...errors import ModelError

Queries = Callable[[Tensor], Tensor]
"""Returns queries ``(A, R, d)`` of positions ``(R,)`` of a prompt, before rotation."""
Keys = Callable[[], Tensor]
"""Returns keys ``(G, N, d)`` of a prompt, before rotation."""


def check_text_model(decoder: Any) -> None:
    """Raise `ModelError` unless all layers of a text model are of a known structure."""
    if hasattr(decoder, "_deepstack_process"):
        raise _unsupported(
            f"does not support {type(decoder).__name__}, whose first layers also get features of the vision encoder"
        )
    for layer in decoder.layers:
        _check_layer(layer)


def _check_layer(layer: Any) -> None:
    attention: Any = getattr(layer, "self_attn", None)
    name = type(layer).__name__
    parts = ("q_proj", "k_proj", "head_dim", "scaling")
    if not hasattr(layer, "input_layernorm") or not all(hasattr(attention, part) for part in parts):
        raise _unsupported(f"needs layers built like Qwen2's, not {name}")
    weight = getattr(getattr(attention, "q_norm", None), "weight", None)
    if hasattr(attention, "q_norm") and (weight is None or weight.numel() != attention.head_dim):
        raise _unsupported(f"does not support {name}, which does not norm the queries of each head separately")
    rope = getattr(getattr(attention, "config", None), "rope_parameters", None) or {}
    if hasattr(layer, "post_self_attn_layernorm") or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unsupported(f"does not support {name}, which rotates other channels")
    if getattr(attention, "sliding_window", None) is not None:
        raise _unsupported("needs layers with full attention, not a sliding window")


def _unsupported(reason: str) -> ModelError:
    return ModelError(f"pruning inside the model {reason}: choose a method that prunes before the language model")


def hooks_did_not_run() -> ModelError:
    """The error for a text model whose layers ran without their hooks."""
    return ModelError("the layers of the text model ran without their hooks: attach first, then torch.compile")


def projection(attention: Any, which: str) -> nn.Module:
    """The module that computes queries ("q") or keys ("k") before their rotation: the norm of each head, if any."""
    norm: nn.Module | None = getattr(attention, f"{which}_norm", None)
    return getattr(attention, f"{which}_proj") if norm is None else norm


def compute_projections(layer: Any, states: Tensor) -> tuple[Queries, Keys]:
    """Queries and keys of a layer, computed from the hidden states ``(N, D)`` of a prompt."""
    attention = layer.self_attn

    def project(which: str, hidden: Tensor) -> Tensor:
        projected: Tensor = getattr(attention, f"{which}_proj")(layer.input_layernorm(hidden))
        norm = getattr(attention, f"{which}_norm", None)
        if norm is not None:
            projected = norm(projected.view(len(hidden), -1, attention.head_dim))
        return _split_heads(projected, attention, states)

    return lambda positions: project("q", states[positions]), lambda: project("k", states)


def recorded_projections(
    attention: Any, queries: Tensor | None, keys: Tensor | None, entry: int, index: Tensor, states: Tensor
) -> tuple[Queries, Keys]:
    """Queries and keys that a layer has computed, recorded by hooks on `projection`.

    Parameters
    ----------
    queries, keys: ``(B, M, ...)``; None if a hook did not run.
    entry: batch entry of the prompt.
    index: ``(N,)`` int64, positions of its tokens in the padded batch.
    states: hidden states ``(N, D)``.
    """

    def read(recorded: Tensor | None, positions: Tensor) -> Tensor:
        if recorded is None:
            raise hooks_did_not_run()
        return _split_heads(recorded[entry, positions], attention, states)

    return lambda positions: read(queries, index[positions]), lambda: read(keys, index)


def _split_heads(projected: Tensor, attention: Any, states: Tensor) -> Tensor:
    """``(heads, n, d)`` of ``(n, heads * d)`` or ``(n, heads, d)``, on the device of the hidden states."""
    return projected.reshape(len(projected), -1, attention.head_dim).transpose(0, 1).to(states.device)


def expand_tables(tables: tuple[Tensor, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables ``(1 or B, q, d)`` for all B entries of a mask ``(B, q)``, on its device."""
    cos, sin = (table.to(valid.device).expand(len(valid), -1, -1) for table in tables)
    return cos, sin


def gather_tables(tables: tuple[Tensor, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables ``(B, q, d)`` at positions ``(B, M)``."""
    cos, sin = (table.gather(1, index[..., None].expand(-1, -1, table.shape[-1])) for table in tables)
    return cos, sin
