"""Blending of ragged clusters and rotation of chosen rows against plain loops."""

import pytest
import torch

from tangovlm.kernels.blend import blend_ragged
from tangovlm.kernels.blend import pytorch as blending
from tangovlm.kernels.blend.reference import blend_reference
from tangovlm.kernels.st_rope import pytorch as rotating
from tangovlm.methods.common.similarity import clamped_norms, normalize
from tangovlm.methods.common.st_rope import Points, rotation_tables, st_rope

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("held", [1, 1 << 22])
def test_blend_equals_loops(dtype: torch.dtype, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blending, "_HELD_ELEMENTS", held)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 7, generator=generator).to(dtype)
    index = torch.randperm(50, generator=generator)[:30]
    centers = torch.tensor([4, 9, 20, 28])
    labels = torch.randint(0, 3, (30,), generator=generator)
    labels[centers] = torch.arange(4)
    found = blend_ragged(values, index, centers, labels, 0.6)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = blend_reference(values.tolist(), index.tolist(), centers.tolist(), labels.tolist(), 0.6)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-6)
    assert torch.equal(found[3], values[index[28]].to(found.dtype))


def test_many_equal_tokens_blend_into_the_same_bits() -> None:
    values = torch.rand(1, 64).expand(5000, -1) + 0.1
    index = torch.arange(5000)
    merged = blend_ragged(values, index, torch.tensor([17]), torch.zeros_like(index), 0.6)
    assert torch.equal(merged, values[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_clusters_have_their_true_mean(dtype: torch.dtype) -> None:
    """One after another, 2^17 values would lose the difference to the anchor in the rounding of their sum."""
    values = torch.full((1 << 17, 3), 1.0, dtype=dtype)
    values[1:] = 1.0078125
    merged = blend_ragged(values, torch.arange(1 << 17), torch.tensor([0]), torch.zeros(1 << 17, dtype=torch.int64), 0)
    torch.testing.assert_close(merged, torch.full((1, 3), 1.0078125), atol=1e-6, rtol=0)


def test_no_clusters_give_no_values() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert blend_ragged(torch.rand(4, 3), none, none, none, 0.6).shape == (0, 3)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("slab", [1, 1 << 20])
def test_chosen_points_are_those_of_all_tokens(dtype: torch.dtype, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotating, "_SLAB_ELEMENTS", slab)
    features = torch.randn(3, 2, 5, 23, generator=torch.Generator().manual_seed(1)).to(dtype)
    features[1, 0, 0] = 0
    times = torch.tensor([0.0, 0.7, 31.0])
    norms = clamped_norms(features).flatten()
    tables = rotation_tables(times, (2, 5, 23), dtype=norms.dtype)
    index = torch.tensor([29, 0, 10, 10, 7])
    rotated = st_rope(normalize(features), times).flatten(0, 2)
    torch.testing.assert_close(Points(features.flatten(0, 2), norms, tables).at(index), rotated[index])
    plain = normalize(features).flatten(0, 2)
    torch.testing.assert_close(Points(features.flatten(0, 2), norms, None).at(index), plain[index])
