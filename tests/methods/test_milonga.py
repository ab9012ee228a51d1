"""Milonga against plain loops, and what holds for every video."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tangovlm
from tangovlm import Milonga, Selection, VideoTokens
from tangovlm.budget import count
from tangovlm.errors import InputError, MethodError
from tangovlm.kernels.farthest_first import choose_farthest
from tangovlm.kernels.token_sketch import sketch_tokens
from tangovlm.methods import milonga
from tangovlm.methods.milonga import NO_SALIENCY
from tests.support import reference_milonga as reference
from tests.support.strategies import make_features, retentions, video_tokens

MANY = settings(max_examples=150, deadline=None, derandomize=True)
SOME = settings(max_examples=60, deadline=None, derandomize=True)

params: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "stay": st.sampled_from((0.0, 0.1, 0.35, 1.0, 4.0)),
        "emphasis": st.sampled_from((0.0, 0.3, 0.5, 1.0, 2.0)),
        "alike": st.sampled_from((0.0, 0.5, 0.9, 4.0)),
        "anchor_weight": st.sampled_from((0.0, 0.6, 1.0)),
        "sketch": st.sampled_from((1, 4, 128)),
    },
)


def some_tokens(frames: int = 8, side: int = 5, dim: int = 20, **changes: Any) -> VideoTokens:
    features = make_features("scenes", (frames, side, side, dim), seed=7).float()
    saliency = torch.rand(frames, side, side, generator=torch.Generator().manual_seed(1))
    return VideoTokens(features, saliency, **changes)


def assert_same(a: Selection, b: Selection) -> None:
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.sources, b.sources)


@MANY
@given(video_tokens(), retentions, params)
def test_invariants(tokens: VideoTokens, retention: float, params: dict[str, Any]) -> None:
    before = [tokens.features.clone(), tokens.saliency.clone()] if tokens.saliency is not None else []
    selection = Milonga(retention=retention, **params)(tokens)
    assert torch.equal(before[0], tokens.features)
    assert torch.equal(before[1], tokens.saliency)
    kept = count(retention, tokens.count)
    assert selection.indices.shape == (kept,)
    assert selection.indices.dtype == selection.sources.dtype == torch.int64
    assert bool((selection.indices.diff() > 0).all())
    assert 0 <= int(selection.indices[0]) <= int(selection.indices[-1]) < tokens.count
    assert selection.features.shape == (kept, tokens.dim)
    assert selection.features.dtype == tokens.features.dtype
    assert bool(selection.features.isfinite().all())
    assert selection.segments == (tokens.frames,)
    assert selection.notes == ()
    sources = selection.sources.flatten()
    assert torch.equal(sources[selection.indices], torch.arange(kept))
    assert -1 <= int(sources.min()) <= int(sources.max()) < kept
    own = tokens.features.flatten(0, 2)[selection.indices]
    alone = sources[sources >= 0].bincount(minlength=kept) == 1
    assert torch.equal(selection.features[alone], own[alone])
    assert_same(selection, Milonga(retention=retention, **params)(tokens))
    if retention == 1:
        assert torch.equal(selection.features, tokens.features.flatten(0, 2))


@SOME
@given(video_tokens(max_frames=5, max_side=4), st.sampled_from((0.02, 0.1, 0.3, 0.6, 0.9)), params, st.booleans())
def test_equals_the_slow_version(tokens: VideoTokens, retention: float, params: dict[str, Any], adaptive: bool) -> None:
    method = Milonga(retention=retention, **params, **({"exact": False, "floor": 0.3} if adaptive else {}))
    features = tokens.features.flatten(0, 2).double()
    if tokens.features.dtype == torch.float64:
        points = reference.points_of(features.tolist(), method.sketch)
    else:
        points = sketch_tokens(tokens.features.flatten(0, 2), method.sketch).int().tolist()
    assert tokens.saliency is not None
    saliency = tokens.saliency.double().flatten(1).clone()
    saliency[:, list(tokens.sink_tokens or ())] = 0
    expected = reference.milonga(
        features.tolist(),
        points,
        saliency.flatten().tolist(),
        (tokens.frames, tokens.height * tokens.width),
        count(retention, tokens.count),
        stay=method.stay,
        emphasis=method.emphasis,
        alike=method.alike,
        anchor_weight=method.anchor_weight,
        floor=method.floor,
    )
    found = method(tokens)
    assert found.indices.tolist() == expected.indices
    assert found.sources.flatten().tolist() == expected.sources
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(tokens.features.dtype, 1e-5)
    values = torch.tensor(expected.features, dtype=torch.float64)
    torch.testing.assert_close(found.features.double(), values, atol=tolerance, rtol=tolerance)


@SOME
@given(video_tokens(), retentions, params, st.sampled_from((1, 7, 2000)))
def test_blocks_change_nothing(tokens: VideoTokens, retention: float, params: dict[str, Any], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milonga, "choose_farthest", lambda *given: choose_farthest(*given, block=block))
        found = Milonga(retention=retention, **params)(tokens)
    assert_same(found, Milonga(retention=retention, **params)(tokens))


@SOME
@given(video_tokens(), st.sampled_from((0.1, 0.5, 1.0)), params)
def test_a_higher_floor_keeps_fewer(tokens: VideoTokens, retention: float, params: dict[str, Any]) -> None:
    """The choice with a floor is the beginning of that without, as long as no run is split for the budget."""
    kept = [count(retention, tokens.count)]
    for floor in (0.01, 0.1, 0.5, 2.0, 1e9):
        method = Milonga(retention=retention, exact=False, floor=floor, **params)
        assert method.adaptive
        assert not method.is_identity
        selection = method(tokens)
        kept.append(len(selection.indices))
        assert selection.features.shape == (kept[-1], tokens.dim)
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 1


def test_without_a_floor_the_count_is_exact() -> None:
    tokens = some_tokens()
    assert_same(Milonga(retention=0.1, exact=False)(tokens), Milonga(retention=0.1)(tokens))
    assert not Milonga(exact=False).adaptive


def test_adaptive_counts_by_name() -> None:
    method = tangovlm.method("milonga", adaptive=True, retention=0.5)
    assert isinstance(method, Milonga)
    assert method.adaptive
    tokens = some_tokens()
    still = replace(tokens, features=tokens.features[:1].expand_as(tokens.features))
    assert len(method(still).indices) < len(method(tokens).indices) <= count(0.5, tokens.count)


@pytest.mark.parametrize("kind", ["equal", "zero", "still"])
@pytest.mark.parametrize("saliency", [0.0, 1.0])
def test_copies_are_kept_unchanged(kind: str, saliency: float) -> None:
    features = make_features(kind, (5, 3, 4, 8), seed=3).float()
    tokens = VideoTokens(features, torch.full((5, 3, 4), saliency))
    for retention in (0.001, 0.02, 0.1, 0.37, 59 / 60):
        selection = Milonga(retention=retention, alike=0.0)(tokens)
        assert len(selection.indices) == count(retention, 60)
        assert torch.equal(selection.features, features.flatten(0, 2)[selection.indices])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 2, 3), (1, 6, 6, 5), (9, 1, 1, 2)])
def test_small_videos(shape: tuple[int, int, int, int]) -> None:
    tokens = VideoTokens(make_features("random", shape, seed=0).float(), torch.rand(shape[:3]))
    for retention in (0.01, 0.4, 1 - 1 / tokens.count if tokens.count > 1 else 1.0):
        assert len(Milonga(retention=retention)(tokens).indices) == count(retention, tokens.count)


def test_a_still_video_shows_each_position_once_at_its_first_frame() -> None:
    features = make_features("still", (6, 4, 4, 12), seed=0)
    selection = Milonga(retention=1 / 6, alike=0.0)(VideoTokens(features, torch.rand(6, 4, 4)))
    assert selection.indices.tolist() == list(range(16))
    assert torch.equal(selection.sources[3], selection.sources[0])


def test_saliency_decides_between_equally_distant_tokens() -> None:
    """Orthogonal tokens: all distances are equal."""
    features = torch.eye(16).view(1, 4, 4, 16)
    saliency = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    selection = Milonga(retention=0.25, sketch=16)(VideoTokens(features, saliency))
    assert set(selection.indices.tolist()) == set(saliency.flatten().topk(4).indices.tolist())


def test_sinks_count_least() -> None:
    tokens = some_tokens(sink_tokens=(3, 7))
    assert tokens.saliency is not None
    high = tokens.saliency.clone().flatten(1)
    high[:, [3, 7]] = 1e6
    masked = replace(tokens, saliency=high.view_as(tokens.saliency))
    assert_same(Milonga()(masked), Milonga()(tokens))


def test_without_saliency_features_decide_and_a_note_says_so() -> None:
    tokens = some_tokens()
    bare = replace(tokens, saliency=None)
    found = Milonga()(bare)
    assert found.notes == (NO_SALIENCY,)
    plain = Milonga(emphasis=0)
    assert plain.needs == frozenset()
    assert Milonga().needs == {"saliency"}
    assert plain(bare).notes == ()
    assert_same(found, plain(tokens))


def test_needs_are_what_is_read() -> None:
    tokens = some_tokens(timestamps=torch.arange(8.0) ** 2)
    assert_same(Milonga()(tokens), Milonga()(VideoTokens(tokens.features, tokens.saliency)))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_norms_do_not_matter(factor: float) -> None:
    tokens = some_tokens()
    scaled = replace(tokens, features=tokens.features * 2.0 ** round(torch.tensor(factor).log2().item()))
    assert torch.equal(Milonga()(scaled).indices, Milonga()(tokens).indices)


def test_thresholds_follow_the_spread_of_the_tokens() -> None:
    """A common mean that makes all cosines high changes what joins a run little."""
    tokens = some_tokens(frames=12, dim=256)
    direction = torch.nn.functional.normalize(torch.randn(256, generator=torch.Generator().manual_seed(3)), dim=0)
    shifted = replace(tokens, features=tokens.features + 60 * direction)
    alike = []
    for some in (tokens, shifted):
        unit = torch.nn.functional.normalize(some.features.flatten(0, 2), dim=1)
        alike.append(float((unit @ unit.mT).mean()))
    assert alike[0] < 0.2
    assert alike[1] > 0.85
    kept = [len(Milonga(retention=1.0, exact=False, floor=0.3, emphasis=0)(some).indices) for some in (tokens, shifted)]
    assert 0.6 < kept[0] / kept[1] < 1.6


@pytest.mark.parametrize(
    "params",
    [
        {"stay": -0.1},
        {"stay": float("nan")},
        {"emphasis": -1},
        {"emphasis": "1"},
        {"alike": float("inf")},
        {"anchor_weight": 1.1},
        {"sketch": 0},
        {"sketch": 1025},
        {"sketch": 16.0},
        {"floor": -0.1, "exact": False},
        {"floor": 0.1},
        {"exact": 1},
    ],
)
def test_bad_parameters(params: dict[str, Any]) -> None:
    with pytest.raises(MethodError) as error:
        Milonga(**params)
    assert "\n" not in str(error.value)


def test_bad_retention() -> None:
    for retention in (0, 1.5, True, float("nan")):
        with pytest.raises(InputError):
            Milonga(retention=retention)
