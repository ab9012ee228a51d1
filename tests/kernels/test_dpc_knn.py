"""The torch variant of DPC-KNN against plain loops."""

import pytest
import torch
from torch import Tensor

from tangovlm.kernels.dpc_knn import Peaks, dpc_knn
from tangovlm.kernels.dpc_knn import torch as variant
from tangovlm.kernels.dpc_knn.reference import dpc_knn_reference


def points(batch: int, n: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(batch, n, dim, generator=generator, dtype=torch.float64), dim=-1)


def assert_reference(found: Peaks, x: Tensor, centers: int, neighbors: int, include_self: bool = False) -> None:
    for item, chosen, order, labels in zip(x.tolist(), *(part.tolist() for part in found), strict=True):
        assert (chosen, order, labels) == dpc_knn_reference(item, centers, neighbors, include_self=include_self)


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("neighbors", [1, 4, 7, 100])
@pytest.mark.parametrize(("n", "centers"), [(1, 1), (2, 1), (2, 2), (9, 4), (23, 22), (40, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(n: int, centers: int, neighbors: int, include_self: bool, dtype: torch.dtype) -> None:
    x = points(3, n, 6, seed=n).to(dtype)
    assert_reference(dpc_knn(x, centers, neighbors, include_self=include_self), x, centers, neighbors, include_self)


@pytest.mark.parametrize("scale", [1e-6, 30.0, 300.0])
def test_points_need_not_be_unit_vectors(scale: float) -> None:
    """exp(-d^2) would be one or zero for all of them."""
    x = points(2, 30, 5, seed=4) * scale
    assert_reference(dpc_knn(x, 6, 5), x, 6, 5)


def test_ties_go_to_the_lowest_index() -> None:
    same = torch.full((1, 12, 5), 0.3)
    found = dpc_knn(same, 4, 3)
    assert found.centers.tolist() == found.order.tolist() == [[0, 1, 2, 3]]
    assert found.labels.tolist() == [[0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert dpc_knn(torch.zeros(1, 5, 3), 2, 3).centers.tolist() == [[0, 1]]
    # Three pairs of equal points: the first of each pair leads it.
    pairs = points(1, 3, 97, seed=2).repeat_interleave(2, dim=1).float()
    assert dpc_knn(pairs, 3, 1).centers.tolist() == [[0, 2, 4]]
    assert dpc_knn(pairs, 3, 1).labels.tolist() == [[0, 0, 1, 1, 2, 2]]


def test_equal_points_have_equal_distances_however_they_are_computed() -> None:
    x = points(1, 61, 333, seed=9).float()
    x[:, 17] = x[:, 60] = x[:, 0]
    distances = next(variant._Distances(x).tiles())[1]
    assert torch.equal(distances, distances.mT)
    assert torch.equal(distances[:, 0], distances[:, 60])
    assert torch.equal(distances[:, 0], distances[:, 17])
    assert float(distances[0, 0, 60]) == 0


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = points(3, 50, 40, seed=1).float()
    whole = dpc_knn(x, 13, 7)
    for elements in (50 * 50, 50 * 7, 1):
        monkeypatch.setattr(variant, "_TILE_ELEMENTS", elements)
        for a, b in zip(whole, dpc_knn(x, 13, 7), strict=True):
            assert torch.equal(a, b)


def test_batch_order_changes_nothing() -> None:
    x = points(6, 33, 20, seed=5).float()
    shuffle = torch.tensor([3, 0, 5, 1, 4, 2])
    for a, b in zip(dpc_knn(x, 9, 7), dpc_knn(x[shuffle], 9, 7), strict=True):
        assert torch.equal(a[shuffle], b)
    alone = dpc_knn(x[2:3], 9, 7)
    assert torch.equal(alone.labels[0], dpc_knn(x, 9, 7).labels[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    x = points(2, 300, 96, seed=6).float()
    for a, b in zip(dpc_knn(x, 40, 7), dpc_knn(x.cuda(), 40, 7), strict=True):
        assert torch.equal(a, b.cpu())
