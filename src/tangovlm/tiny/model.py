"""The architecture of the embedded model: a stock `LlavaOnevisionForConditionalGeneration`, 2.8 million parameters."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

from ..models.common.transformers_compat import Arg
from .synthetic.render import GRID
from .synthetic.world import LENGTH, SIDE

FRAMES = LENGTH
VISION_WIDTH, TEXT_WIDTH = 128, 192
PATCH = 7
TOKENS_PER_FRAME = GRID * GRID


def build(
    vocabulary: int, end: int, pad: int, image: int, video: int, layers: int = 4, positions: int = 8192
) -> LlavaOnevisionForConditionalGeneration:
    """The untrained model in float32.

    Parameters
    ----------
    vocabulary: number of tokens of the tokenizer.
    end, pad, image, video: its special tokens.
    layers, positions: of the language model, the maximum number of positions.
    """
    vision = SiglipVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=3 * VISION_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=True,
    )
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        video_token_index=video,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[SIDE, SIDE]],
        vision_aspect_ratio="anyres_max_1",
        tie_word_embeddings=True,
    )
    return LlavaOnevisionForConditionalGeneration(config)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint in the format of `transformers`, such as that of the embedded model."""
    return (folder / "config.json").is_file()


def load_checkpoint(folder: Path) -> LlavaOnevisionForConditionalGeneration:
    """The model of a checkpoint, in float32."""
    return LlavaOnevisionForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32)


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 (F, 112, 112, 3) -> float (F, 3, 112, 112) in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The vision tower's last hidden state, before its final LayerNorm: (F, 256, 128)."""
    tower = model.model.vision_tower
    hidden: Tensor = tower.encoder(**{Arg.EMBEDS: tower.embeddings(pixels)}).last_hidden_state
    return hidden


def project_and_pool(model: LlavaOnevisionForConditionalGeneration, hidden: Tensor) -> Tensor:
    """(F, 256, 128) -> pooled activations (F, 64, 192); `linear_2` maps them to the visual tokens.

    `linear_2` is affine and pooling averages with weights that sum to one, so the two commute: features pooled first
    can be cached while `linear_2` is still being trained.
    """
    projector = model.model.multi_modal_projector
    pooled: Tensor = model.model.apply_pooling(projector.act(projector.linear_1(hidden)))
    return pooled


def visual_tokens(model: LlavaOnevisionForConditionalGeneration, pooled: Tensor) -> Tensor:
    """The visual tokens (..., 192) that the language model receives, from the output of `project_and_pool`."""
    tokens: Tensor = model.model.multi_modal_projector.linear_2(pooled)
    return tokens


def pick_device() -> torch.device:
    """CUDA if available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
