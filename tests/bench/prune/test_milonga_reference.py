"""The plain reference of Milonga against loops that share nothing with it, and against the library."""

from dataclasses import fields

import pytest
import torch

from tangovlm import Milonga
from tangovlm.bench.prune import milonga_reference as plain
from tangovlm.bench.videos import KINDS, Shape, synthetic
from tangovlm.budget import count
from tests.support import reference_milonga


@pytest.mark.parametrize("retention", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [Shape(9, 4, 5, 48), Shape(1, 5, 4, 21), Shape(3, 3, 3, 200)], ids=str)
def test_agrees_with_loops(shape: Shape, kind: str, retention: float) -> None:
    tokens = synthetic(shape, kind, seed=3, dtype=torch.float64)
    assert tokens.saliency is not None
    features = tokens.features.flatten(0, 2).tolist()
    expected = reference_milonga.milonga(
        features,
        reference_milonga.points_of(features, plain.SKETCH),
        tokens.saliency.double().flatten().tolist(),
        (shape.frames, shape.height * shape.width),
        count(retention, tokens.count),
        stay=plain.STAY,
        emphasis=plain.EMPHASIS,
        alike=plain.ALIKE,
        anchor_weight=plain.ANCHOR_WEIGHT,
    )
    found = plain.milonga_reference(tokens, retention)
    assert found.indices.tolist() == expected.indices
    torch.testing.assert_close(found.features.double(), torch.tensor(expected.features).double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("retention", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_keeps_what_the_library_keeps(kind: str, retention: float) -> None:
    tokens = synthetic(Shape(16, 7, 7, 160), kind)
    assert torch.equal(plain.milonga_reference(tokens, retention).indices, Milonga(retention=retention)(tokens).indices)


def test_its_parameters_are_the_defaults() -> None:
    defaults = {field.name: field.default for field in fields(Milonga)}
    assert tuple(defaults[name] for name in ("stay", "emphasis", "alike", "anchor_weight", "sketch")) == (
        plain.STAY,
        plain.EMPHASIS,
        plain.ALIKE,
        plain.ANCHOR_WEIGHT,
        plain.SKETCH,
    )
