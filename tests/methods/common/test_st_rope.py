"""ST-RoPE against its formula, one pair of channels at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm import TangoError
from tangovlm.kernels.st_rope.reference import rotate_reference
from tangovlm.methods.common.st_rope import default_sections, st_rope


@pytest.mark.parametrize(
    ("dim", "sections"),
    [
        (3584, (1196, 1194, 1194)),
        (96, (32, 32, 32)),
        (7, (3, 2, 2)),
        (5, (5, 0, 0)),
        (1, (1, 0, 0)),
        (896, (300, 298, 298)),
    ],
)
def test_default_sections(dim: int, sections: tuple[int, int, int]) -> None:
    assert default_sections(dim) == sections


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 23)),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_formula(shape: tuple[int, int, int, int], seed: int, custom: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(shape, generator=generator, dtype=torch.float64)
    before = tokens.clone()
    times = torch.rand(shape[0], generator=generator, dtype=torch.float64).cumsum(0) * 40
    dim = shape[3]
    sections = (dim // 2, dim - dim // 2, 0) if custom else default_sections(dim)
    rotated = st_rope(tokens, times, sections=sections if custom else None, base_time=500.0, base_space=70.0)
    assert torch.equal(tokens, before)
    expected = tokens.clone()
    for t, h, w in torch.cartesian_prod(*(torch.arange(n) for n in shape[:3])).reshape(-1, 3).tolist():
        angles = []
        for size, position, base in zip(sections, (float(times[t]), h, w), (500.0, 70.0, 70.0), strict=True):
            half = size // 2
            angles.append([position * base ** (-k / half) for k in range(half)])
        turned = rotate_reference(tokens[t, h, w].tolist(), 1.0, sections, angles)
        expected[t, h, w] = torch.tensor(turned, dtype=torch.float64)
    torch.testing.assert_close(rotated, expected, atol=1e-12, rtol=0)


def test_only_differences_matter() -> None:
    tokens = torch.nn.functional.normalize(torch.randn(3, 2, 2, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    times = torch.tensor([0.0, 1.5, 4.0], dtype=torch.float64)
    near, late = (st_rope(tokens, times + shift).flatten(0, 2) for shift in (0.0, 7200.0))
    torch.testing.assert_close(near @ near.T, late @ late.T, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_is_kept(dtype: torch.dtype) -> None:
    assert st_rope(torch.ones(2, 1, 1, 6, dtype=dtype), torch.arange(2)).dtype == dtype


def test_sections_must_fill_the_channels() -> None:
    with pytest.raises(TangoError, match="12 channels"):
        st_rope(torch.ones(1, 1, 1, 12), torch.zeros(1), sections=(4, 4, 2))
