"""Sketches of tokens against plain loops, and what makes their distances exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tangovlm.kernels.token_sketch import MAX_CHANNELS, SCALE, sketch_tokens, to_grid
from tangovlm.kernels.token_sketch import pytorch as sketching
from tangovlm.kernels.token_sketch.reference import sign_reference, sketch_reference
from tangovlm.methods.common.similarity import normalize

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("dim", "channels"), [(1, 1), (7, 7), (7, 9), (9, 4), (130, 16), (40, 1)])
@pytest.mark.parametrize("slab", [1, 1 << 19])
def test_sketches_equal_loops(
    dtype: torch.dtype, dim: int, channels: int, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketching, "_SLAB_ELEMENTS", (slab, slab))
    features = noise(20, dim, seed=dim).to(dtype)
    features[3] = 0
    found = sketch_tokens(features, channels)
    assert found.dtype == torch.float32
    assert found.shape == (20, min(dim, channels))
    assert torch.equal(found, found.round())
    expected = torch.tensor(sketch_reference(features.tolist(), channels, SCALE), dtype=torch.float64)
    assert float((found - expected).abs().max()) <= 0.51
    assert not found[3].any()


def test_signs_are_the_documented_hash_and_balanced() -> None:
    signs = sketching.channel_signs(4096, torch.device("cpu"))
    assert signs.tolist() == [sign_reference(number) for number in range(4096)]
    assert abs(int(signs.sum())) < 200


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_norm_of_a_token_does_not_matter(scale: float) -> None:
    features = noise(30, 50).float()
    factor = 2.0 ** torch.tensor(scale).log2().round()
    assert torch.equal(sketch_tokens(features * factor, 8), sketch_tokens(features, 8))


def test_distances_estimate_cosines() -> None:
    features = noise(60, 2048) + 0.7 * noise(1, 2048, seed=1)
    points = sketch_tokens(features, 128).double()
    unit = normalize(features)
    apart, expected = torch.cdist(points, points).square() / 2 / SCALE**2, 1 - unit @ unit.mT
    other = ~torch.eye(60, dtype=torch.bool)
    assert float(((apart - expected) / expected)[other].std()) < 1.3 * (2 / 128) ** 0.5
    assert abs(float((apart - expected)[other].mean())) < 0.03


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from((1, 2, 5, 128, MAX_CHANNELS)), st.integers(0, 1000), st.sampled_from((0.0, 3.0)))
def test_distances_are_exact_in_float32(channels: int, seed: int, skew: float) -> None:
    """Also for opposite tokens, tokens with one large channel, and rounded means."""
    features = noise(40, channels, seed=seed)
    features = features.sign() * features.abs() ** (1 + skew)
    points = sketch_tokens(torch.cat([features, -features]), channels)
    points = torch.cat([points, (points[::2] + points[1::2]).div(2).round()])
    assert float(points.abs().max()) < 2**11
    squares = points.square().sum(1)
    found = squares[:, None] + squares - 2 * (points @ points.mT)
    exact = (points.double()[:, None] - points.double()).square().sum(-1)
    assert float(exact.max()) < 2**24
    assert torch.equal(found.double(), exact)


def test_vectors_are_put_on_the_grid() -> None:
    assert to_grid(torch.tensor([[3.0, -4.0], [0.0, 0.0]])).tolist() == [[0.6 * SCALE, -0.8 * SCALE], [0.0, 0.0]]
