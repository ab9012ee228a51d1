"""UniComp: a slow version written token by token, exact and released counts, and the edge cases."""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tangovlm import Selection, VideoTokens, method
from tangovlm.budget import count
from tangovlm.errors import MethodError
from tangovlm.methods.unicomp import NO_FRAME_FEATURES, NO_KEYS, release_shares
from tests.golden.cases import case_params, load
from tests.support.strategies import make_features, retentions, video_tokens

Floats = NDArray[np.float64]
COMMON = settings(max_examples=80, deadline=None, derandomize=True)
UNIQUENESS = {
    "frame_uniqueness": st.sampled_from((0.0, 0.005, 0.3, 1.0, 2.0)),
    "token_uniqueness": st.sampled_from((0.01, 0.2, 0.7, 1.0, 1.5)),
}


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-24))


def split(total: int, weights: list[float], caps: list[int]) -> list[int]:
    """``total`` in proportion to the weights; what exceeds a cap goes to the others, running totals are rounded."""
    open_parts, shares = set(range(len(caps))), [Fraction(0)] * len(caps)
    left = Fraction(min(total, sum(caps)))
    while open_parts:
        scale = left / sum(Fraction(weights[i]) for i in open_parts)
        full = {i for i in open_parts if scale * Fraction(weights[i]) >= caps[i]}
        for i in full or open_parts:
            shares[i] = Fraction(caps[i]) if full else scale * Fraction(weights[i])
            left -= shares[i]
        open_parts -= full or open_parts
    bounds = [int(sum(shares[:i], Fraction(1, 2))) for i in range(len(shares) + 1)]
    return [b - a for a, b in pairwise(bounds)]


@dataclass
class Slow:
    """The method token by token, in float64; features (T, L, D), keys (T, L, Dk), frame features (T, Dv)."""

    features: Floats
    keys: Floats | None
    frame_features: Floats | None
    retention: float
    exact: bool
    auto: bool = False
    frame_uniqueness: float = 0.005
    token_uniqueness: float = 0.2

    def __post_init__(self) -> None:
        self.frames, self.length, _ = self.features.shape
        self.total = count(self.retention, self.frames * self.length)
        if not self.exact:
            self.total = int(self.retention * self.frames * self.length)
        self.sizes = self.group()
        self.first = [sum(self.sizes[:g]) for g in range(len(self.sizes))]
        parts = [self.features[f : f + n] for f, n in zip(self.first, self.sizes, strict=True)]
        self.fused = np.stack([part.mean(axis=0) for part in parts])

    def group(self) -> list[int]:
        most = self.frames
        if not self.auto:
            most = int(1 / Fraction(str(self.retention))) if self.exact else int(1 / self.retention) + 1
        means, sizes, start = self.features.mean(axis=1), [1], 0
        for frame in range(1, self.frames):
            if 1 - cosine(means[frame], means[start]) <= self.frame_uniqueness and sizes[-1] < most:
                sizes[-1] += 1
            else:
                sizes.append(1)
                start = frame
        return sizes

    def shares(self) -> list[float]:
        rows = self.fused.mean(axis=2) if self.frame_features is None else self.frame_features[self.first]
        likeness = np.array([np.mean([cosine(a, b) for b in rows]) for a in rows])
        odds = np.exp((likeness.mean() - likeness) * np.sqrt(len(rows)))
        return [float(x) for x in odds / odds.sum()]

    def alike(self, group: int) -> list[list[bool]]:
        keys = self.group_keys(group)
        table = [[1 - cosine(a, b) < self.token_uniqueness for b in keys] for a in keys]
        for i, key in enumerate(keys):
            table[i][i] = table[i][i] or bool(key.any())
        return table

    def group_keys(self, group: int) -> Floats:
        keys: Floats = self.fused[group] if self.keys is None else self.keys[self.first[group]]
        return keys

    def ranking(self, group: int) -> tuple[list[int], list[int]]:
        """Candidates and struck-out tokens, the most unusual first."""
        keys, alike = self.group_keys(group), self.alike(group)
        usual = [float(np.mean([cosine(a, b) for b in keys])) for a in keys]
        chosen: list[int] = []
        struck: list[int] = []
        for i in sorted(range(self.length), key=lambda i: (usual[i], i)):
            (struck if any(alike[c][i] for c in chosen) else chosen).append(i)
        return chosen, struck

    def counts(self, found: list[int]) -> list[int]:
        groups, p = len(found), self.shares()
        cap = min(self.length, max(1, 2 * (self.total // groups)))
        if self.exact:
            weights = [max(1.0, float(np.round(x * 2**20))) for x in p]
            caps = [min(cap, n) for n in found]
            if sum(caps) < self.total:
                caps = found
            kept = split(self.total, weights, caps)
            more = split(self.total - sum(kept), weights, [self.length - n for n in found])
            return [a + b for a, b in zip(kept, more, strict=True)]
        if self.auto:
            n = [self.total // groups] * groups
        else:
            assume(all(abs(x * self.total - round(x * self.total)) > 1e-6 for x in p) or groups == 1)
            n = [int(x * self.total + 1e-9) for x in p]
            over = [x > cap for x in n]
            n = [min(x, cap) for x in n]
            while any(over) and not all(over):
                extra = max(0, self.total - sum(n)) // over.count(False)
                if extra < 1:
                    break
                n = [x + (0 if o else extra) for x, o in zip(n, over, strict=True)]
                over = [x > cap for x in n]
                n = [min(x, cap) for x in n]
        if sum(found) > sum(n):
            spare = sum(max(0, x - m) for x, m in zip(n, found, strict=True))
            takers = [m >= x for x, m in zip(n, found, strict=True)]
            n = [x + (spare // takers.count(True) if t else 0) for x, t in zip(n, takers, strict=True)]
        return [min(x, m) for x, m in zip(n, found, strict=True)]

    def run(self) -> tuple[dict[int, Floats], list[int]]:
        """Grid index to value of the slots, and the grid index that each token goes into or -1."""
        values: dict[int, Floats] = {}
        home: list[list[int]] = []
        if not self.exact and not self.auto and len(self.sizes) * self.length <= self.total:
            for f, fused in zip(self.first, self.fused, strict=True):
                values |= {f * self.length + i: value for i, value in enumerate(fused)}
                home.append([f * self.length + i for i in range(self.length)])
        else:
            ranked = [self.ranking(g) for g in range(len(self.sizes))]
            counts = self.counts([len(chosen) for chosen, _ in ranked])
            for g, (chosen, struck) in enumerate(ranked):
                home.append(self.fill(g, sorted([*chosen, *struck][: counts[g]]), values))
        return values, [
            slot for slots, size in zip(home, self.sizes, strict=True) for _ in range(size) for slot in slots
        ]

    def fill(self, group: int, kept: list[int], values: dict[int, Floats]) -> list[int]:
        alike, keys, own = self.alike(group), self.group_keys(group), self.fused[group]
        start = self.first[group] * self.length
        for i in kept:
            members = [j for j in range(self.length) if alike[i][j]]
            mean = own[members].mean(axis=0) if members else np.zeros_like(own[i])
            values[start + i] = (mean + own[i]) / 2 if members or not self.exact else own[i]
        home = [-1] * self.length
        for j in range(self.length):
            near = [i for i in kept if alike[i][j]]
            if j in kept:
                home[j] = start + j
            elif near:
                home[j] = start + max(near, key=lambda i: (cosine(keys[i], keys[j]), -i))
        return home


@st.composite
def videos(draw: st.DrawFn, **options: Any) -> VideoTokens:
    """A small video, with or without keys and frame features."""
    tokens = draw(video_tokens(**options))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shape, dtype = tokens.features.shape, tokens.features.dtype
    scene = torch.randn(1, *shape[1:3], 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(*shape[:3], 6, generator=generator, dtype=torch.float64)
    keys = (scene + draw(st.sampled_from((0.05, 1.0))) * noise).to(dtype)
    frame_features = torch.randn(shape[0], 5, generator=generator, dtype=torch.float64).to(dtype)
    return replace(
        tokens,
        keys=keys if draw(st.booleans()) else None,
        frame_features=frame_features if draw(st.booleans()) else None,
    )


settings_of = st.fixed_dictionaries({"retention": retentions}, optional=UNIQUENESS)


def assert_valid(tokens: VideoTokens, selection: Selection) -> None:
    kept = len(selection.indices)
    assert bool((selection.indices.diff() > 0).all())
    assert selection.features.shape == (kept, tokens.dim)
    assert selection.features.dtype == tokens.features.dtype
    assert bool(selection.features.isfinite().all())
    assert sum(selection.segments) == tokens.frames
    sources = selection.sources.flatten()
    assert sources.shape == (tokens.count,)
    assert torch.equal(sources[selection.indices], torch.arange(kept))
    assert -1 <= int(sources.min()) <= int(sources.max()) < max(kept, 1)


def assert_same(a: Selection, b: Selection) -> None:
    for name in ("indices", "features", "sources"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert (a.segments, a.notes) == (b.segments, b.notes)


@COMMON
@given(videos(), settings_of)
def test_exact_count_for_every_input(tokens: VideoTokens, params: dict[str, Any]) -> None:
    signals = [x for x in (tokens.features, tokens.keys, tokens.frame_features) if x is not None]
    before = [x.clone() for x in signals]
    selection = method("unicomp", **params)(tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, signals, strict=True))
    assert len(selection.indices) == count(params["retention"], tokens.count)
    assert_valid(tokens, selection)
    assert_same(selection, method("unicomp", **params)(tokens))
    if params["retention"] == 1:
        assert torch.equal(selection.features, tokens.features.flatten(0, 2))


@COMMON
@given(videos(), settings_of, st.booleans())
def test_release_keeps_at_most_its_budget(tokens: VideoTokens, params: dict[str, Any], auto: bool) -> None:
    pruner = method("unicomp", exact=False, auto_compression=auto, **params)
    selection = pruner(tokens)
    assert len(selection.indices) <= int(params["retention"] * tokens.count)
    if len(selection.indices):
        assert_valid(tokens, selection)
    assert_same(selection, pruner(tokens))


@COMMON
@given(
    videos(kinds=("random", "scenes"), dtypes=(torch.float64,), max_side=3, min_dim=4),
    settings_of,
    st.sampled_from(("exact", "release", "auto")),
)
def test_equals_the_slow_version(tokens: VideoTokens, params: dict[str, Any], kind: str) -> None:
    assume(kind == "auto" or params["retention"] < 1)
    # Two tokens are equally unusual, and rounding decides.
    assume(tokens.height * tokens.width != 2)
    slow = Slow(
        np.asarray(tokens.features.flatten(1, 2).numpy()),
        None if tokens.keys is None else np.asarray(tokens.keys.flatten(1, 2).numpy()),
        None if tokens.frame_features is None else np.asarray(tokens.frame_features.numpy()),
        exact=kind == "exact",
        auto=kind == "auto",
        **params,
    )
    values, home = slow.run()
    selection = method("unicomp", exact=kind == "exact", auto_compression=kind == "auto", **params)(tokens)
    assert selection.segments == tuple(slow.sizes)
    assert selection.indices.tolist() == sorted(values)
    slot = {index: k for k, index in enumerate(sorted(values))}
    assert selection.sources.flatten().tolist() == [slot.get(index, -1) for index in home]
    if values:
        expected = np.stack([values[index] for index in sorted(values)])
        np.testing.assert_allclose(selection.features.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("path", case_params(("unicomp",)))
def test_groups_keep_as_many_as_recorded(path: Path) -> None:
    case, params, tokens = load(path)
    selection = method("unicomp", exact=False, **params)(tokens)
    frames = (selection.indices // (tokens.height * tokens.width)).bincount(minlength=tokens.frames)
    first = torch.tensor([0, *selection.segments]).cumsum(0)[:-1]
    assert frames[first].tolist() == case["kept_per_group"].tolist()


def test_shares_of_the_release() -> None:
    # Capped at twice the mean, 2 * (20 // 4); what is left goes to the others in equal parts, rounded down.
    scores = torch.tensor([-3.0, 1.0, 1.0, 1.0])
    assert release_shares(scores, 20, 50) == [10, 3, 3, 3]
    assert release_shares(torch.zeros(4), 20, 50) == [5, 5, 5, 5]
    assert release_shares(torch.zeros(1), 20, 8) == [8]
    assert release_shares(torch.zeros(3), 0, 8) == [0, 0, 0]


def still(frames: int = 12, side: int = 6, dim: int = 48) -> VideoTokens:
    return VideoTokens(make_features("still", (frames, side, side, dim), seed=3).float())


def test_groups_of_a_still_video() -> None:
    tokens = still()
    assert method("unicomp", retention=0.25)(tokens).segments == (4, 4, 4)
    released = method("unicomp", retention=0.25, exact=False)(tokens)
    assert released.segments == (5, 5, 2)
    # All tokens of all groups are as many as the budget, so that they are kept unchanged.
    assert len(released.indices) == 3 * 36
    torch.testing.assert_close(released.features, tokens.features[0].flatten(0, 1).repeat(3, 1))
    assert method("unicomp", retention=0.25, exact=False, auto_compression=True)(tokens).segments == (12,)


def test_alike_tokens_of_a_frame_leave_the_release_below_its_budget() -> None:
    features = make_features("random", (1, 2, 3, 16), seed=5).float().repeat(10, 3, 2, 1)
    tokens = VideoTokens(features)
    for exactly, kept in ((True, 54), (False, 6 * 2)):
        selection = method("unicomp", retention=0.15, exact=exactly)(tokens)
        assert len(selection.indices) == kept
        # A mean of equal tokens is one of them.
        torch.testing.assert_close(selection.features, features.flatten(0, 2)[selection.indices])
        assert int(selection.sources.min()) == 0


def test_one_frame_and_few_tokens() -> None:
    tokens = VideoTokens(make_features("random", (1, 3, 5, 32), seed=1).float())
    for retention in (0.01, 0.3, 0.99):
        selection = method("unicomp", retention=retention)(tokens)
        assert len(selection.indices) == count(retention, 15)
        assert selection.segments == (1,)
    # The release has no minimum of one token.
    assert len(method("unicomp", retention=0.05, exact=False)(tokens).indices) == 0


@pytest.mark.parametrize(("exactly", "factor"), [(True, 1.0), (False, 0.5)])
def test_a_token_with_a_zero_key_is_like_no_other(exactly: bool, factor: float) -> None:
    features = make_features("random", (1, 2, 3, 16), seed=2).float()
    tokens = VideoTokens(features, keys=torch.zeros(1, 2, 3, 4))
    selection = method("unicomp", retention=0.5, exact=exactly)(tokens)
    assert selection.indices.tolist() == [0, 1, 2]
    torch.testing.assert_close(selection.features, factor * features.flatten(0, 2)[:3], rtol=0, atol=0)


def test_a_zero_video_has_no_equal_frames() -> None:
    selection = method("unicomp", retention=0.4)(VideoTokens(torch.zeros(3, 2, 2, 4)))
    assert selection.segments == (1, 1, 1)
    assert len(selection.indices) == 5


def test_a_kept_token_is_averaged_with_those_like_it() -> None:
    # Tokens 0 and 1 are alike, 2 is like neither; their keys are one-hot.
    keys = torch.eye(2)[[0, 0, 1]].view(1, 1, 3, 2)
    tokens = VideoTokens(torch.tensor([4.0, 8.0, 1.0]).view(1, 1, 3, 1), keys=keys)
    selection = method("unicomp", retention=0.6)(tokens)
    assert selection.indices.tolist() == [0, 2]
    assert selection.features.flatten().tolist() == [(6 + 4) / 2, 1]
    assert selection.sources.flatten().tolist() == [0, 0, 1]
    assert method("unicomp", retention=1.0)(tokens).features.flatten().tolist() == [4, 8, 1]


def test_adaptive_counts() -> None:
    pruner = method("unicomp", adaptive=True, retention=1.0)
    assert pruner.adaptive
    assert not pruner.is_identity
    assert pruner == method("unicomp", retention=1.0, exact=False, auto_compression=True)
    assert not method("unicomp").adaptive
    assert method("unicomp", retention=1.0).is_identity
    features = make_features("random", (1, 2, 3, 16), seed=5).float().repeat(10, 3, 2, 1)
    assert len(pruner(VideoTokens(features)).indices) == 6


def test_what_stands_in_for_missing_signals_is_noted() -> None:
    tokens = still(frames=4)
    given_them = replace(tokens, keys=torch.ones(4, 6, 6, 3), frame_features=torch.ones(4, 3))
    pruner = method("unicomp")
    assert pruner(tokens).notes == (NO_FRAME_FEATURES, NO_KEYS)
    assert pruner(replace(given_them, keys=None)).notes == (NO_KEYS,)
    assert pruner(given_them).notes == ()
    assert method("unicomp", retention=1.0)(tokens).notes == ()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"frame_uniqueness": -0.1}, r"frame_uniqueness must be a finite number in \[0, 2\]"),
        ({"frame_uniqueness": "low"}, "frame_uniqueness must be"),
        ({"token_uniqueness": 0}, r"token_uniqueness must be a finite number in \(0, 2\]"),
        ({"token_uniqueness": float("nan")}, "token_uniqueness must be"),
        ({"auto_compression": "False", "exact": False}, "auto_compression must be True or False"),
        ({"auto_compression": True}, "auto_compression keeps as many tokens as the content needs: pass exact=False"),
    ],
)
def test_bad_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^{message}") as error:
        method("unicomp", **params)
    assert "\n" not in str(error.value)
