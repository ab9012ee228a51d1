"""Tango against an independent slow version, and the properties that hold for every input."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm import Selection, Tango, TangoError, VideoTokens, method
from tangovlm.budget import count
from tests.support.reference_tango import reference_tango
from tests.support.strategies import make_features, tango_params, video_tokens

COMMON = settings(max_examples=120, deadline=None, derandomize=True)


def copies(tokens: VideoTokens) -> list[torch.Tensor]:
    return [x.clone() for x in (tokens.features, tokens.saliency, tokens.timestamps) if x is not None]


def assert_same(a: Selection, b: Selection) -> None:
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.sources, b.sources)
    assert a.segments == b.segments


@COMMON
@given(video_tokens(kinds=("random", "scenes"), dtypes=(torch.float64,), min_dim=4), tango_params)
def test_equals_the_independent_version(tokens: VideoTokens, params: dict[str, Any]) -> None:
    selection = Tango(**params)(tokens)
    times = tokens.timestamps if tokens.timestamps is not None else torch.arange(tokens.frames)
    assert tokens.saliency is not None
    expected = reference_tango(
        tokens.features.numpy(),
        tokens.saliency.numpy(),
        times.double().numpy(),
        sinks=tokens.sink_tokens or (),
        **params,
    )
    assert selection.segments == tuple(expected.segments)
    assert selection.indices.tolist() == expected.indices
    assert selection.sources.flatten().tolist() == expected.sources
    np.testing.assert_allclose(selection.features.numpy(), np.stack(expected.features), atol=1e-10)


@COMMON
@given(video_tokens(), tango_params)
def test_invariants(tokens: VideoTokens, params: dict[str, Any]) -> None:
    before = copies(tokens)
    selection = Tango(**params)(tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, copies(tokens), strict=True))
    kept = count(params["retention"], tokens.count)
    assert selection.indices.shape == (kept,)
    assert selection.indices.dtype == selection.sources.dtype == torch.int64
    assert bool((selection.indices.diff() > 0).all())
    assert 0 <= int(selection.indices[0]) <= int(selection.indices[-1]) < tokens.count
    assert selection.features.shape == (kept, tokens.dim)
    assert selection.features.dtype == tokens.features.dtype
    assert bool(selection.features.isfinite().all())
    assert sum(selection.segments) == tokens.frames
    assert_sources(tokens, selection)
    assert_same(selection, Tango(**params)(tokens))
    if params["retention"] == 1.0:
        assert torch.equal(selection.features, tokens.features.flatten(0, 2))


def assert_sources(tokens: VideoTokens, selection: Selection) -> None:
    """Every slot holds its own token, no token goes to a slot that is not there, and values lie in the hull."""
    sources = selection.sources.flatten()
    slots = torch.arange(len(selection.indices))
    assert torch.equal(sources[selection.indices], slots)
    assert int(sources.min()) >= -1
    assert int(sources.max()) < len(slots)
    flat = tokens.features.flatten(0, 2)
    for slot, value in enumerate(selection.features):
        members = flat[sources == slot]
        if len(members) == 1:
            assert torch.equal(value.view(torch.uint8), members[0].view(torch.uint8))
        slack = 1e-6 * members.abs().amax(0).clamp_min(1e-6)
        assert bool((value >= members.amin(0) - slack).all())
        assert bool((value <= members.amax(0) + slack).all())


@COMMON
@given(video_tokens(), tango_params, st.sampled_from(("consistent", "release")))
def test_release_invariants(tokens: VideoTokens, params: dict[str, Any], placement: Any) -> None:
    selection = Tango.release(**params, placement=placement)(tokens)
    assert bool((selection.indices.diff() > 0).all())
    assert bool(selection.features.isfinite().all())
    used = selection.sources[selection.sources >= 0].unique()
    assert torch.equal(used, torch.arange(len(selection.indices)))
    if params["retention"] == 1.0:
        assert torch.equal(selection.features, tokens.features.flatten(0, 2))


@pytest.mark.parametrize("kind", ["equal", "zero", "still"])
def test_equal_tokens_stay_bit_equal(kind: str) -> None:
    features = make_features(kind, (5, 4, 3, 12), seed=3).float()
    tokens = VideoTokens(features, saliency=torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(0)))
    selection = Tango(retention=0.4)(tokens)
    if kind == "still":
        assert set(selection.indices.tolist()) >= set(range(12))  # one segment, whose columns all stand in frame 0
    else:
        assert torch.equal(selection.features, features.flatten(0, 2)[selection.indices])


def test_sink_tokens_are_masked_unless_overridden() -> None:
    features = make_features("random", (2, 3, 3, 12), seed=5)
    saliency = torch.full((2, 3, 3), 0.1)
    saliency[:, 0, 0] = 5.0
    plain = {"retention": 0.12, "context_ratio": 0.0, "diversity": False}
    for tokens, pruner, position in (
        (VideoTokens(features, saliency), Tango(**plain), 0),
        (VideoTokens(features, saliency, sink_tokens=(0,)), Tango(**plain), 1),
        (VideoTokens(features, saliency, sink_tokens=(0,)), Tango(**plain, sink_tokens=()), 0),
        (VideoTokens(features, saliency), Tango(**plain, sink_tokens=(0, 1)), 2),
    ):
        assert pruner(tokens).indices.tolist() == [position, 9 + position]


def test_notes_name_the_fallbacks() -> None:
    tokens = VideoTokens(make_features("random", (3, 2, 2, 8), seed=1), saliency=torch.ones(3, 2, 2))
    assert [note.split()[1] for note in Tango(retention=0.5, segmentation="fastvid")(tokens).notes] == [
        "timestamps",
        "frame",
    ]
    assert Tango(retention=0.5, timestamps=False)(tokens).notes == ()


def test_frame_features_decide_the_cuts() -> None:
    features = make_features("still", (12, 2, 2, 8), seed=2)
    frame_features = torch.tensor([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 2)
    tokens = VideoTokens(features, saliency=torch.ones(12, 2, 2), frame_features=frame_features)
    # The one cut by content, and the earliest six of the equal others.
    assert Tango(retention=0.5, segmentation="fastvid")(tokens).segments == (1, 1, 1, 1, 1, 1, 4, 2)


def test_gradients_are_not_recorded() -> None:
    features = make_features("random", (2, 2, 2, 8), seed=1).requires_grad_()
    assert not Tango(retention=0.5)(VideoTokens(features, saliency=torch.ones(2, 2, 2))).features.requires_grad


def test_needs_follow_the_settings() -> None:
    assert Tango.needs == Tango().needs == {"saliency", "timestamps"}
    assert Tango(st_rope=False).needs == Tango(timestamps=False).needs == {"saliency"}
    assert Tango(segmentation="fastvid").needs == {"saliency", "timestamps", "frame_features"}


def test_settings_are_hashable_whatever_they_were_read_from() -> None:
    pruner = method("tango", rope_sections=[4, 2, 2], sink_tokens=[1, 2])
    assert pruner == Tango(rope_sections=(4, 2, 2), sink_tokens=(1, 2))
    assert hash(pruner) == hash(Tango(rope_sections=(4, 2, 2), sink_tokens=(1, 2)))


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"retention": 0.0}, "retention"),
        ({"retention": 1.5}, "retention"),
        ({"retention": float("nan")}, "retention"),
        ({"retention": True}, "retention"),
        ({"retention": "0.1"}, "retention"),
        ({"expansion": 0.9}, "expansion"),
        ({"context_ratio": 1.1}, "context_ratio"),
        ({"anchor_weight": float("nan")}, "anchor_weight"),
        ({"neighbors": 0}, "neighbors"),
        ({"neighbors": 2.5}, "neighbors"),
        ({"segmentation": "scenes"}, "segmentation"),
        ({"placement": "anywhere"}, "placement"),
        ({"base_time": 0.0}, "base_time"),
        ({"base_space": float("inf")}, "base_space"),
        ({"segment_threshold": "high"}, "segment_threshold"),
        ({"rope_sections": (4, 4)}, "rope_sections"),
        ({"sink_tokens": (-1,)}, "sink_tokens"),
        ({"diversity": "off"}, "diversity"),
        ({"timestamps": torch.tensor([0.0, 1.0])}, "timestamps"),
        ({"speed": 1}, "speed"),
    ],
)
def test_bad_settings_raise_one_line(params: dict[str, Any], word: str) -> None:
    for build in (lambda **p: method("tango", **p), Tango.release):
        with pytest.raises(TangoError, match=word) as caught:
            build(**params)
        assert "\n" not in str(caught.value)


def test_bad_inputs_raise() -> None:
    features = make_features("random", (2, 2, 2, 8), seed=1)
    with pytest.raises(TangoError, match="saliency"):
        Tango(retention=0.5)(VideoTokens(features))
    tokens = VideoTokens(features, saliency=torch.ones(2, 2, 2))
    with pytest.raises(TangoError, match="sink_tokens"):
        Tango(retention=0.5, sink_tokens=(4,))(tokens)
    with pytest.raises(TangoError, match="rope_sections"):
        Tango(retention=0.5, rope_sections=(4, 2, 4))(tokens)


def test_identity_needs_no_saliency() -> None:
    features = make_features("random", (2, 2, 2, 8), seed=1).half()
    features[0, 0, 0, 0] = -0.0
    selection = Tango(retention=1.0)(VideoTokens(features))
    assert torch.equal(selection.features.view(torch.int16), features.flatten(0, 2).view(torch.int16))
    assert selection.features.data_ptr() != features.data_ptr()
