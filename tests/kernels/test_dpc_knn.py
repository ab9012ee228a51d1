"""DPC-KNN in PyTorch against plain loops: exact distances, float32 products that are settled, tiles, ragged pools."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tangovlm.bench.memory import TensorBytes
from tangovlm.kernels.dpc_knn import Peaks, dpc_knn, dpc_knn_ragged, pytorch, settle, tiles
from tangovlm.kernels.dpc_knn.reference import dpc_knn_reference
from tangovlm.kernels.dpc_knn.tiles import Tiles, exact_squared, grid_scale


def points(batch: int, n: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(batch, n, dim, generator=generator, dtype=torch.float64), dim=-1)


def ordered(x: Tensor, centers: int, neighbors: int, include_self: bool = False) -> Peaks:
    """With the order, after a look that the rest is the same without."""
    found = dpc_knn(x, centers, neighbors, include_self=include_self, ordered=True)
    without = dpc_knn(x, centers, neighbors, include_self=include_self)
    assert torch.equal(without.centers, found.centers)
    assert torch.equal(without.labels, found.labels)
    return found


def assert_reference(found: Peaks, x: Tensor, centers: int, neighbors: int, include_self: bool = False) -> None:
    for item, chosen, order, labels in zip(x.tolist(), *(part.tolist() for part in found), strict=True):
        assert (chosen, order, labels) == dpc_knn_reference(item, centers, neighbors, include_self=include_self)


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("neighbors", [1, 4, 7, 100])
@pytest.mark.parametrize(("n", "centers"), [(1, 1), (2, 1), (2, 2), (9, 4), (23, 22), (40, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(n: int, centers: int, neighbors: int, include_self: bool, dtype: torch.dtype) -> None:
    x = points(3, n, 6, seed=n).to(dtype)
    assert_reference(ordered(x, centers, neighbors, include_self), x, centers, neighbors, include_self)


@pytest.mark.parametrize("scale", [1e-6, 30.0, 300.0])
def test_points_need_not_be_unit_vectors(scale: float) -> None:
    """exp(-d^2) would be one or zero for all of them."""
    x = points(2, 30, 5, seed=4) * scale
    assert_reference(ordered(x, 6, 5), x, 6, 5)


def test_ties_go_to_the_lowest_index() -> None:
    same = torch.full((1, 12, 5), 0.3)
    found = ordered(same, 4, 3)
    assert found.centers.tolist() == found.order.tolist() == [[0, 1, 2, 3]]
    assert found.labels.tolist() == [[0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert ordered(torch.zeros(1, 5, 3), 2, 3).centers.tolist() == [[0, 1]]
    # Three pairs of equal points: the first of each pair leads it.
    pairs = points(1, 3, 97, seed=2).repeat_interleave(2, dim=1).float()
    assert ordered(pairs, 3, 1).centers.tolist() == [[0, 2, 4]]
    assert ordered(pairs, 3, 1).labels.tolist() == [[0, 0, 1, 1, 2, 2]]


def test_equal_points_have_equal_distances_however_they_are_computed() -> None:
    x = points(1, 61, 333, seed=9).float()
    x[:, 17] = x[:, 60] = x[:, 0]
    scale = grid_scale(torch.linalg.vector_norm(x, dim=-1).amax(dim=1))
    distances = exact_squared(x, x, scale)
    assert torch.equal(distances, distances.mT)
    assert torch.equal(distances[:, 0], distances[:, 60])
    assert torch.equal(distances[:, 0], distances[:, 17])
    assert float(distances[0, 0, 60]) == 0
    some = torch.tensor([3, 0, 60])
    assert torch.equal(exact_squared(x[:, some], x, scale), distances[:, some])


def test_distances_on_the_grid_are_exact() -> None:
    """Norms of 1.3 * 2^26 steps, whose squares are odd numbers near 2^53."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(9, generator=generator, dtype=torch.float64), dim=0)
    x = (direction * 1.3 * 2**26).round() + torch.randint(-3, 4, (1, 6, 9), generator=generator)
    found = exact_squared(x, x, torch.ones(1, dtype=torch.float64))
    expected = [[sum((int(p) - int(q)) ** 2 for p, q in zip(a, b, strict=True)) for b in x[0]] for a in x[0]]
    assert found[0].tolist() == expected


def lattice(batch: int, n: int, dim: int, seed: int) -> Tensor:
    """Points of few kinds: most distances have equals, and many points have duplicates."""
    return torch.randint(0, 3, (batch, n, dim), generator=torch.Generator().manual_seed(seed)).float()


LIMITS = (
    {},
    {"tiles._SPLIT_FROM": 1, "tiles._SIDE": 9},
    {"tiles._SIDE": 9, "tiles._SPLIT_FROM": 1, "tiles.KEPT_ELEMENTS": 1, "pytorch.KEPT_ELEMENTS": 1},
    {"tiles.POINT_ELEMENTS": 1, "tiles._SIDE": 20, "tiles.KEPT_ELEMENTS": 1, "pytorch._RUN_ELEMENTS": 1},
    {"settle._HELD_ELEMENTS": 1},
    {"settle._HELD_ELEMENTS": 300, "pytorch._RUN_ELEMENTS": 5000},
)


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: ",".join(limits) or "none")
@pytest.mark.parametrize("kind", ["spread", "lattice", "close", "duplicates"])
def test_limits_of_memory_change_nothing(limits: dict[str, int], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = lattice(3, 50, 5, 1) if kind == "lattice" else points(3, 50, 40, seed=1).float()
    if kind == "close":
        x = x[:, :1] + 1e-3 * x
    if kind == "duplicates":
        x[:, 25:] = x[:, :25].clone()
    exact = _exact(x, 13, 7, False)
    for name, value in limits.items():
        module, _, constant = name.partition(".")
        monkeypatch.setattr({"tiles": tiles, "pytorch": pytorch, "settle": settle}[module], constant, value)
    for found, wanted in zip(ordered(x, 13, 7), exact, strict=True):
        assert torch.equal(found, wanted)
    for found, wanted in zip(_exact(x, 13, 7, False), exact, strict=True):
        assert torch.equal(found, wanted)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 2**31), st.integers(1, 9), st.booleans(), st.data())
def test_what_rounding_leaves_open_is_settled(
    n: int, dim: int, seed: int, neighbors: int, include_self: bool, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(("spread", "lattice", "close", "shifted")))
    x = lattice(2, n, dim, seed) if kind == "lattice" else points(2, n, dim, seed).float()
    if kind == "close":
        x = x[:, :1] + 1e-4 * x
    if kind == "shifted":
        x = x + 30
    centers = data.draw(st.integers(1, n))
    exact = _exact(x, centers, neighbors, include_self)
    for found, wanted in zip(ordered(x, centers, neighbors, include_self), exact, strict=True):
        assert torch.equal(found, wanted)
    if kind == "spread" and dim > 4:
        assert_reference(exact, x, centers, neighbors, include_self)


def _exact(x: Tensor, centers: int, neighbors: int, include_self: bool) -> Peaks:
    """All distances exact, nothing to settle."""
    flat = x.flatten(0, 1)
    numbers = torch.arange(len(flat)).view(x.shape[:2])
    return pytorch._cluster(Tiles(lambda some: flat[some], numbers, exact=True), centers, neighbors, include_self, True)


@pytest.mark.parametrize("dim", [3, 64, 896, 3584])
@pytest.mark.parametrize("kind", ["spread", "close", "long", "one direction"])
def test_the_error_of_fast_distances_is_bounded(dim: int, kind: str) -> None:
    x = points(2, 120, dim, seed=dim).float()
    if kind == "close":
        x = x[:, :1] + 0.01 * x
    if kind == "long":
        x = x * 57
    if kind == "one direction":
        x = 1 - 0.03 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    flat, numbers = x.flatten(0, 1), torch.arange(240).view(2, 120)
    fast, exact = (Tiles(lambda some: flat[some], numbers, exact=exact) for exact in (False, True))
    for (_, _, a), (_, _, b) in zip(fast, exact, strict=True):
        worst = (a - b).abs().amax(dim=(1, 2))
        assert bool((worst > 0).all())
        assert bool((worst <= fast.error).all())


@pytest.mark.parametrize("setting", ["legacy", "matmul", "everything"])
def test_products_of_fewer_bits_are_not_relied_on(setting: str) -> None:
    """Setting them is the right of a program that loads a model; it must not change what is kept."""
    numbers = torch.arange(6).view(1, 6)
    flat = points(1, 6, 4)[0].float()
    assert not Tiles(lambda some: flat[some], numbers, exact=False).exact
    try:
        if setting == "legacy":
            torch.set_float32_matmul_precision("medium")
        elif setting == "matmul":
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        else:
            torch.backends.fp32_precision = "tf32"
        assert Tiles(lambda some: flat[some], numbers, exact=False).exact
    finally:
        torch.backends.fp32_precision = "none"
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
    assert not Tiles(lambda some: flat[some], numbers, exact=False).exact


def test_few_scores_are_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the fast distances would be of no use."""
    settled = []
    exact_scores = settle._exact_scores

    def counting(tiles: Tiles, item: int, some: Tensor, *rest: object) -> Tensor | None:
        settled.append(len(some))
        return exact_scores(tiles, item, some, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(settle, "_exact_scores", counting)
    x = points(8, 180, 512, seed=3).float()
    dpc_knn(x, 9, 7)
    assert sum(settled) < 16
    ordered(lattice(1, 60, 3, 0), 9, 7)
    assert settled[-1] > 9


def test_ragged_pools_are_clustered_each_by_itself() -> None:
    sizes, centers = [5, 5, 1, 30, 30, 30, 2], [2, 2, 1, 4, 4, 7, 2]
    x = points(1, sum(sizes), 24, seed=8)[0].float()
    found = dpc_knn_ragged(lambda some: x[some], sizes, centers, 3, device=x.device, ordered=True)
    point, cluster = 0, 0
    for n, m in zip(sizes, centers, strict=True):
        chosen, order, labels = dpc_knn_reference(x[point : point + n].tolist(), m, 3)
        assert found.centers[cluster : cluster + m].tolist() == [point + i for i in chosen]
        assert found.order[cluster : cluster + m].tolist() == [point + i for i in order]
        assert found.labels[point : point + n].tolist() == [cluster + label for label in labels]
        point, cluster = point + n, cluster + m


def test_no_large_matrix_is_made_of_a_large_pool() -> None:
    """Neither n x n nor n x m: 9,000 points around 4,500 centres would be 162 MB."""
    x = points(1, 9000, 8, seed=2)[0].float()
    with TensorBytes() as made:
        dpc_knn_ragged(lambda some: x[some], [len(x)], [len(x) // 2], 7, device=x.device)
    assert made.peak < 80e6


def test_batch_order_changes_nothing() -> None:
    x = points(6, 33, 20, seed=5).float()
    shuffle = torch.tensor([3, 0, 5, 1, 4, 2])
    for a, b in zip(ordered(x, 9, 7), ordered(x[shuffle], 9, 7), strict=True):
        assert torch.equal(a[shuffle], b)
    alone = ordered(x[2:3], 9, 7)
    assert torch.equal(alone.labels[0], ordered(x, 9, 7).labels[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    x = points(2, 300, 96, seed=6).float()
    for a, b in zip(ordered(x, 40, 7), ordered(x.cuda(), 40, 7), strict=True):
        assert torch.equal(a, b.cpu())
