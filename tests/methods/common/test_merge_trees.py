"""Trees over time against a version that follows the tokens one by one."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tangovlm.methods.common.merge_trees import grow_trees
from tangovlm.methods.common.similarity import normalize
from tests.support.strategies import make_features


def slow_trees(
    features: Tensor, free: Tensor, segments: list[int], least: list[int], threshold: float, subtree_counts: bool
) -> tuple[dict[int, list[float]], dict[int, int]]:
    """What stands at each root, and the root of every token."""
    frames, length, _ = features.shape
    unit = (features / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)).numpy()
    parent: dict[int, int] = {}
    start = 0
    for size, number in zip(segments, least, strict=True):
        links = []
        for t in range(start + 1, start + size):
            for i in range(length):
                above = [(float(unit[t, i] @ unit[t - 1, j]), -j) for j in range(length) if free[t - 1, j]]
                if free[t, i] and above:
                    best, j = max(above)
                    links.append((best, t * length + i, (t - 1) * length - j))
        merging = [link for link in links if link[0] > threshold]
        surplus = size * length - number
        if surplus < 1:
            merging = []
        elif len(merging) > surplus:
            limit = sorted((link[0] for link in links), reverse=True)[surplus - 1]
            merging = [link for link in links if link[0] > max(limit, -1 + 1e-6)]
        parent.update({token: above for _, token, above in merging})
        start += size

    def root(token: int) -> int:
        return root(parent[token]) if token in parent else token

    roots = {token: root(token) for token in range(frames * length)}
    values = {}
    for token in set(roots.values()):
        members = [features.flatten(0, 1)[other] for other, top in roots.items() if top == token]
        children = sum(above == token for above in parent.values())
        values[token] = (sum(members) / (len(members) if subtree_counts else 1 + children)).tolist()
    return values, roots


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 6),
    st.sampled_from(("random", "scenes")),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from((-1.0, 0.0, 0.5, 0.8)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_trees(
    segments: list[int],
    length: int,
    kind: str,
    share_free: float,
    share_kept: float,
    threshold: float,
    subtree_counts: bool,
    seed: int,
) -> None:
    features = make_features(kind, (sum(segments), 1, length, 6), seed)[:, 0]
    free = torch.rand(features.shape[:2], generator=torch.Generator().manual_seed(seed)) < share_free
    least = [round(size * length * share_kept) for size in segments]
    before = features.clone()
    trees = grow_trees(features, normalize(features), free, segments, least, threshold, subtree_counts=subtree_counts)
    assert torch.equal(features, before)
    values, roots = slow_trees(features, free, segments, least, threshold, subtree_counts)
    assert trees.roots.flatten().tolist() == [roots[token] for token in range(free.numel())]
    is_root = ~trees.merged.flatten()
    assert is_root.nonzero().flatten().tolist() == sorted(values)
    expected = np.array([values[token] for token in sorted(values)])
    np.testing.assert_allclose(trees.values.flatten(0, 1)[is_root].numpy(), expected, atol=1e-12)
    start = 0
    for size, number in zip(segments, least, strict=True):
        left = int((~trees.merged[start : start + size]).sum())
        assert left >= number
        start += size


def test_a_chain_is_a_mean_or_the_sum_that_the_release_makes_of_it() -> None:
    features = torch.ones(6, 1, 3, dtype=torch.float64)
    free = torch.ones(6, 1, dtype=torch.bool)
    for subtree_counts, value in ((True, 1.0), (False, 3.0)):
        trees = grow_trees(features, normalize(features), free, [6], [0], 0.8, subtree_counts=subtree_counts)
        # Equal cosines: raised to their value the threshold would merge none; it need not be raised.
        assert trees.roots.flatten().tolist() == [0] * 6
        assert trees.values[0, 0].tolist() == [value] * 3
