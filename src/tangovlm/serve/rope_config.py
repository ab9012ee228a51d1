"""Configures a text model with ordinary rotary positions so that vLLM recomputes its positions after encoding.

vLLM computes the positions of a prompt before its videos are encoded, and corrects them afterwards only for models with
M-RoPE. Such a model gets one position per axis, and each channel of a head is rotated by that of its axis. If all
channels belong to the first axis, the rotation is that of a model without M-RoPE.

vLLM loads the plug-in in all of its processes, so nothing slow may be imported here.
"""

from typing import Any

from ..errors import ModelError

_TEXT_MODELS = ("qwen2",)
"""Text models of vLLM that accept positions of several axes, and with which the tests pass."""
_TABLE_FACTOR = 4
"""vLLM's table of rotations for M-RoPE has this many times `max_position_embeddings` rows."""


def use_axes(model_config: Any) -> None:
    """Make the text model of a `vllm.config.ModelConfig` one whose positions are recomputed.

    Raises
    ------
    ModelError: a text model, or a kind of rotary positions, for which this is not known to leave answers unchanged.
    """
    text = model_config.hf_text_config
    rope = getattr(text, "rope_parameters", None) or {}
    reason = ""
    if text.model_type not in _TEXT_MODELS:
        reason = f"the text model is {text.model_type}, and only {', '.join(_TEXT_MODELS)} is supported"
    elif model_config.uses_mrope or getattr(text, "dual_chunk_attention_config", None) is not None:
        reason = "the text model has positions of its own kind"
    elif rope.get("rope_type", "default") != "default":
        reason = f"the text model scales its positions ({rope['rope_type']})"
    if reason:
        raise ModelError(f"positions 'original' cannot be served: {reason}; choose 'contiguous'")
    heads = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rotated = int(heads * rope.get("partial_rotary_factor", 1.0))
    text.rope_parameters = {**rope, "mrope_section": [rotated // 2, 0, 0]}


def position_limit(text_config: Any) -> int:
    """The first position that vLLM cannot rotate, for a model configured by `use_axes`."""
    limit: int = _TABLE_FACTOR * text_config.max_position_embeddings
    return limit
