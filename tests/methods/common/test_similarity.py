"""Unit vectors and cosines over time; known sinks."""

import pytest
import torch

from tangovlm.methods.common import similarity
from tangovlm.methods.common.similarity import adjacent_similarity, normalize, norms_and_cosines
from tangovlm.models.common.sinks import sinks_for_grid


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_cosines(dtype: torch.dtype) -> None:
    tokens = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide = tokens.double()
    expected = torch.nn.functional.cosine_similarity(wide[:-1], wide[1:], dim=-1)
    found = adjacent_similarity(normalize(tokens))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("held", [1, 60, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_norms_and_cosines_in_parts(dtype: torch.dtype, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_CHUNK_ELEMENTS", (held, held))
    tokens = torch.randn(7, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 9
    tokens[2, 1] = 0
    norms, cosines = norms_and_cosines(tokens)
    wide = tokens.double()
    expected = torch.nn.functional.cosine_similarity(wide[:-1], wide[1:], dim=-1)
    assert norms.dtype == cosines.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(norms.double(), torch.linalg.vector_norm(wide, dim=-1).clamp_min(1e-12))
    torch.testing.assert_close(cosines.double(), expected, atol=1e-6, rtol=0)


def test_zero_vectors_stay_zero() -> None:
    assert torch.equal(normalize(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_one_frame_has_no_neighbour() -> None:
    assert adjacent_similarity(torch.ones(1, 5, 2)).shape == (0, 5)


def test_sinks_are_known_for_the_measured_grids_only() -> None:
    for side in (13, 14):
        sinks = sinks_for_grid(side, side)
        assert sinks is not None
        assert all(0 <= sink < side * side for sink in sinks)
    assert sinks_for_grid(8, 8) is None
    assert sinks_for_grid(14, 13) is None
