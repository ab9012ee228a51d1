"""`Tango.paper` against loops written from the paper's definitions; thresholds go by the mean over the layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tangovlm
from tangovlm import Tango, VideoTokens
from tangovlm.errors import MethodError
from tangovlm.methods.build import Pair, plan
from tangovlm.methods.common.segments import similarity_threshold
from tangovlm.methods.holitom import HoliTom
from tests.support.reference_paper import reference_paper
from tests.support.strategies import make_features, retentions, video_tokens


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    video_tokens(kinds=("random", "scenes", "still"), dtypes=(torch.float64,), min_dim=4),
    retentions,
    st.sampled_from((None, 0.3, 0.9)),
    st.sampled_from(({}, {"context_ratio": 0.0}, {"expansion": 3.0, "neighbors": 2})),
)
def test_equals_the_loops(tokens: VideoTokens, retention: float, threshold: float | None, params: dict) -> None:
    if retention == 1:
        retention = 0.999
    selection = Tango.paper(retention=retention, segment_threshold=threshold, **params)(tokens)
    times = tokens.timestamps if tokens.timestamps is not None else torch.arange(tokens.frames)
    assert tokens.saliency is not None
    indices, values, segments = reference_paper(
        tokens.features.numpy(),
        tokens.saliency.numpy(),
        times.double().numpy(),
        retention,
        threshold if threshold is not None else (0.65 if retention <= 0.1 else 0.8),
        sinks=tokens.sink_tokens or (),
        **params,
    )
    assert selection.segments == tuple(segments)
    assert selection.indices.tolist() == indices
    np.testing.assert_allclose(selection.features.numpy(), np.stack(values), atol=1e-10)


def test_what_the_text_and_the_code_do_differently_shows() -> None:
    tokens = VideoTokens(make_features("scenes", (6, 4, 4, 24), seed=8).float(), torch.rand(6, 4, 4))
    default, paper = Tango(retention=0.2), Tango.paper(retention=0.2)
    for changed in ({"anchor_weight": 0.0}, {"rope_pairs": "neighbors"}, {"exact": False, "counts": "paper"}):
        assert all(getattr(paper, name) == value for name, value in changed.items())
    assert not torch.equal(paper(tokens).features, default(tokens).features)
    still = VideoTokens(make_features("still", (8, 3, 3, 24), seed=3).float(), torch.rand(8, 3, 3))
    # One segment of nine static columns: the text keeps at most these, the default takes tokens out of them again.
    assert len(Tango.paper(retention=0.2)(still).indices) == 9
    assert len(Tango(retention=0.2)(still).indices) == 14


def test_one_line_for_what_the_variant_fixes() -> None:
    with pytest.raises(MethodError, match="counts='paper' requires exact=False"):
        Tango(counts="paper")
    with pytest.raises(MethodError, match="Tango.paper has no parameter 'anchor_weight'"):
        Tango.paper(anchor_weight=0.6)
    with pytest.raises(MethodError, match="Tango.release has no parameter 'exact'"):
        Tango.release(exact=True)


# --- the threshold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [Tango(), Tango.release(), HoliTom(), HoliTom(exact=False)])
def test_a_pair_segments_by_the_mean_over_its_layers(before: Tango | HoliTom) -> None:
    inside = tangovlm.method("tango-fastv" if isinstance(before, Tango) else "holitom-merge")
    part = plan(Pair(before, inside, retention=0.10), layers=28).before
    assert isinstance(part, Tango | HoliTom)
    assert round(part.retention, 4) == 0.1217
    assert (part.equivalent_retention, part._threshold) == (0.10, 0.65)
    assert part == replace(before, retention=part.retention, equivalent_retention=0.10)
    assert plan(Pair(before, inside, retention=0.15), layers=28).before._threshold == 0.8
    # On its own it goes by what it keeps.
    assert replace(before, retention=part.retention)._threshold == 0.8


def test_the_threshold_of_a_pair_decides_what_is_kept() -> None:
    # Cosines of about 0.72 from frame to frame.
    features = make_features("still", (8, 4, 4, 64), seed=1) + 0.62 * make_features("random", (8, 4, 4, 64), seed=2)
    tokens = VideoTokens(features.float(), torch.rand(8, 4, 4, generator=torch.Generator().manual_seed(0)))
    part = plan(Pair(Tango(), tangovlm.method("fastv", keep_ratio=0.5, layer=18), retention=0.10), layers=28).before
    alone = replace(part, equivalent_retention=None)
    assert part(tokens).segments != alone(tokens).segments
    fixed = replace(alone, segment_threshold=similarity_threshold(0.10))
    assert torch.equal(part(tokens).indices, fixed(tokens).indices)


@pytest.mark.parametrize("value", [0.0, 1.5, "0.1"])
def test_an_equivalent_retention_is_a_retention(value: object) -> None:
    for cls in (Tango, HoliTom):
        with pytest.raises(tangovlm.TangoError, match="retention must be a number"):
            cls(equivalent_retention=value)
