"""The plain reference against loops over float64 that share nothing with it, and against the library."""

from typing import Any

import pytest
import torch

import tangovlm
from tangovlm.bench.memory import TensorBytes
from tangovlm.bench.prune.reference import reference_bytes, segment, tango_reference
from tangovlm.bench.videos import KINDS, Shape, synthetic
from tests.support.reference_tango import gain_segments, reference_tango

SHAPES = (Shape(9, 4, 5, 48), Shape(16, 3, 3, 32), Shape(1, 5, 4, 21), Shape(2, 6, 2, 64))


@pytest.mark.parametrize("retention", [0.1, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_loops(shape: Shape, kind: str, retention: float) -> None:
    tokens = synthetic(shape, kind, seed=3)
    assert tokens.saliency is not None
    assert tokens.timestamps is not None
    arrays: list[Any] = [values.double().numpy() for values in (tokens.features, tokens.saliency, tokens.timestamps)]
    expected = reference_tango(*arrays, retention=retention)
    found = tango_reference(tokens, retention)
    assert list(found.segments) == expected.segments
    assert found.indices.tolist() == expected.indices
    wanted = torch.stack([torch.from_numpy(value) for value in expected.features])
    assert torch.allclose(found.features.double(), wanted, atol=1e-5)


@pytest.mark.parametrize("retention", [0.1, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_keeps_what_the_library_keeps(kind: str, retention: float) -> None:
    tokens = synthetic(Shape(16, 7, 7, 128), kind)
    expected = tangovlm.Tango(retention=retention)(tokens)
    found = tango_reference(tokens, retention)
    assert found.segments == expected.segments
    assert torch.equal(found.indices, expected.indices)
    assert torch.allclose(found.features, expected.features, atol=1e-5)


def test_segments_of_random_runs() -> None:
    generator = torch.Generator().manual_seed(0)
    for chance in (0.5, 0.8, 0.95):
        alike = torch.rand(9, 6, generator=generator) < chance
        assert list(segment(alike)) == gain_segments(alike.double().tolist(), 10, 6, 0.5)


@pytest.mark.parametrize(("dim", "dtype"), [(512, torch.float32), (512, torch.float16), (16, torch.float32)])
def test_memory_is_what_it_says(dim: int, dtype: torch.dtype) -> None:
    """Wide tokens weigh most while they are rotated, narrow ones while a segment of all frames is merged."""
    tokens = synthetic(Shape(16, 8, 8, dim), "busy", dtype=dtype)
    features = tokens.features.clone()
    features[:, :2] = features[0, :2]
    video = tangovlm.VideoTokens(features, tokens.saliency, tokens.timestamps)
    with TensorBytes() as held:
        assert tango_reference(video).segments == (16,)
    # 768 of the tokens change; what of them is not selected is merged.
    promised = reference_bytes(1024, dim, 720)
    assert 0.6 * promised < held.peak < promised
