"""Families at the sizes of published models, without weights, and the stock video processors that belong to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from tangovlm import registry

HALVES = [0.5, 0.5, 0.5]
IDS = {"image_token_id": 1, "video_token_id": 2}
GEMMA = IDS | {"vision_config": {"model_type": "gemma4_vision"}}
SIZES = (
    (480, 640), (1080, 1920), (1920, 1080), (2532, 1170), (337, 601), (601, 337), (480, 494), (360, 640), (720, 1281),
    (100, 100), (30, 40), (28, 28), (1000, 200), (253, 449),
)  # fmt: skip
"""Height and width of frames."""


@dataclass(frozen=True)
class Shape:
    """A model's configuration, and how its checkpoint has videos processed.

    Parameters
    ----------
    architecture: name of the model class.
    config: name of its configuration class, with `options`.
    processor: name of the stock video processor class.
    saved: what the preprocessor config of the checkpoint says.
    """

    architecture: str
    config: str
    processor: str
    saved: dict[str, Any]
    options: dict[str, Any]

    def family(self) -> Any:
        """The family, bound to a model with a configuration and a signature only, and to `saved`."""
        config = getattr(transformers, self.config)(**self.options)
        forward = getattr(transformers, self.architecture).forward
        model = type(self.architecture, (), {"config": config, "forward": forward})()
        return registry.family_for(self.architecture)(model, config=self.saved)

    def stock(self, **changes: Any) -> tuple[Any, dict[str, Any]]:
        """The stock processor, and the config that it writes."""
        made = getattr(transformers, self.processor)(**json.loads(json.dumps(self.saved | changes)))
        return made, json.loads(made.to_json_string())


def _next(side: int) -> dict[str, Any]:
    return {"vision_config": {"model_type": "clip_vision_model", "image_size": side, "patch_size": 14}}


def _smol(side: int, patch: int, factor: int) -> dict[str, Any]:
    vision = {"image_size": side, "patch_size": patch}
    return {"vision_config": vision, "image_token_id": 1, "scale_factor": factor}


_OV = {"vision_config": {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}}
_QWEN_IMAGES = {"shortest_edge": 3136, "longest_edge": 12_845_056}
_SMOL = {
    "max_image_size": {"longest_edge": 512}, "size": {"longest_edge": 2048},
    "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}},
}  # fmt: skip
_SMOL_VIDEOS = {name: value for name, value in _SMOL.items() if name != "size"}
_OPENGV = {"size": {"height": 448, "width": 448}, "image_mean": [0.485, 0.456, 0.406],
           "image_std": [0.229, 0.224, 0.225]}  # fmt: skip

SHAPES = {
    "llava-onevision": Shape(
        "LlavaOnevisionForConditionalGeneration", "LlavaOnevisionConfig", "LlavaOnevisionVideoProcessor",
        {"image_mean": HALVES, "image_std": HALVES, "size": {"height": 384, "width": 384}}, _OV,
    ),
    "llava-next-video": Shape(
        "LlavaNextVideoForConditionalGeneration", "LlavaNextVideoConfig", "LlavaNextVideoVideoProcessor",
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}, _next(336),
    ),
    "llava-next-video-default": Shape(
        "LlavaNextVideoForConditionalGeneration", "LlavaNextVideoConfig", "LlavaNextVideoVideoProcessor", {}, _next(224)
    ),
    "video-llava": Shape(
        "VideoLlavaForConditionalGeneration", "VideoLlavaConfig", "VideoLlavaVideoProcessor", {}, _next(224)
    ),
    "minicpm-v-4.6": Shape(
        "MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_6Config", "MiniCPMV4_6VideoProcessor", {"max_slice_nums": 1},
        IDS | {"vision_config": {"patch_size": 14}},
    ),
    "minicpm-v-4.6-4x": Shape(
        "MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_6Config", "MiniCPMV4_6VideoProcessor",
        {"slice_mode": False, "downsample_mode": "4x"}, IDS | {"vision_config": {"patch_size": 14}},
    ),
    "qwen2-vl": Shape("Qwen2VLForConditionalGeneration", "Qwen2VLConfig", "Qwen2VLVideoProcessor", {}, IDS),
    "qwen2.5-vl": Shape("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", "Qwen2VLVideoProcessor", {}, IDS),
    "qwen2.5-vl-images": Shape(
        "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", "Qwen2VLVideoProcessor", {"size": _QWEN_IMAGES}, IDS
    ),
    "qwen2.5-vl-capped": Shape(
        "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", "Qwen2VLVideoProcessor",
        {"size": _QWEN_IMAGES, "cap_pixels_per_frame": True, "max_video_tokens": 1000}, IDS,
    ),
    "qwen2.5-omni": Shape(
        "Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5OmniThinkerConfig", "Qwen2VLVideoProcessor", {},
        {"image_token_index": 1, "video_token_index": 2},
    ),
    "qwen3-omni": Shape(
        "Qwen3OmniMoeThinkerForConditionalGeneration", "Qwen3OmniMoeThinkerConfig", "Qwen2VLVideoProcessor",
        {"patch_size": 16, "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32}}, IDS,
    ),
    "qwen3-vl": Shape("Qwen3VLForConditionalGeneration", "Qwen3VLConfig", "Qwen3VLVideoProcessor", {}, IDS),
    "qwen3-vl-published": Shape(
        "Qwen3VLForConditionalGeneration", "Qwen3VLConfig", "Qwen3VLVideoProcessor",
        {"size": {"shortest_edge": 4096, "longest_edge": 25_165_824}}, IDS,
    ),
    "qwen3-vl-capped": Shape(
        "Qwen3VLForConditionalGeneration", "Qwen3VLConfig", "Qwen3VLVideoProcessor",
        {"size": {"shortest_edge": 4096, "longest_edge": 25_165_824}, "cap_pixels_per_frame": True}, IDS,
    ),
    "qwen3.5": Shape("Qwen3_5ForConditionalGeneration", "Qwen3_5Config", "Qwen3VLVideoProcessor", {}, IDS),
    "internvl": Shape(
        "InternVLForConditionalGeneration", "InternVLConfig", "InternVLVideoProcessor", _OPENGV, {"image_token_id": 1}
    ),
    "smolvlm2": Shape(
        "SmolVLMForConditionalGeneration", "SmolVLMConfig", "SmolVLMVideoProcessor", _SMOL, _smol(512, 16, 4)
    ),
    "smolvlm2-bicubic": Shape(
        "SmolVLMForConditionalGeneration", "SmolVLMConfig", "SmolVLMVideoProcessor", _SMOL_VIDEOS | {"resample": 3},
        _smol(512, 16, 4),
    ),
    "smolvlm2-default": Shape(
        "SmolVLMForConditionalGeneration", "SmolVLMConfig", "SmolVLMVideoProcessor", {}, _smol(364, 14, 2)
    ),
    "videollama3": Shape(
        "VideoLlama3ForConditionalGeneration", "VideoLlama3Config", "VideoLlama3VideoProcessor",
        {"use_token_compression": False}, IDS | {"vision_config": {"patch_size": 14}},
    ),
    "gemma-4": Shape("Gemma4ForConditionalGeneration", "Gemma4Config", "Gemma4VideoProcessor", {}, GEMMA),
    "gemma-4-fine": Shape(
        "Gemma4ForConditionalGeneration", "Gemma4Config", "Gemma4VideoProcessor", {"max_soft_tokens": 280}, GEMMA
    ),
    "glm-4.1v": Shape("Glm4vForConditionalGeneration", "Glm4vConfig", "Glm4vVideoProcessor", {}, IDS),
    "glm-4.5v": Shape("Glm4vMoeForConditionalGeneration", "Glm4vMoeConfig", "Glm4vVideoProcessor", {}, IDS),
    "glm-4.6v": Shape("Glm46VForConditionalGeneration", "Glm46VConfig", "Glm46VVideoProcessor", {}, IDS),
}  # fmt: skip


def frames(count: int, height: int, width: int, *, noise: bool = False) -> Tensor:
    """Uint8 ``(T, 3, H, W)``: waves with edges, which move; or noise."""
    generator = torch.Generator().manual_seed(count * 131 + height * 7 + width)
    if noise:
        return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    rows, columns = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 8, width), indexing="ij")
    wave = torch.stack([(torch.sin(rows * k) * torch.cos(columns * k) + 1) * 127 for k in (1, 2, 3)])
    video = torch.stack([wave.roll(3 * number, -1) for number in range(count)])
    video[:, :, height // 3 : 2 * height // 3, width // 4 : width // 2] = 255
    video[:, :, 2 * height // 3 :, width // 2 :] = 0
    return video.clamp(0, 255).to(torch.uint8)
