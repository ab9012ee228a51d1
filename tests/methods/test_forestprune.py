"""ForestPrune: a slow version written token by token, what was recorded of its steps, and the edge cases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tangovlm import VideoTokens, method
from tangovlm.budget import count
from tangovlm.errors import MethodError
from tangovlm.methods.common import forest
from tangovlm.methods.common.forest import Candidates, grow_forest
from tangovlm.methods.common.root_merging import most_distinct
from tangovlm.methods.forestprune import candidate_scores
from tests.golden.cases import TOLERANCE, case_params, load
from tests.support.strategies import make_features, retentions, video_tokens

Floats = NDArray[np.float64]
COMMON = settings(max_examples=80, deadline=None, derandomize=True)
PARAMS = st.fixed_dictionaries(
    {"retention": retentions},
    optional={
        "candidate_ratio": st.sampled_from((0.2, 0.5, 0.66, 1.0)),
        "similarity": st.sampled_from((-1.0, 0.0, 0.5, 0.9)),
        "closeness": st.sampled_from((0.0, 0.5, 0.8, 1.0)),
    },
)


def unit(x: Floats) -> Floats:
    return x / max(float(np.linalg.norm(x)), 1e-12)


def slow_scores(frame: Floats) -> list[float]:
    """Scores of the tokens of a frame ``(L, D)``."""
    length = len(frame)
    logits = np.full((length, length), -5000.0)
    for i in range(length):
        for j in range(length):
            cosine = float(unit(frame[i]) @ unit(frame[j]))
            if cosine >= 0.5:
                logits[i, j] = cosine / 0.03
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    step = odds / odds.sum(axis=1, keepdims=True)
    mass = np.array([float(np.linalg.norm(x)) for x in frame]) @ np.linalg.matrix_power(step, 5)
    return [float(m) / int((row > 0).sum()) for m, row in zip(mass, step, strict=True)]


def slow_forestprune(
    features: Floats, retention: float, exactly: bool, ratio: float, similarity: float, closeness: float
) -> list[int]:
    """Grid indices that are kept of features (T, H, W, D)."""
    frames, height, width, dim = features.shape
    length = height * width
    in_frame, keep = min(round(length * ratio), length), count(retention, frames * length)
    if exactly:
        in_frame = max(in_frame, -(-keep // frames))
    else:
        keep = round(frames * in_frame * retention / ratio)
    candidates: list[tuple[int, int]] = []
    for t in range(frames):
        scores = slow_scores(features[t].reshape(length, dim))
        best = sorted(range(length), key=lambda i: (-scores[i], i))[:in_frame]
        candidates += [(t, i) for i in sorted(best)]
    vectors = [unit(features[t].reshape(length, dim)[i]) for t, i in candidates]
    limit = np.float32(1 - closeness)

    def apart(a: int, b: int) -> np.float32:
        (y, x), (v, u) = divmod(candidates[a][1], width), divmod(candidates[b][1], width)
        down = abs(np.float32(y) / np.float32(max(height - 1, 1)) - np.float32(v) / np.float32(max(height - 1, 1)))
        across = abs(np.float32(x) / np.float32(max(width - 1, 1)) - np.float32(u) / np.float32(max(width - 1, 1)))
        return max(down, across)

    tree, depth, tails = {}, {}, []
    for t in range(frames):
        before = list(tree)
        joined: dict[int, int] = {}
        for y in [n for n, (frame, _) in enumerate(candidates) if frame == t]:
            near = [z for z in before if vectors[z] @ vectors[y] >= similarity and apart(z, y) <= limit]
            if near:
                best = min(near, key=lambda z: (-float(vectors[z] @ vectors[y]), float(apart(z, y)), tree[z]))
                joined[y] = tree[best]
        for y in [n for n, (frame, _) in enumerate(candidates) if frame == t]:
            tree[y] = joined.get(y, len(tails))
            depth[y] = depth[tails[tree[y]]] + 1 if y in joined else 0
            if y not in joined:
                tails.append(y)
        for y, number in joined.items():
            tails[number] = y
    roots = [y for y in tree if depth[y] == 0]
    while len(roots) > keep > 0:
        pairs = [(i, j) for i in roots for j in roots if i < j]
        roots.remove(min(pairs, key=lambda p: (-float(vectors[p[0]] @ vectors[p[1]]), p))[1])
    order = sorted(tree, key=lambda y: (depth[y] if y in roots or depth[y] else frames + 1, candidates[y][0], y))
    return sorted(candidates[y][0] * length + candidates[y][1] for y in order[:keep])


@COMMON
@given(video_tokens(), PARAMS)
def test_exact_count_for_every_input(tokens: VideoTokens, params: dict[str, Any]) -> None:
    before = tokens.features.clone()
    selection = method("forestprune", **params)(tokens)
    assert torch.equal(before, tokens.features)
    kept = count(params["retention"], tokens.count)
    assert len(selection.indices) == kept
    assert bool((selection.indices.diff() > 0).all())
    assert torch.equal(selection.features, tokens.features.flatten(0, 2)[selection.indices])
    assert selection.segments == (tokens.frames,)
    sources = torch.full((tokens.count,), -1).scatter_(0, selection.indices, torch.arange(kept))
    assert torch.equal(selection.sources.flatten(), sources)
    assert torch.equal(selection.indices, method("forestprune", **params)(tokens).indices)


@COMMON
@given(video_tokens(), PARAMS)
def test_count_of_the_release(tokens: VideoTokens, params: dict[str, Any]) -> None:
    selection = method("forestprune", exact=False, **params)(tokens)
    ratio = params.get("candidate_ratio", 0.5)
    candidates = tokens.frames * round(tokens.height * tokens.width * ratio)
    if params["retention"] < 1:
        assert len(selection.indices) == min(round(candidates * params["retention"] / ratio), candidates)
    assert bool((selection.indices.diff() > 0).all())
    assert torch.equal(selection.features, tokens.features.flatten(0, 2)[selection.indices])


@COMMON
@given(
    video_tokens(kinds=("random", "scenes"), dtypes=(torch.float64,), max_frames=6, max_side=4, min_dim=4),
    PARAMS,
    st.booleans(),
)
def test_equals_the_slow_version(tokens: VideoTokens, params: dict[str, Any], exactly: bool) -> None:
    selection = method("forestprune", exact=exactly, **params)(tokens)
    if params["retention"] == 1:
        return
    wanted = slow_forestprune(
        np.asarray(tokens.features.numpy()),
        params["retention"],
        exactly,
        params.get("candidate_ratio", 0.5),
        params.get("similarity", 0.9),
        params.get("closeness", 0.8),
    )
    assert selection.indices.tolist() == wanted


@pytest.mark.parametrize("path", case_params(("forestprune",)))
def test_steps_as_recorded(path: Path) -> None:
    case, params, tokens = load(path)
    info = json.loads(str(case["info"]))
    scores = candidate_scores(tokens.features.flatten(1, 2))
    torch.testing.assert_close(scores, torch.from_numpy(case["scores"]).flatten(1), atol=TOLERANCE, rtol=0)
    indices = torch.from_numpy(case["candidates"])
    places = indices - torch.arange(tokens.frames)[:, None] * tokens.height * tokens.width
    best = scores.sort(dim=1, descending=True).indices[:, : places.shape[1]].sort(dim=1).values
    assert torch.equal(best, places)
    candidates = Candidates.of(tokens, places)
    grown = grow_forest(candidates, params["similarity"], 1 - params["closeness"])
    assert len(grown.roots) == info["roots_before"]
    merged = most_distinct(candidates.units(grown.roots), info["roots_before"] - info["merged_roots"]).pairs
    parents = grown.parents.clone()
    parents[grown.roots[merged[:, 1]]] = grown.roots[merged[:, 0]]
    grid_indices = torch.where(parents < 0, -1, indices.flatten()[parents])
    assert torch.equal(grid_indices, torch.from_numpy(case["parents"]).flatten())
    depth: list[int] = []
    for parent in parents.tolist():
        depth.append(0 if parent < 0 else depth[parent] + 1)
    assert depth == case["depth"].flatten().tolist()
    assert bool(merged.numel()) or depth == grown.depth.tolist()


@pytest.mark.parametrize("exactly", [True, False])
def test_tiles_do_not_change_the_result(exactly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = VideoTokens(make_features("scenes", (9, 5, 4, 16), seed=2))
    pruner = method("forestprune", retention=0.3, similarity=0.5, exact=exactly)
    wanted = pruner(tokens).indices
    for limit in (1, 2000):
        monkeypatch.setattr(forest, "_TILE_ELEMENTS", (limit, limit))
        assert torch.equal(pruner(tokens).indices, wanted)


def test_a_still_video_spends_its_budget_on_the_first_frames() -> None:
    tokens = VideoTokens(make_features("still", (6, 5, 5, 64), seed=1).float())
    selection = method("forestprune", retention=0.2, exact=False)(tokens)
    assert (selection.indices // 25).bincount(minlength=6).tolist() == [12, 12, 5, 0, 0, 0]
    assert len(method("forestprune", retention=0.2)(tokens).indices) == 30


def test_one_frame_loses_the_later_token_of_the_most_similar_pairs() -> None:
    # Tokens 1 and 3 are nearly token 0, token 2 is like no other.
    features = torch.tensor([[1.0, 0, 0], [1, 0.02, 0], [0, 0, 1], [1, 0.03, 0]]).view(1, 2, 2, 3)
    everything = {"candidate_ratio": 1.0, "similarity": 1.0}
    kept = [method("forestprune", retention=r, **everything)(VideoTokens(features)).indices for r in (0.75, 0.5, 0.25)]
    # The cosine of 1 and 3 is the highest; then that of 0 and 1.
    assert [indices.tolist() for indices in kept] == [[0, 1, 2], [0, 2], [0]]


def test_zero_tokens_are_roots_and_are_removed_in_order() -> None:
    selection = method("forestprune", retention=0.25, exact=False)(VideoTokens(torch.zeros(2, 2, 4, 3)))
    # The first four tokens of a frame are candidates. All pairs are equally similar: the first one loses its second.
    assert selection.indices.tolist() == [0, 9, 10, 11]


def test_no_more_candidates_than_the_release_has() -> None:
    tokens = VideoTokens(make_features("random", (3, 2, 5, 16), seed=1).float())
    assert len(method("forestprune", retention=0.9, exact=False)(tokens).indices) == 15
    assert len(method("forestprune", retention=0.9)(tokens).indices) == 27
    assert len(method("forestprune", retention=0.01, exact=False)(tokens).indices) == 0
    assert len(method("forestprune", retention=0.5, exact=False)(VideoTokens(torch.ones(3, 1, 1, 4))).indices) == 0
    assert len(method("forestprune", retention=0.5)(VideoTokens(torch.ones(3, 1, 1, 4))).indices) == 2


def test_the_depth_comes_first_in_a_long_video() -> None:
    # Two scenes of equal frames. The release adds 1.1 to the depths in frame 1100, where the second one begins.
    features = torch.zeros(1200, 1, 2, 4)
    features[:1100, :, 0, 0] = features[1100:, :, 0, 1] = 1
    kept = {}
    for exactly in (True, False):
        pruner = method("forestprune", retention=4 / 2400, exact=exactly, similarity=0.9)
        kept[exactly] = pruner(VideoTokens(features)).indices.tolist()
    assert kept[True] == [0, 2, 2200, 2202]
    assert kept[False] == [0, 2, 4, 2200]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"candidate_ratio": 0}, r"candidate_ratio must be a finite number in \(0, 1\]"),
        ({"candidate_ratio": 1.5}, "candidate_ratio must be"),
        ({"similarity": -2}, r"similarity must be a finite number in \[-1, 1\]"),
        ({"similarity": True}, "similarity must be"),
        ({"closeness": 1.1}, r"closeness must be a finite number in \[0, 1\]"),
        ({"closeness": None}, "closeness must be"),
        ({"exact": 1}, "exact must be True or False"),
    ],
)
def test_bad_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^{message}") as error:
        method("forestprune", **params)
    assert "\n" not in str(error.value)
