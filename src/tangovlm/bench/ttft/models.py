"""Stock models of published shapes with random weights, made on the device, and their inputs.

Speed does not depend on the weights, so nothing is downloaded. What it does depend on is what the pruner sees: films of
a few scenes with moving parts (`ttft_random`), and weights that keep such differences alive from pixels to features, so
that there are segments, and static as well as changing tokens in them.
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

from .random_weights import enliven, pooling_head

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
        # Forked, so that the caller's random numbers stay as they were.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device), torch.no_grad():
            torch.manual_seed(0)
            self.model = _build(self.config(), dtype)
            enliven(self.model)
        self.model.generation_config.eos_token_id = None

    @abstractmethod
    def config(self) -> Any:
        """Of the whole model."""

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
        """What takes patches to the width of the text model."""

    @classmethod
    def wanted_bytes(cls, size: str, dtype: torch.dtype, frames: int, batch: int) -> int:
        """Memory that the unpruned model wants, roughly: weights, and the more of encoding and reading."""
        text, tower = cls.texts[size], cls.towers[size]
        patches = batch * frames * (cls.frame_side // 14) ** 2
        tokens = batch * (cls.placeholders(frames) + QUESTION_TOKENS)
        encoding = patches * max(2 * tower.hidden + 2 * tower.intermediate, 3 * text.hidden)
        reading = tokens * (text.cache_width + 4 * text.hidden + 3 * text.intermediate)
        return dtype.itemsize * (text.parameters + tower.parameters + max(encoding, reading))

    @classmethod
    @abstractmethod
    def placeholders(cls, frames: int) -> int:
        """Visual tokens of a video in the prompt."""

    @classmethod
    @abstractmethod
    def visual_tokens(cls, frames: int) -> int:
        """Those of them that can be pruned."""

    @abstractmethod
    def pixels(self, clips: Tensor) -> dict[str, Tensor]:
        """Arguments of `generate` out of uint8 frames ``(B, T, 3, side, side)`` in host memory."""

    def prompt(self, batch: int, frames: int) -> dict[str, Tensor]:
        """The other arguments: a question of `QUESTION_TOKENS` tokens behind each video."""
        words = torch.arange(_FIRST_WORD, _FIRST_WORD + QUESTION_TOKENS)
        ids = torch.cat([torch.full((self.placeholders(frames),), _VIDEO), words]).expand(batch, -1)
        ids = ids.contiguous().to(self.device)
        return {Arg.IDS: ids, Arg.MASK: torch.ones_like(ids)}

    def family(self) -> Family:
        """The model's family, ready to prune.

        Raises
        ------
        ModelError: there is none.
        """
        family: Family = family_for(self.model)(self.model)
        return family


class LlavaOnevision(Host):
    """SigLIP so400m in front of Qwen2: 27 x 27 patches and 14 x 14 tokens a frame."""

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
        """See `Host.placeholders`: one more for the newline."""
        return cls.visual_tokens(frames) + 1

    def pixels(self, clips: Tensor) -> dict[str, Tensor]:
        """See `Host.pixels`: as the library prepares them."""
        videos = [self._plain.pixels(clip.to(self.device), {}) for clip in clips]
        return {Arg.VIDEO_PIXELS: videos[0] if len(videos) == 1 else torch.cat(videos)}

    @cached_property
    def _plain(self) -> Family:
        family: Family = family_for(self.model)(self.model)
        return family

    def family(self) -> Family:
        """See `Host.family`: with a pooling head of random weights, read as the published one would be."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.safetensors"
            save_file(pooling_head(self.tower_shape), path)
            family: Family = family_for(self.model)(self.model, head_weights=path)
            family.prepare(frozenset({"saliency"}))
        return family


class Qwen25VL(Host):
    """Windowed tower in front of Qwen2 with M-RoPE: 28 x 28 patches a frame, 14 x 14 tokens for two frames."""

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
        """See `Host.projector`; here it is the last part of the tower."""
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
        """See `Host.pixels`: patches of 2 frames x 14 x 14 pixels, four neighbours together."""
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
