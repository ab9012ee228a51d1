"""Stock models of published shapes with random weights, made on the device, and their inputs.

Speed does not depend on the weights, so nothing is downloaded. It does depend on the structure of the video: the clips
have a few scenes with moving parts, and the weights preserve such differences from pixels to features (see
`random_weights`), so that there are segments with static and changing tokens.
"""

import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from tangovlm.errors import InputError
from tangovlm.evaluate.shapes import QWEN, SIGLIP, SIZES, TEXTS, Text, Tower
from tangovlm.models.common.family import Family
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.registry import family_for

from .random_weights import pooling_head, preserve_variance

QUESTION_TOKENS = 32
_IMAGE, _VIDEO, _FIRST_WORD = 1, 2, 10


class Host(ABC):
    """A stock model and its inputs.

    Parameters
    ----------
    size: one of `texts`.
    device, dtype: of the model.
    """

    name: ClassVar[str]
    frame_side: ClassVar[int]
    texts: ClassVar[Mapping[str, Text]] = TEXTS
    towers: ClassVar[Mapping[str, Tower]]

    def __init__(self, size: str, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.text, self.tower_shape = self.texts[size], self.towers[size]
        # Forked, so that the random state of the caller does not change.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device), torch.no_grad():
            torch.manual_seed(0)
            self.model = _build(self.config(), dtype)
            preserve_variance(self.model)
        self.model.generation_config.eos_token_id = None

    @abstractmethod
    def config(self) -> Any:
        """The configuration of the whole model."""

    @property
    def encoder(self) -> Any:
        """The object whose `get_video_features` the model calls."""
        return self.model.model

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """The vision transformer within it."""

    @property
    @abstractmethod
    def projector(self) -> nn.Module:
        """The module that maps patches to the width of the text model."""

    @classmethod
    def required_bytes(cls, size: str, dtype: torch.dtype, frames: int, batch: int) -> int:
        """Estimate of the memory of the unpruned model: weights, plus the larger of encoding and prefill."""
        text, tower = cls.texts[size], cls.towers[size]
        patches = batch * frames * (cls.frame_side // 14) ** 2
        tokens = batch * (cls.placeholders(frames) + QUESTION_TOKENS)
        encoding = patches * max(2 * tower.hidden + 2 * tower.intermediate, 3 * text.hidden)
        prefill = tokens * (text.cache_width + 4 * text.hidden + 3 * text.intermediate)
        return dtype.itemsize * (text.parameters + tower.parameters + max(encoding, prefill))

    @classmethod
    @abstractmethod
    def placeholders(cls, frames: int) -> int:
        """Number of placeholders of a video in the prompt."""

    @classmethod
    @abstractmethod
    def visual_tokens(cls, frames: int) -> int:
        """Number of visual tokens of a video that can be pruned."""

    @abstractmethod
    def pixels(self, clips: Tensor) -> dict[str, Tensor]:
        """Arguments of `generate` for uint8 frames ``(B, T, 3, side, side)`` in CPU memory."""

    def prompt(self, batch: int, frames: int) -> dict[str, Tensor]:
        """The other arguments of `generate`: a question of `QUESTION_TOKENS` tokens after each video."""
        words = torch.arange(_FIRST_WORD, _FIRST_WORD + QUESTION_TOKENS)
        ids = torch.cat([torch.full((self.placeholders(frames),), _VIDEO), words]).expand(batch, -1)
        ids = ids.contiguous().to(self.device)
        return {Arg.IDS: ids, Arg.MASK: torch.ones_like(ids)}

    def family(self) -> Family:
        """The family of the model, ready to prune.

        Raises
        ------
        ModelError: the model is not supported.
        """
        family: Family = family_for(self.model)(self.model)
        return family


class LlavaOnevision(Host):
    """SigLIP so400m and Qwen2: 27 x 27 patches and 14 x 14 tokens per frame."""

    name = "llava-onevision"
    frame_side = 384
    towers = SIGLIP

    def config(self) -> Any:
        """See `Host.config`."""
        tower = self.tower_shape
        vision = transformers.SiglipVisionConfig(
            hidden_size=tower.hidden,
            intermediate_size=tower.intermediate,
            num_hidden_layers=tower.layers,
            num_attention_heads=tower.heads,
            image_size=self.frame_side,
            patch_size=14,
            vision_use_head=False,
        )
        return transformers.LlavaOnevisionConfig(
            vision_config=vision,
            text_config=transformers.Qwen2Config(**self.text.config()),
            image_token_index=_IMAGE,
            video_token_index=_VIDEO,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=self.text.tied,
        )

    @property
    def tower(self) -> nn.Module:
        """See `Host.tower`."""
        tower: nn.Module = self.encoder.vision_tower
        return tower

    @property
    def projector(self) -> nn.Module:
        """See `Host.projector`."""
        projector: nn.Module = self.encoder.multi_modal_projector
        return projector

    @classmethod
    def visual_tokens(cls, frames: int) -> int:
        """See `Host.visual_tokens`."""
        return 14 * 14 * frames

    @classmethod
    def placeholders(cls, frames: int) -> int:
        """See `Host.placeholders`: the visual tokens and one newline."""
        return cls.visual_tokens(frames) + 1

    def pixels(self, clips: Tensor) -> dict[str, Tensor]:
        """See `Host.pixels`: prepared by the library."""
        videos = [self._plain.prompt.pixels(clip.to(self.device), {}) for clip in clips]
        return {Arg.VIDEO_PIXELS: videos[0] if len(videos) == 1 else torch.cat(videos)}

    @cached_property
    def _plain(self) -> Family:
        family: Family = family_for(self.model)(self.model)
        return family

    def family(self) -> Family:
        """See `Host.family`: with a random pooling head, loaded from a file like a published one."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.safetensors"
            save_file(pooling_head(self.tower_shape), path)
            family: Family = family_for(self.model)(self.model, head_weights=path)
            family.signals.prepare(frozenset({"saliency"}))
        return family


class Qwen25VL(Host):
    """A windowed tower and Qwen2 with M-RoPE: 28 x 28 patches per frame, 14 x 14 tokens per two frames."""

    name = "qwen2.5-vl"
    frame_side = 392
    towers = QWEN
    _mean, _std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def config(self) -> Any:
        """See `Host.config`."""
        tower, head = self.tower_shape, self.text.hidden // self.text.heads
        vision = {
            "hidden_size": tower.hidden,
            "intermediate_size": tower.intermediate,
            "depth": tower.layers,
            "num_heads": tower.heads,
            "out_hidden_size": self.text.hidden,
            "fullatt_block_indexes": list(range(tower.layers))[tower.layers // 4 - 1 :: max(1, tower.layers // 4)],
        }
        sections = [head // 8, 3 * head // 16, 3 * head // 16]
        text = self.text.config() | {"rope_scaling": {"rope_type": "default", "mrope_section": sections}}
        ids = {"image_token_id": _IMAGE, "video_token_id": _VIDEO, "vision_start_token_id": 3, "vision_end_token_id": 4}
        return transformers.Qwen2_5_VLConfig(
            vision_config=vision, text_config=text, tie_word_embeddings=self.text.tied, **ids
        )

    @property
    def tower(self) -> nn.Module:
        """See `Host.tower`."""
        tower: nn.Module = self.encoder.visual
        return tower

    @property
    def projector(self) -> nn.Module:
        """See `Host.projector`: the last part of the tower."""
        projector: nn.Module = self.encoder.visual.merger
        return projector

    @classmethod
    def visual_tokens(cls, frames: int) -> int:
        """See `Host.visual_tokens`."""
        return 14 * 14 * math.ceil(frames / 2)

    @classmethod
    def placeholders(cls, frames: int) -> int:
        """See `Host.placeholders`."""
        return cls.visual_tokens(frames)

    def pixels(self, clips: Tensor) -> dict[str, Tensor]:
        """See `Host.pixels`: patches of 2 frames x 14 x 14 pixels, in groups of 2 x 2."""
        if clips.shape[1] % 2:
            clips = torch.cat([clips, clips[:, -1:]], dim=1)
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self._mean, self._std))
        values = (clips.to(self.device) / 255 - mean) / std
        side = self.frame_side // 28
        # (video, step, frame, colour, then rows and columns each as: group of patches, patch, pixel)
        grid = values.view(clips.shape[0], -1, 2, 3, side, 2, 14, side, 2, 14)
        patches = grid.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, 3 * 2 * 14 * 14)
        shape = torch.tensor([[clips.shape[1] // 2, 2 * side, 2 * side]] * clips.shape[0], device=self.device)
        return {Arg.VIDEO_PIXELS: patches, Arg.VIDEO_GRIDS: shape}

    def prompt(self, batch: int, frames: int) -> dict[str, Tensor]:
        """See `Host.prompt`."""
        inputs = super().prompt(batch, frames)
        return inputs | {Arg.TOKEN_TYPES: 2 * (inputs[Arg.IDS] == _VIDEO).int()}


HOSTS: dict[str, type[Host]] = {host.name: host for host in (LlavaOnevision, Qwen25VL)}


def check(size: str, models: Sequence[str]) -> None:
    """Raise `InputError` for an unknown size or model."""
    if size not in SIZES:
        raise InputError(f"size is {size!r}: choose {', '.join(SIZES)}")
    for name in models:
        if name not in HOSTS:
            raise InputError(f"model is {name!r}: choose {', '.join(HOSTS)}")


def _build(config: Any, dtype: torch.dtype) -> Any:
    automatic = transformers.AutoModelForImageTextToText
    return automatic.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()
