"""The methods that choose or merge without segments: what holds for all of them, and each against a slow version."""

from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm import Selection, VideoTokens, method
from tangovlm.budget import apportion, count, exact
from tangovlm.errors import InputError, MethodError
from tests.support import reference_selectors as reference
from tests.support.strategies import make_features, retentions, video_tokens

NAMES = ("divprune", "framefusion", "random", "topk", "uniform", "vidcom2", "visionzip")
MERGING = ("framefusion", "visionzip")
MANY = settings(max_examples=150, deadline=None, derandomize=True)
SOME = settings(max_examples=60, deadline=None, derandomize=True)

smooth = video_tokens(kinds=("random", "scenes"), dtypes=(torch.float64,), min_dim=4)


def with_keys(tokens: VideoTokens, seed: int = 0) -> VideoTokens:
    grid = tuple(tokens.features.shape[:3])
    keys = torch.randn(*grid, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return replace(tokens, keys=keys.to(tokens.features.dtype))


def some_tokens(frames: int = 6, side: int = 4, dim: int = 12, **changes: Any) -> VideoTokens:
    features = make_features("scenes", (frames, side, side, dim), seed=7).float()
    saliency = torch.rand(frames, side, side, generator=torch.Generator().manual_seed(1))
    return with_keys(VideoTokens(features, saliency, **changes))


def assert_same(a: Selection, b: Selection) -> None:
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.sources, b.sources)


def flat(tokens: VideoTokens) -> npt.NDArray[np.float64]:
    return np.asarray(tokens.features.flatten(1, 2).numpy())


@MANY
@given(st.sampled_from(NAMES), video_tokens(), retentions, st.booleans())
def test_invariants(name: str, tokens: VideoTokens, retention: float, exactly: bool) -> None:
    tokens = with_keys(tokens)
    before = [x.clone() for x in (tokens.features, tokens.saliency, tokens.keys) if x is not None]
    selection = method(name, retention=retention, exact=exactly)(tokens)
    after = [x for x in (tokens.features, tokens.saliency, tokens.keys) if x is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    kept = len(selection.indices)
    if exactly or name in ("random", "uniform"):
        assert kept == count(retention, tokens.count)
    assert selection.indices.dtype == selection.sources.dtype == torch.int64
    assert bool((selection.indices.diff() > 0).all())
    assert 0 <= int(selection.indices[0]) <= int(selection.indices[-1]) < tokens.count
    assert selection.features.shape == (kept, tokens.dim)
    assert selection.features.dtype == tokens.features.dtype
    assert bool(selection.features.isfinite().all())
    assert selection.segments == (tokens.frames,)
    sources = selection.sources.flatten()
    assert sources.shape == (tokens.count,)
    assert torch.equal(sources[selection.indices], torch.arange(kept))
    assert -1 <= int(sources.min()) <= int(sources.max()) < kept
    own = tokens.features.flatten(0, 2)[selection.indices]
    alone = sources[sources >= 0].bincount(minlength=kept) == 1
    assert torch.equal(selection.features[alone], own[alone])
    assert bool(alone.all()) or name in MERGING
    assert_same(selection, method(name, retention=retention, exact=exactly)(tokens))
    if retention == 1.0:
        assert torch.equal(selection.features, tokens.features.flatten(0, 2))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["equal", "zero"])
def test_degenerate_videos(name: str, kind: str) -> None:
    features = make_features(kind, (5, 3, 4, 8), seed=3).float()
    tokens = VideoTokens(features, torch.zeros(5, 3, 4), keys=torch.zeros(5, 3, 4, 2))
    for retention in (0.001, 0.02, 0.1, 0.37, 0.98):
        selection = method(name, retention=retention)(tokens)
        assert len(selection.indices) == count(retention, tokens.count)
        if name != "visionzip":
            assert torch.equal(selection.features, features.flatten(0, 2)[selection.indices])


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("random", {"seed": -1}),
        ("random", {"seed": 1.5}),
        ("topk", {"signal": "cls"}),
        ("topk", {"exact": 1}),
        ("vidcom2", {"channel_ratio": 0.0}),
        ("vidcom2", {"channel_ratio": 1.2}),
        ("vidcom2", {"temperature": 0}),
        ("vidcom2", {"alphas": ()}),
        ("vidcom2", {"alphas": 0.5}),
        ("vidcom2", {"alphas": (0.5, 0.0)}),
        ("vidcom2", {"alphas": (0.5, "1")}),
        ("visionzip", {"dominant_ratio": -0.1}),
        ("visionzip", {"tokens_per_frame": 0, "exact": False}),
        ("visionzip", {"tokens_per_frame": 20}),
        ("framefusion", {"threshold": 2.0}),
    ],
)
def test_bad_parameters(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(MethodError) as error:
        method(name, **params)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_bad_retention(name: str) -> None:
    for retention in (0, 1.5, True, float("nan")):
        with pytest.raises(InputError):
            method(name, retention=retention)


@pytest.mark.parametrize("name", ["topk", "visionzip"])
def test_missing_signals(name: str) -> None:
    tokens = some_tokens()
    with pytest.raises(InputError, match="saliency"):
        method(name)(replace(tokens, saliency=None))
    if name == "visionzip":
        with pytest.raises(InputError, match="keys"):
            method(name)(replace(tokens, keys=None))


@pytest.mark.parametrize("name", NAMES)
def test_needs_are_what_is_read(name: str) -> None:
    tokens, pruner = some_tokens(), method(name)
    bare = VideoTokens(tokens.features, **{need: getattr(tokens, need) for need in pruner.needs})
    assert_same(pruner(bare), pruner(tokens))


@pytest.mark.parametrize("grid", [(8, 14, 14), (7, 8, 8), (5, 10, 10), (3, 9, 16), (12, 1, 7), (1, 20, 20)])
@pytest.mark.parametrize("retention", [0.05, 0.1, 0.125, 0.2, 0.5])
def test_uniform_is_even(grid: tuple[int, int, int], retention: float) -> None:
    frames, height, width = grid
    selection = method("uniform", retention=retention)(VideoTokens(torch.zeros(*grid, 2)))
    kept = (selection.sources >= 0).long()
    for counts in (kept.sum(dim=(1, 2)), *kept.sum(dim=2)):
        assert int(counts.max() - counts.min()) <= 1
    total = count(retention, frames * height * width)
    for line, sizes in ((kept.sum(dim=(0, 1)), width), (kept.sum(dim=(0, 2)), height)):
        if total >= 4 * sizes:
            assert int(line.min()) >= 1


def test_random_depends_on_content_seed_and_place_only() -> None:
    tokens = some_tokens(frames=8, side=8)
    pruner = method("random", retention=0.1)
    chosen = pruner(tokens).indices
    same = VideoTokens(tokens.features.double())
    assert torch.equal(pruner(same).indices, chosen)
    changed = tokens.features.clone()
    changed[3, 2, 1, 5] += 1e-6
    for other in (
        pruner(VideoTokens(changed)),
        pruner(VideoTokens(tokens.features.flip(0))),
        method("random", retention=0.1, seed=1)(tokens),
    ):
        assert len(set(other.indices.tolist()) & set(chosen.tolist())) < 20
    zeros = torch.zeros(2, 5, 5, 3)
    assert torch.equal(pruner(VideoTokens(zeros)).indices, pruner(VideoTokens(-zeros)).indices)


@SOME
@given(video_tokens(max_frames=3, max_side=3, max_dim=5), retentions, st.integers(0, 2**70))
def test_random_equals_the_slow_version(tokens: VideoTokens, retention: float, seed: int) -> None:
    ranks = reference.random_ranks(tokens.features.flatten(1, 2).float().tolist(), seed)
    best = sorted(range(tokens.count), key=lambda i: ranks[i])[-count(retention, tokens.count) :]
    assert method("random", retention=retention, seed=seed)(tokens).indices.tolist() == sorted(best)


def test_random_takes_every_token_equally_often() -> None:
    tokens = VideoTokens(make_features("random", (2, 5, 5, 4), seed=1).float())
    times = torch.zeros(50)
    for seed in range(200):
        times[method("random", retention=0.2, seed=seed)(tokens).indices] += 1
    # 40 expected, with a standard deviation of 5.7.
    assert 17 <= float(times.min()) <= float(times.max()) <= 63


@SOME
@given(video_tokens(), retentions, st.booleans())
def test_topk_keeps_the_most_salient_of_each_frame(tokens: VideoTokens, retention: float, exactly: bool) -> None:
    assert tokens.saliency is not None
    kept = method("topk", retention=retention, exact=exactly)(tokens).sources.flatten(1) >= 0
    counts = kept.sum(dim=1).tolist()
    assert max(counts) - min(counts) <= (1 if exactly else 0)
    if not exactly:
        assert counts[0] == count(retention, tokens.height * tokens.width)
    for mask, row, k in zip(kept, tokens.saliency.flatten(1).tolist(), counts, strict=True):
        assert mask.nonzero().flatten().tolist() == sorted(sorted(range(len(row)), key=lambda p: (-row[p], p))[:k])


@SOME
@given(smooth, retentions.filter(lambda r: r < 1), st.sampled_from((0.5, 0.3, 1.0)), st.booleans())
def test_vidcom2_equals_the_slow_version(
    tokens: VideoTokens, retention: float, channel_ratio: float, exactly: bool
) -> None:
    selection = method("vidcom2", retention=retention, channel_ratio=channel_ratio, exact=exactly)(tokens)
    scores, scale = reference.vidcom2_scores(flat(tokens), retention, channel_ratio)
    length = scores.shape[1]
    counts = (selection.sources >= 0).flatten(1).sum(dim=1).tolist()
    if exactly:
        total = count(retention, tokens.count)
        shares = [total * part / sum(scale) for part in scale]
        if max(shares) <= length:
            for kept, wanted in zip(accumulate(counts), accumulate(shares), strict=True):
                assert abs(kept - wanted) <= 0.5 + 1e-6
    else:
        assert all(
            abs(kept - part * length) <= 0.5 + 1e-6 or kept == 1 for kept, part in zip(counts, scale, strict=True)
        )
    expected = [
        t * length + p
        for t, kept in enumerate(counts)
        for p in sorted(sorted(range(length), key=lambda p: (scores[t, p], p))[:kept])
    ]
    assert selection.indices.tolist() == expected


def test_vidcom2_gives_an_odd_frame_more() -> None:
    features = make_features("still", (6, 5, 5, 12), seed=2)
    features += 0.05 * make_features("random", (6, 5, 5, 12), seed=3)
    features[4] = make_features("random", (1, 5, 5, 12), seed=9)[0]
    counts = (method("vidcom2", retention=0.2)(VideoTokens(features)).sources >= 0).flatten(1).sum(dim=1)
    assert int(counts.argmax()) == 4
    assert int(counts[4]) > 1.4 * float(counts.float().mean())


def visionzip_counts(
    tokens: VideoTokens, retention: float, ratio: float, per_frame: int | None
) -> list[tuple[int, int]]:
    if per_frame is not None:
        kept = min(per_frame, tokens.height * tokens.width)
        return [(int(kept * ratio), kept - int(kept * ratio))] * tokens.frames
    each = apportion([Fraction(count(retention, tokens.count), tokens.frames)] * tokens.frames)
    return [(d, k - d) for d, k in zip(apportion(exact(ratio) * k for k in each), each, strict=True)]


@SOME
@given(smooth, retentions, st.sampled_from((54 / 64, 0.0, 0.5, 1.0)), st.none() | st.integers(1, 30))
def test_visionzip_equals_the_slow_version(
    tokens: VideoTokens, retention: float, ratio: float, per_frame: int | None
) -> None:
    tokens = with_keys(tokens)
    assert tokens.saliency is not None
    assert tokens.keys is not None
    pruner = method(
        "visionzip",
        retention=retention,
        dominant_ratio=ratio,
        exact=per_frame is None,
        tokens_per_frame=per_frame,
    )
    assert_equals(
        pruner(tokens),
        *reference.visionzip(
            flat(tokens),
            np.asarray(tokens.saliency.double().flatten(1)),
            np.asarray(tokens.keys.flatten(1, 2)),
            visionzip_counts(tokens, retention, ratio, per_frame),
        ),
    )


def assert_equals(selection: Selection, values: dict[int, npt.NDArray[np.float64]], home: list[int]) -> None:
    assert selection.indices.tolist() == sorted(values)
    slot = {index: k for k, index in enumerate(sorted(values))}
    assert selection.sources.flatten().tolist() == [slot.get(index, -1) for index in home]
    expected = np.stack([values[index] for index in sorted(values)])
    np.testing.assert_allclose(selection.features.numpy(), expected, atol=1e-10)


@SOME
@given(smooth, retentions)
def test_framefusion_equals_the_slow_version(tokens: VideoTokens, retention: float) -> None:
    merges = tokens.count - count(retention, tokens.count)
    selection = method("framefusion", retention=retention)(tokens)
    assert_equals(selection, *reference.framefusion(flat(tokens), merges))


def test_framefusion_release_stops_at_the_threshold() -> None:
    features = make_features("random", (4, 3, 3, 16), seed=5)
    features[1:3, 0] = features[0, 0]
    selection = method("framefusion", retention=0.1, exact=False)(VideoTokens(features))
    assert len(selection.indices) == 36 - 6
    assert selection.sources[:3, 0].tolist() == [[0, 1, 2]] * 3
    capped = method("framefusion", retention=0.9, exact=False)(VideoTokens(features))
    assert len(capped.indices) == 36 - 3
    assert (
        len(method("framefusion", retention=0.1, exact=False, threshold=1.0)(VideoTokens(features * 2)).indices) >= 30
    )


def test_framefusion_of_a_still_video_is_its_first_frame() -> None:
    features = make_features("still", (5, 3, 4, 8), seed=3).bfloat16()
    selection = method("framefusion", retention=0.2)(VideoTokens(features))
    assert torch.equal(selection.features, features[0].flatten(0, 1))
    assert bool((selection.sources == torch.arange(12).view(3, 4)).all())


def test_divprune_drops_duplicates_first() -> None:
    features = make_features("random", (1, 3, 3, 16), seed=4).repeat(4, 1, 1, 1)
    selection = method("divprune", retention=0.25)(VideoTokens(features))
    assert sorted(i % 9 for i in selection.indices.tolist()) == list(range(9))
