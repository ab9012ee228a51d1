"""Saliency against plain attention: every weight written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tangovlm.models.common import saliency
from tangovlm.models.common.saliency import PoolingHead, mean_attention, mean_keys, pool_to_grid

FRAMES, PATCHES, CHANNELS, HEADS = 5, 9, 16, 4


def make_head(seed: int = 0) -> tuple[dict[str, torch.Tensor], nn.MultiheadAttention, torch.Tensor]:
    torch.manual_seed(seed)
    attention = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    weights = {
        "post_layernorm.weight": torch.randn(CHANNELS),
        "post_layernorm.bias": torch.randn(CHANNELS),
        "head.probe": torch.randn(1, 1, CHANNELS),
        "head.layernorm.weight": torch.randn(CHANNELS),
        "head.layernorm.bias": torch.randn(CHANNELS),
        "head.mlp.fc1.weight": torch.randn(24, CHANNELS),
        "head.mlp.fc1.bias": torch.randn(24),
        "head.mlp.fc2.weight": torch.randn(CHANNELS, 24) / 5,
        "head.mlp.fc2.bias": torch.randn(CHANNELS),
    }
    weights |= {f"head.attention.{name}": value for name, value in attention.state_dict().items()}
    return weights, attention, torch.randn(FRAMES, PATCHES, CHANNELS)


def test_pooling_head_equals_multi_head_attention() -> None:
    weights, attention, hidden = make_head()
    head = PoolingHead.from_weights(weights, HEADS, 1e-6, functional.gelu)
    scores, pooled = head(hidden, pool=True)
    normed = functional.layer_norm(
        hidden, (CHANNELS,), weights["post_layernorm.weight"], weights["post_layernorm.bias"], 1e-6
    )
    out, attended = attention(weights["head.probe"].expand(FRAMES, -1, -1), normed, normed, need_weights=True)
    inner = functional.layer_norm(
        out, (CHANNELS,), weights["head.layernorm.weight"], weights["head.layernorm.bias"], 1e-6
    )
    inner = functional.gelu(inner @ weights["head.mlp.fc1.weight"].T + weights["head.mlp.fc1.bias"])
    wanted = out + inner @ weights["head.mlp.fc2.weight"].T + weights["head.mlp.fc2.bias"]
    torch.testing.assert_close(scores, attended[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(pooled, wanted[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.sum(1), torch.ones(FRAMES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    weights, _, hidden = make_head()
    low = {name: value.to(dtype) for name, value in weights.items()}
    scores, _ = PoolingHead.from_weights(low, HEADS, 1e-6, functional.gelu)(hidden.to(dtype), pool=False)
    exact = {name: value.to(dtype).float() for name, value in weights.items()}
    wanted, _ = PoolingHead.from_weights(exact, HEADS, 1e-6, functional.gelu)(hidden.to(dtype).float(), pool=False)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, wanted)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, _, hidden = make_head()
    head = PoolingHead.from_weights(weights, HEADS, 1e-6, functional.gelu)
    query, key = torch.randn(2, FRAMES, PATCHES, CHANNELS).unbind()
    whole = (*head(hidden, pool=True), mean_attention(query, key, HEADS))
    monkeypatch.setattr(saliency, "CHUNK_ELEMENTS", 2 * PATCHES * CHANNELS)
    pieces = (*head(hidden, pool=True), mean_attention(query, key, HEADS))
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_mean_attention_equals_a_loop() -> None:
    query, key = torch.randn(2, FRAMES, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(1)).unbind()
    width = CHANNELS // HEADS
    wanted = torch.zeros(FRAMES, PATCHES, dtype=torch.float64)
    for frame in range(FRAMES):
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            q, k = query[frame, :, part].double(), key[frame, :, part].double()
            wanted[frame] += (q @ k.T / width**0.5).softmax(-1).mean(0) / HEADS
    torch.testing.assert_close(mean_attention(query, key, HEADS).double(), wanted, atol=1e-6, rtol=0)


def test_mean_keys() -> None:
    key = torch.randn(FRAMES, PATCHES, CHANNELS)
    width = CHANNELS // HEADS
    wanted = sum(key[..., head * width : (head + 1) * width] for head in range(HEADS)) / HEADS
    torch.testing.assert_close(mean_keys(key, HEADS), wanted)


@pytest.mark.parametrize("side", [2, 8, 16])
def test_even_sides_are_averaged_over_two_by_two(side: int) -> None:
    values = torch.randn(2, side * side, 3)
    wanted = values.view(2, side // 2, 2, side // 2, 2, 3).mean(dim=(2, 4))
    torch.testing.assert_close(pool_to_grid(values, side), wanted)


@pytest.mark.parametrize("side", [1, 5, 27])
def test_odd_sides_follow_the_bilinear_formula(side: int) -> None:
    """Output cell i reads position ``(i + 0.5) * side / ceil(side / 2) - 0.5``, between its two neighbours."""
    values = torch.randn(1, side * side, 1, dtype=torch.float64)
    half = (side + 1) // 2
    matrix = torch.zeros(half, side, dtype=torch.float64)
    for row in range(half):
        place = max((row + 0.5) * side / half - 0.5, 0.0)
        low = min(int(place), side - 1)
        matrix[row, low] += 1 - (place - low)
        matrix[row, min(low + 1, side - 1)] += place - low
    wanted = matrix @ values.view(side, side) @ matrix.T
    torch.testing.assert_close(pool_to_grid(values, side)[0, ..., 0], wanted)
