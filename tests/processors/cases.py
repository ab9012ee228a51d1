"""A tiny model of every family with its stock processor, and this library's, for the same tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import transformers as stock

from tangovlm import registry
from tangovlm.pipeline.processor import Processor
from tangovlm.selfcheck.twins import twins
from tangovlm.selfcheck.twins.common import weights as twin_weights
from tests.support.prompts import ByteTokenizer

VOCABULARY = 420
"""Room for all bytes behind the special tokens."""
_PATCHES = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
_AREAS = {"size": {"shortest_edge": 8 * 8 * 4, "longest_edge": 64 * 64 * 16}}
_SQUARE = {"height": 42, "width": 42}


@dataclass(frozen=True)
class Case:
    """A model with two processors.

    Parameters
    ----------
    name: of the case. model: tiny, with random weights.
    stock: transformers' own processor. ours: this library's.
    mark: what a chat template writes for a video.
    """

    name: str
    model: Any
    stock: Any
    ours: Processor
    mark: str


def make(name: str, monkeypatch: Any) -> Case:
    """The case of a family; `monkeypatch` gives the model a vocabulary of bytes."""
    monkeypatch.setattr(twin_weights, "VOCABULARY", VOCABULARY)
    host = twins()[name]()
    processor, tokenizer, mark = _MAKERS[name](name)
    config = json.loads(processor.video_processor.to_json_string())
    family = registry.family_for(host.model)(host.model, config=config)
    return Case(name, host.model, processor, Processor(family, tokenizer, None, config, _no_file), mark)


def _no_file(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("nothing is read from files here")


def _tokenizer(*special: str, **names: str) -> Any:
    made = ByteTokenizer("<pad>", *special)
    made.padding_side = "left"
    for name, token in names.items():
        object.__setattr__(made, name, token)
        object.__setattr__(made, f"{name}_id", made.convert_tokens_to_ids(token))
    return made


def _llava_onevision(_name: str) -> tuple[Any, Any, str]:
    tokenizer = _tokenizer("<image>", "<video>")
    videos = stock.LlavaOnevisionVideoProcessor(size=_SQUARE)
    processor = stock.LlavaOnevisionProcessor(
        image_processor=stock.LlavaOnevisionImageProcessor(), tokenizer=tokenizer, video_processor=videos,
        num_image_tokens=36, vision_feature_select_strategy="full",
    )  # fmt: skip
    return processor, tokenizer, "<video>"


def _llava_next_video(_name: str) -> tuple[Any, Any, str]:
    tokenizer = _tokenizer("<image>", "<video>")
    videos = stock.LlavaNextVideoVideoProcessor(size={"shortest_edge": 42}, crop_size=_SQUARE)
    processor = stock.LlavaNextVideoProcessor(
        video_processor=videos, image_processor=stock.LlavaNextImageProcessor(), tokenizer=tokenizer, patch_size=7,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return processor, tokenizer, "<video>"


def _qwen(name: str) -> tuple[Any, Any, str]:
    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    classes = {
        "qwen2_vl": (stock.Qwen2VLProcessor, stock.Qwen2VLVideoProcessor),
        "qwen2_5_vl": (stock.Qwen2_5_VLProcessor, stock.Qwen2VLVideoProcessor),
        "qwen3_vl": (stock.Qwen3VLProcessor, stock.Qwen3VLVideoProcessor),
        "qwen3_vl_moe": (stock.Qwen3VLProcessor, stock.Qwen3VLVideoProcessor),
    }
    whole, videos = classes[name]
    images = stock.Qwen2VLImageProcessor(**_PATCHES)
    processor = whole(image_processor=images, tokenizer=tokenizer, video_processor=videos(**_PATCHES, **_AREAS))
    return processor, tokenizer, "<|vision_start|><|video_pad|><|vision_end|>"


def _internvl(_name: str) -> tuple[Any, Any, str]:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = _tokenizer("<IMG_CONTEXT>", "<video>", "<img>", "</img>", **names, video_token="<video>")
    videos = stock.InternVLVideoProcessor(
        size=_SQUARE, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    processor = stock.InternVLProcessor(
        image_processor=stock.GotOcr2ImageProcessor(), tokenizer=tokenizer, video_processor=videos, image_seq_length=9
    )
    return processor, tokenizer, "<video>"


def _smolvlm(_name: str) -> tuple[Any, Any, str]:
    tokenizer = _tokenizer("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    videos = stock.SmolVLMVideoProcessor(
        max_image_size={"longest_edge": 54}, size={"longest_edge": 108},
        video_sampling={"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 54}},
    )  # fmt: skip
    processor = stock.SmolVLMProcessor(
        image_processor=stock.SmolVLMImageProcessor(), tokenizer=tokenizer, video_processor=videos, image_seq_len=9
    )
    return processor, tokenizer, "<video>"


def _video_llama_3(_name: str) -> tuple[Any, Any, str]:
    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>")
    videos = stock.VideoLlama3VideoProcessor(patch_size=4, merge_size=2, use_token_compression=False, **_AREAS)
    images = stock.VideoLlama3ImageProcessor(patch_size=4)
    processor = stock.VideoLlama3Processor(image_processor=images, tokenizer=tokenizer, video_processor=videos)
    return processor, tokenizer, "<|video_pad|>"


def _glm(name: str) -> tuple[Any, Any, str]:
    tokenizer = _tokenizer(
        "<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"
    )
    newer = name == "glm46v"
    videos = stock.Glm46VVideoProcessor if newer else stock.Glm4vVideoProcessor
    images = stock.Glm46VImageProcessor if newer else stock.Glm4vImageProcessor
    whole = stock.Glm46VProcessor if newer else stock.Glm4vProcessor
    processor = whole(
        image_processor=images(patch_size=4), tokenizer=tokenizer, video_processor=videos(**_PATCHES, **_AREAS)
    )
    return processor, tokenizer, "<|begin_of_video|><|video|><|end_of_video|>"


def _gemma4(_name: str) -> tuple[Any, Any, str]:
    names = {
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>",
        "boa_token": "<|audio>", "eoa_token": "<audio|>",
    }  # fmt: skip
    tokenizer = _tokenizer(
        "<|image|>", "<|video|>", "<|image>", "<image|>", "<|audio|>", "<|audio>", "<audio|>", **names
    )
    sides = {"patch_size": 4, "pooling_kernel_size": 2}
    processor = stock.Gemma4Processor(
        feature_extractor=stock.Gemma4AudioFeatureExtractor(), image_processor=stock.Gemma4ImageProcessor(**sides),
        tokenizer=tokenizer, video_processor=stock.Gemma4VideoProcessor(**sides),
    )  # fmt: skip
    return processor, tokenizer, "<|video|>"


_MAKERS = {
    "gemma4": _gemma4,
    "gemma4_moe": _gemma4,
    "glm4v": _glm,
    "glm46v": _glm,
    "glm4v_moe": _glm,
    "internvl": _internvl,
    "internvl_3_5": _internvl,
    "llava_next_video": _llava_next_video,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
    "smolvlm": _smolvlm,
    "video_llama_3": _video_llama_3,
}
NAMES = tuple(_MAKERS)
"""All twins but LLaVA-Video's, which has no stock processor."""
