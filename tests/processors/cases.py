"""A tiny model of every family with its stock processor, and this library's, for the same tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
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
    if isinstance(processor, _Timed):
        family.size_rule = replace(
            family.size_rule, least=_AREAS["size"]["shortest_edge"], most=_AREAS["size"]["longest_edge"]
        )
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


def _video_llava(_name: str) -> tuple[Any, Any, str]:
    tokenizer = _tokenizer("<image>", "<video>")
    square = {"height": 21, "width": 21}
    videos = stock.VideoLlavaVideoProcessor(size={"shortest_edge": 21}, crop_size=square)
    processor = stock.VideoLlavaProcessor(
        video_processor=videos, image_processor=stock.VideoLlavaImageProcessor(), tokenizer=tokenizer, patch_size=7
    )
    return processor, tokenizer, "<video>"


def _qwen(name: str) -> tuple[Any, Any, str]:
    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    classes = {
        "qwen2_vl": (stock.Qwen2VLProcessor, stock.Qwen2VLVideoProcessor),
        "qwen2_5_vl": (stock.Qwen2_5_VLProcessor, stock.Qwen2VLVideoProcessor),
        "qwen3_5": (stock.Qwen3VLProcessor, stock.Qwen3VLVideoProcessor),
        "qwen3_5_moe": (stock.Qwen3VLProcessor, stock.Qwen3VLVideoProcessor),
        "qwen3_vl": (stock.Qwen3VLProcessor, stock.Qwen3VLVideoProcessor),
        "qwen3_vl_moe": (stock.Qwen3VLProcessor, stock.Qwen3VLVideoProcessor),
    }
    whole, videos = classes[name]
    images = stock.Qwen2VLImageProcessor(**_PATCHES)
    processor = whole(image_processor=images, tokenizer=tokenizer, video_processor=videos(**_PATCHES, **_AREAS))
    return processor, tokenizer, "<|vision_start|><|video_pad|><|vision_end|>"


class _Timed:
    """Qwen-Omni's processor, with the durations of steps: it takes them from `fps`, for all videos of a call.

    It gives its own areas to the video processor with every call, and others on request.
    """

    def __init__(self, whole: Any) -> None:
        self._whole, self.video_processor = whole, whole.video_processor

    def __call__(self, *args: Any, video_metadata: Any, **options: Any) -> Any:
        made = self._whole(*args, video_metadata=video_metadata, videos_kwargs=_AREAS, **options)
        steps = [2 * each.duration / len(each.frames_indices) for each in video_metadata]
        made["video_second_per_grid"] = torch.tensor(steps)
        return made


def _omni(name: str) -> tuple[Any, Any, str]:
    specials = twins()[name].specials
    marks = sorted(specials, key=specials.__getitem__)
    kinds = ("image", "video", "vision_bos", "vision_eos", "audio", "audio_bos", "audio_eos")
    tokenizer = _tokenizer(*marks, **{f"{kind}_token": mark for kind, mark in zip(kinds, marks, strict=True)})
    whole = {"qwen2_5_omni": "Qwen2_5OmniProcessor", "qwen3_omni": "Qwen3OmniMoeProcessor"}[name]
    processor = getattr(stock, whole)(
        image_processor=stock.Qwen2VLImageProcessor(**_PATCHES), tokenizer=tokenizer,
        video_processor=stock.Qwen2VLVideoProcessor(**_PATCHES), feature_extractor=stock.WhisperFeatureExtractor(8),
    )  # fmt: skip
    return _Timed(processor), tokenizer, marks[2] + marks[1] + marks[3]


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


def _minicpmv(name: str) -> tuple[Any, Any, str]:
    names = {
        "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>",
        "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
    }  # fmt: skip
    tokenizer = _tokenizer(*names.values(), **names)
    options = {"patch_size": 4, "scale_resolution": 48, "max_slice_nums": 1}
    whole = stock.MiniCPMV4_7Processor if name == "minicpmv4_7" else stock.MiniCPMV4_6Processor
    processor = whole(
        image_processor=stock.MiniCPMV4_6ImageProcessor(**options), tokenizer=tokenizer,
        video_processor=stock.MiniCPMV4_6VideoProcessor(**options),
    )  # fmt: skip
    return processor, tokenizer, "<|video_pad|>"


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
    "minicpmv4_6": _minicpmv,
    "minicpmv4_7": _minicpmv,
    "qwen2_5_omni": _omni,
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen,
    "qwen3_omni": _omni,
    "qwen3_5": _qwen,
    "qwen3_5_moe": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
    "smolvlm": _smolvlm,
    "video_llama_3": _video_llama_3,
    "video_llava": _video_llava,
}
NAMES = tuple(_MAKERS)
"""All twins but LLaVA-Video's, which has no stock processor."""
