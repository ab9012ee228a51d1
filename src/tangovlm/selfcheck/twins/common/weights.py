"""Small text models, and random weights under which every token matters to the answer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config

from .parts import PAD, VOCABULARY


def loud(model: Any) -> None:
    """Weights so large that every token matters to the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "position" not in name and "pos_embed" not in name:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
        model.get_input_embeddings().weight.normal_(std=1.0)


def random(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qwen2(layers: int = 2, **changes: Any) -> Qwen2Config:
    """A small text model."""
    return Qwen2Config(**text_config(layers) | changes)


def text_config(layers: int = 2) -> dict[str, Any]:
    """Settings of all small text models."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": PAD,
    }
