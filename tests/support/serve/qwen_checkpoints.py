"""Tiny random Qwen2.5-VL, Qwen3-VL and Qwen3.5 checkpoints on disk, which notice wrong positions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_IDS = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
VISION = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 4,
    "out_hidden_size": 128,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
TEXT = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "bos_token_id": None,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
PIXELS = {"shortest_edge": 32 * 32, "longest_edge": 1024 * 1024}


def tokenizer(specials: Sequence[str] = SPECIALS, **names: str) -> Any:
    """One token a byte, the special ones first; `names` are attributes for some of these."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({token: number for number, token in enumerate([*specials, *alphabet])}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    ends = {"pad_token": specials[0], "eos_token": specials[2]}
    more: dict[str, Any] = {"extra_special_tokens": names} if names else {"additional_special_tokens": list(specials)}
    return PreTrainedTokenizerFast(tokenizer_object=plain, **more, **ends)


def qwen2_5_vl(folder: Path) -> Path:
    """Four layers of text; windows of 4 x 4 tokens, the last layer of the tower sees whole steps."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    vision = VISION | {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [0, 2], "tokens_per_second": 2}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=TEXT | {"rope_parameters": ROPE}, **_ids())
    processor = Qwen2_5_VLProcessor(Qwen2VLImageProcessor(size=PIXELS), tokenizer(), Qwen2VLVideoProcessor(size=PIXELS))
    return _saved(folder, Qwen2_5_VLForConditionalGeneration, config, processor)


def qwen3_vl(folder: Path) -> Path:
    """Four layers of text; the first two also receive features of the vision encoder."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = VISION | {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    text = TEXT | {"head_dim": 32, "rope_parameters": ROPE | {"mrope_interleaved": True}}
    config = Qwen3VLConfig(vision_config=vision, text_config=text, **_ids())
    return _saved(folder, Qwen3VLForConditionalGeneration, config, _qwen3_processor())


def qwen3_5(folder: Path) -> Path:
    """Four layers of text, the first three recurrent."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    vision = VISION | {"patch_size": 16, "num_position_embeddings": 64}
    text = TEXT | {
        "head_dim": 64, "rope_parameters": ROPE | {"mrope_interleaved": True, "partial_rotary_factor": 0.5},
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }  # fmt: skip
    config = Qwen3_5Config(vision_config=vision, text_config=text, **_ids())
    return _saved(folder, Qwen3_5ForConditionalGeneration, config, _qwen3_processor())


def _qwen3_processor() -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    # vLLM scales the colors of images and videos alike, on the device.
    half = [0.5, 0.5, 0.5]
    image = Qwen2VLImageProcessor(size=PIXELS, patch_size=16, image_mean=half, image_std=half)
    return Qwen3VLProcessor(image, tokenizer(), Qwen3VLVideoProcessor(size=PIXELS))


def _ids() -> dict[str, Any]:
    return {name: number for number, name in enumerate(_IDS, start=3)} | {"tie_word_embeddings": False}


def _saved(folder: Path, kind: Callable[[Any], Any], config: Any, processor: Any) -> Path:
    model = sharp(kind, config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def sharp(kind: Callable[[Any], Any], config: Any) -> Any:
    """A random model that notices wrong positions."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for name, module in model.named_modules():
            # Attention that looks sharply, and words that are sure of themselves: a wrong place shows.
            if name.endswith(("q_proj", "k_proj")):
                module.weight *= 12
            if name.endswith(("q_norm", "k_norm")):
                module.weight *= 4
            if name.endswith("lm_head"):
                module.weight *= 5
            if "visual" in name and isinstance(module, nn.Linear):
                module.weight *= 3
    return model
