"""Tiny random checkpoints of Qwen's whole Omni models on disk, of which vLLM reads the thinker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.support.serve.qwen_checkpoints import PIXELS, ROPE, TEXT, VISION, sharp, tokenizer

_ENDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NAMES = (
    "vision_bos_token", "vision_eos_token", "image_token", "video_token", "audio_bos_token", "audio_eos_token",
    "audio_token",
)  # fmt: skip
_IDS = (
    "vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id", "audio_start_token_id",
    "audio_end_token_id", "audio_token_id",
)  # fmt: skip
WORDS2 = (
    "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>", "<|audio_bos|>", "<|audio_eos|>", "<|AUDIO|>",
)  # fmt: skip
WORDS3 = (
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|audio_start|>", "<|audio_end|>",
    "<|audio_pad|>",
)  # fmt: skip
_SOUND = {
    "num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32,
    "max_source_positions": 1500, "output_dim": 128,
}  # fmt: skip


def qwen2_5_omni(folder: Path) -> Path:
    """The tower of the checkpoint of Qwen2.5-VL; two positions a second."""
    from transformers import (
        Qwen2_5OmniConfig,
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    vision = VISION | {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [0, 2], "tokens_per_second": 2}
    config = Qwen2_5OmniThinkerConfig(
        vision_config=vision, audio_config=_SOUND | {"n_window": 100}, text_config=TEXT | {"rope_parameters": ROPE},
        position_id_per_seconds=2, seconds_per_chunk=2, **_ids(),
    )  # fmt: skip
    processor = Qwen2_5OmniProcessor(
        Qwen2VLImageProcessor(size=PIXELS), Qwen2VLVideoProcessor(size=PIXELS), _listener(), _tokenizer(WORDS2)
    )
    thinker = sharp(Qwen2_5OmniThinkerForConditionalGeneration, config)
    return _saved(folder, thinker, Qwen2_5OmniConfig, "Qwen2_5OmniModel", processor)


def qwen3_omni(folder: Path) -> Path:
    """The tower of the checkpoint of Qwen3-VL, text layers with four experts; two positions a second."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3OmniMoeConfig,
        Qwen3OmniMoeProcessor,
        Qwen3OmniMoeThinkerConfig,
        Qwen3OmniMoeThinkerForConditionalGeneration,
    )

    # As in published checkpoints, two fields are only read by vLLM.
    vision = VISION | {
        "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1], "image_size": 128,
        "apply_vit_abs_pos_embed": True,
    }  # fmt: skip
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}
    text = TEXT | {"head_dim": 32, "rope_parameters": ROPE | {"mrope_interleaved": True}} | experts
    config = Qwen3OmniMoeThinkerConfig(
        vision_config=vision, audio_config=_SOUND | {"n_window": 50, "downsample_hidden_size": 8}, text_config=text,
        position_id_per_seconds=2, **_ids(),
    )  # fmt: skip
    sizes = {"size": PIXELS, "patch_size": 16}
    processor = Qwen3OmniMoeProcessor(
        Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes), _listener(), _tokenizer(WORDS3)
    )
    thinker = sharp(Qwen3OmniMoeThinkerForConditionalGeneration, config)
    return _saved(folder, thinker, Qwen3OmniMoeConfig, "Qwen3OmniMoeForConditionalGeneration", processor)


def _ids() -> dict[str, Any]:
    return {name: number for number, name in enumerate(_IDS, start=len(_ENDS))} | {"tie_word_embeddings": False}


def _tokenizer(words: tuple[str, ...]) -> Any:
    return tokenizer((*_ENDS, *words), **dict(zip(_NAMES, words, strict=True)))


def _listener() -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=_SOUND["num_mel_bins"], chunk_length=30, return_attention_mask=True)


def _saved(folder: Path, thinker: Any, whole: Callable[..., Any], architecture: str, processor: Any) -> Path:
    config = whole(thinker_config=thinker.config.to_dict())
    config.architectures = [architecture]
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    weights = {f"thinker.{name}": weight.contiguous() for name, weight in thinker.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
