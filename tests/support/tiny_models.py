"""Tiny random models of the real classes, their inputs, and a reference without hooks and without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from tangovlm.selfcheck.twins.common.parts import FIRST_WORD, IMAGE, PAD, VIDEO, VOCABULARY
from tangovlm.tokens import Pruner, Selection, VideoTokens


def make_model(*, head: bool = True, side: int = 8, attention: str = "sdpa", seed: int = 0, layers: int = 2) -> Any:
    """A model with ``side`` x ``side`` patches a frame, large enough weights that every token matters to the logits."""
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=7 * side,
        patch_size=7,
        vision_use_head=head,
    )
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    pixels = 7 * side
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[pixels, pixels], [pixels, 2 * pixels]],
        attn_implementation=attention,
    )
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "position" not in name:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
        model.model.language_model.embed_tokens.weight.normal_(std=1.0)
    return model


def make_videos(model: Any, videos: int, frames: int, seed: int = 1) -> Tensor:
    """``(videos, T, 3, height, width)``."""
    side = model.config.vision_config.image_size
    return torch.randn(videos, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def placeholders(model: Any, frames: int) -> list[int]:
    side = model.config.vision_config.image_size // model.config.vision_config.patch_size
    return [VIDEO] * (frames * ((side + 1) // 2) ** 2 + 1)


def words(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_WORD, VOCABULARY, (count,), generator=generator).tolist()


def pad_left(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    longest = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([[PAD] * (longest - len(row)) + list(row) for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }


def select(
    model: Any, pruner: Pruner, video: Tensor, signals: dict[str, Tensor] | None = None
) -> tuple[Selection, Tensor]:
    """Selection of one video ``(T, 3, height, width)`` and its newline, from the stock features."""
    side = model.config.vision_config.image_size // model.config.vision_config.patch_size
    half = (side + 1) // 2
    with torch.no_grad():
        rows = model.model.get_video_features(video[None], return_dict=True).pooler_output[0]
    count = video.shape[0] * half * half
    tokens = VideoTokens(rows[:count].view(video.shape[0], half, half, -1), **(signals or {}))
    return pruner(tokens), model.model.image_newline.detach()


def embed_row(
    model: Any, ids: Sequence[int], selections: Sequence[tuple[Selection, Tensor]], images: Tensor | None
) -> Tensor:
    """Embeddings ``(n, D)`` of one unpadded prompt, with the kept tokens in place of each run of video placeholders."""
    table = model.get_input_embeddings().weight
    parts, place = [], 0
    waiting, picture = list(selections), 0
    while place < len(ids):
        if ids[place] == VIDEO:
            selection, newline = waiting.pop(0)
            parts += [selection.features, newline[None]]
            place += selection.sources.numel() + 1
        elif ids[place] == IMAGE:
            parts.append(images[picture][None])
            picture += 1
            place += 1
        else:
            parts.append(table[ids[place]][None])
            place += 1
    assert not waiting
    return torch.cat(parts)


@torch.no_grad()
def reference_logits(model: Any, embeds: Tensor) -> Tensor:
    """Logits of the last position ``(V,)``, positions 0..n-1, no cache."""
    positions = torch.arange(embeds.shape[0])[None]
    output = model.model.language_model(inputs_embeds=embeds[None], position_ids=positions, use_cache=False)
    return model.lm_head(output.last_hidden_state[0, -1])


@torch.no_grad()
def reference_greedy(model: Any, embeds: Tensor, new: int) -> tuple[list[int], Tensor]:
    """Greedy continuation, computed without a cache, and the logits of the first step."""
    tokens, first = [], None
    for _ in range(new):
        logits = reference_logits(model, embeds)
        first = logits if first is None else first
        tokens.append(int(logits.argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings().weight[tokens[-1]][None]])
    return tokens, first


def state_of(model: Any) -> list[Any]:
    """Everything that `attach` changes: attributes of instances and hooks, of every module."""
    seen = []
    for name, module in model.named_modules():
        hooks = {key: len(value) for key, value in vars(module).items() if "hooks" in key and hasattr(value, "__len__")}
        seen.append((name, sorted(vars(module)), hooks, type(module)))
    return seen
