"""Kernels in Triton against plain loops: on a CUDA device, or on Triton's interpreter where there is none."""

import importlib
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm.kernels.blend.reference import blend_reference
from tangovlm.kernels.dpc_knn.reference import dpc_knn_reference
from tangovlm.kernels.st_rope import Tables
from tangovlm.kernels.st_rope.reference import rotate_reference
from tangovlm.kernels.token_runs.reference import find_runs_reference
from tangovlm.tokens import Pruner
from tests.support.strategies import make_features

triton = pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and isinstance(triton.language.cdiv, triton.JITFunction):
    pytest.skip("Triton was imported without its interpreter: run tests/kernels by itself", allow_module_level=True)
dpc_knn = pytest.importorskip("tangovlm.kernels.dpc_knn.triton")
blend = pytest.importorskip("tangovlm.kernels.blend.triton")
st_rope = pytest.importorskip("tangovlm.kernels.st_rope.triton")
token_runs = pytest.importorskip("tangovlm.kernels.token_runs.triton")


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if request.param == "interpreter" and torch.cuda.is_available():
        pytest.skip("kernels are compiled for the CUDA device")
    return torch.device("cuda" if request.param == "cuda" else "cpu")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few points fill several tiles; shapes that a device can take too."""
    monkeypatch.setattr(dpc_knn, "_BLOCK", 16)
    monkeypatch.setattr(dpc_knn, "_CHANNELS", 32)
    monkeypatch.setattr(dpc_knn, "_TILING", {**dpc_knn._TILING, "BLOCK": 16, "CHANNELS": 32})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(*shape: int, below: int, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def expected(
    points: Tensor, sizes: Sequence[int], centers: Sequence[int], neighbors: int, include_self: bool = False
) -> list[list[int]]:
    """The reference, one group after another."""
    found: list[list[int]] = [[], [], []]
    cluster = 0
    for group, wanted in zip(points.split(list(sizes)), centers, strict=True):
        first = len(found[2])
        chosen, order, labels = dpc_knn_reference(group.tolist(), wanted, neighbors, include_self=include_self)
        found[0] += [first + number for number in chosen]
        found[1] += [first + number for number in order]
        found[2] += [cluster + label for label in labels]
        cluster += wanted
    return found


def clusters(
    points: Tensor, sizes: Sequence[int], centers: Sequence[int], neighbors: int, include_self: bool = False
) -> list[list[int]]:
    found = dpc_knn.dpc_knn_triton(points.__getitem__, sizes, centers, neighbors, include_self, points.device)
    return [part.tolist() for part in found]


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize(
    ("sizes", "centers", "neighbors", "dim"),
    [
        ([1], [1], 1, 1),
        ([2, 1, 3], [2, 1, 1], 4, 3),
        ([17, 50, 1, 16], [17, 6, 1, 1], 7, 33),
        ([40, 9], [3, 4], 32, 70),
    ],
)
def test_ragged_groups(
    device: torch.device, small_tiles: None, sizes: list[int], centers: list[int], neighbors: int, dim: int,
    include_self: bool,
) -> None:  # fmt: skip
    x = noise(sum(sizes), dim, seed=dim).to(device)
    settings = (sizes, centers, neighbors)
    assert clusters(x, *settings, include_self=include_self) == expected(x, *settings, include_self=include_self)


@pytest.mark.parametrize("neighbors", [1, 4])
def test_ties(device: torch.device, small_tiles: None, neighbors: int) -> None:
    """Points on a line at whole distances, many of them equal: nearly everything is tied."""
    place = whole(45, below=14, seed=3).float()
    x = torch.zeros(45, 40)
    x[:, 0], x[:, 17], x[:, 39] = place, 2 * place, -2 * place
    settings = ([30, 15], [9, 15], neighbors)
    assert clusters(x.to(device), *settings) == expected(x, *settings)


def test_equal_points(device: torch.device, small_tiles: None) -> None:
    """Copies of a few points without round coordinates, wherever in a tile they are; zeros in the other group."""
    x = torch.cat([noise(5, 77)[whole(40, below=5)], torch.zeros(6, 77)]).to(device)
    settings = ([40, 6], [7, 3], 3)
    found = clusters(x, *settings)
    assert found == expected(x, *settings)
    assert found[0][7:] == [40, 41, 42]
    assert found[2][40:] == [7, 8, 9, 7, 7, 7]


@pytest.mark.parametrize("scale", [1e-12, 3e4])
def test_each_group_has_a_scale_of_its_own(device: torch.device, small_tiles: None, scale: float) -> None:
    x = noise(40, 20, seed=1)
    x[:20] *= scale
    settings = ([20, 20], [4, 4], 5)
    found = clusters(x.to(device), *settings)
    assert found == expected(x, *settings)
    assert [part[: len(part) // 2] for part in found] == clusters(x[:20].to(device), [20], [4], 5)


def test_whole_tiles(device: torch.device) -> None:
    """The tiles that a device gets, the last ones partly filled, the columns shared between programs."""
    x = torch.nn.functional.normalize(noise(139, 130, seed=2), dim=1)
    settings = ([130, 9], [70, 2], 7)
    assert clusters(x.to(device), *settings) == expected(x, *settings)


def test_columns_may_be_shared_or_not(device: torch.device, small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(60, 8, seed=5).to(device)
    shared = clusters(x, [60], [20], 6)
    monkeypatch.setattr(dpc_knn, "_PROGRAMS", 1)
    assert clusters(x, [60], [20], 6) == shared


def test_points_may_come_in_slabs(device: torch.device, small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(40, 8, seed=5).to(device)
    at_once = clusters(x, [11, 29], [3, 8], 6)
    monkeypatch.setattr(dpc_knn, "_SLAB_ELEMENTS", 9 * 8)
    assert clusters(x, [11, 29], [3, 8], 6) == at_once


def test_what_the_kernels_take(device: torch.device) -> None:
    """More neighbours or channels than registers and sums can hold are left to the other variant."""
    assert dpc_knn.supports(torch.empty(0, 3584, device=device), 32)
    assert not dpc_knn.supports(torch.empty(0, 3584, device=device), 33)
    assert not dpc_knn.supports(torch.empty(0, 3584, device=device, dtype=torch.float64), 7)
    assert not dpc_knn.supports(torch.empty(0, (1 << 15) + 1, device=device), 7)


def test_points_are_put_on_the_grid(device: torch.device) -> None:
    """Three signed bytes hold every coordinate to half a step, the largest included, and norms are exact."""
    edge = torch.tensor([1.0, -1.0, 0.99999994, 0.9921875, -0.99609375, 1.9999999, 1e-7, 0.0, 0.5])
    for largest in (1.0, 0.99999994, 1.9999999, 1.984375, 0.9921875):
        x = edge.clamp(-largest, largest)[None].repeat(2, 1).to(device)
        grid = dpc_knn._Grid.of(x.__getitem__, dpc_knn._Groups.of([2], [1], device))
        low, middle, high = grid.bytes[:, :, :9].long().unbind(1)
        number = (high * 256 + middle) * 256 + low
        step = float(grid.unit.sqrt())
        assert step <= largest * (129 / 128) * 2.0**-22
        assert torch.all((number.double() * step - x.double()).abs() <= step / 2)
        assert torch.equal(number.square().sum(1), grid.norms)
        assert not grid.bytes[:, :, 9:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sections", [(5, 4, 6), (1, 0, 2), (516, 2, 2)])
def test_rotation(device: torch.device, sections: tuple[int, int, int], dtype: torch.dtype) -> None:
    frames, height, width = shape = (3, 2, 4)
    angles = [noise(size, dim // 2, seed=size) * 9 for size, dim in zip(shape, sections, strict=True)]
    pairs = [(angle.cos().to(device), angle.sin().to(device)) for angle in angles]
    tables = Tables(shape, pairs[0], pairs[1], pairs[2], sections)
    features = noise(frames * height * width, sum(sections)).to(dtype)
    norms = noise(len(features), seed=1).abs() + 0.5
    index = torch.tensor([23, 0, 5, 5, 11])
    rotated = st_rope.rotate_rows_triton(features.to(device), index.to(device), norms.to(device), tables)
    wanted = []
    for row in index.tolist():
        places = (row // (height * width), row // width % height, row % width)
        turns = [angle[place].tolist() for angle, place in zip(angles, places, strict=True)]
        wanted.append(rotate_reference(features[row].tolist(), float(norms[row]), sections, turns))
    assert rotated.dtype == torch.float32
    torch.testing.assert_close(rotated.cpu().double(), torch.tensor(wanted, dtype=torch.float64), atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weight", [0.6, 0.0, 1.0])
def test_blend(device: torch.device, dtype: torch.dtype, weight: float) -> None:
    values = noise(70, 300).to(dtype)
    # Four clusters of about 15 and of 30, one of a single token, and one of three equal tokens.
    index = torch.tensor([*range(69, 9, -1), 3, 8, 8, 8])
    labels = torch.cat([whole(60, below=5, seed=1).clamp(max=3), torch.tensor([4, 5, 5, 5])])
    centers = torch.tensor([int((labels == label).nonzero()[-1]) for label in range(6)])
    merged = blend.blend_ragged_triton(*(part.to(device) for part in (values, index, centers, labels)), weight).cpu()
    wanted = blend_reference(values.tolist(), index.tolist(), centers.tolist(), labels.tolist(), weight)
    torch.testing.assert_close(merged.double(), torch.tensor(wanted, dtype=torch.float64), atol=2e-6, rtol=0)
    assert torch.equal(merged[4:], values[[3, 8]].float())


@pytest.mark.parametrize("shape", [(1, 3, 4), (7, 5, 1), (6, 4, 130)])
@pytest.mark.parametrize("limit", [0, 6, 9000])
def test_runs(device: torch.device, shape: tuple[int, int, int], limit: int) -> None:
    points = whole(*shape, below=5, seed=4).float() - 2
    points[-1] *= 100
    found = token_runs.find_runs_triton(points.to(device), torch.tensor(float(limit), device=device))
    assert found.tolist() == find_runs_reference(points.tolist(), limit)


def test_pools_may_be_held_a_few_at_a_time(
    device: torch.device, small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noise(60, 12).to(device)
    sizes, centers = [20, 3, 1, 30, 6], [4, 2, 1, 5, 3]
    together = clusters(x, sizes, centers, 3)
    for held in (1, 12 * 24):
        monkeypatch.setattr(dpc_knn, "_HELD_ELEMENTS", held)
        assert clusters(x, sizes, centers, 3) == together


def test_the_default_type_changes_nothing(device: torch.device, small_tiles: None) -> None:
    x = noise(33, 12).to(device)
    expected = clusters(x, [33], [5], 3)
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            assert clusters(x, [33], [5], 3) == expected
        finally:
            torch.set_default_dtype(torch.float32)


def test_inputs_are_not_changed_and_results_repeat(device: torch.device, small_tiles: None) -> None:
    x = noise(33, 12).to(device)
    before = x.clone()
    first = clusters(x.T.contiguous().T, [33], [5], 3)
    assert first == clusters(x, [33], [5], 3)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("method", "kernels"),
    [(tangovlm.Tango, {"blend", "dpc_knn", "st_rope"}), (tangovlm.Milonga, {"blend", "token_runs"})],
)
def test_a_video_is_pruned_alike(
    device: torch.device, small_tiles: None, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype,
    method: Callable[..., Pruner], kernels: set[str],
) -> None:  # fmt: skip
    """A whole method on these kernels, however it reaches them, against the whole of it in PyTorch on the CPU."""
    features = make_features("scenes", (6, 3, 4, 36), seed=8).to(dtype)
    saliency = noise(6, 3, 4).abs()
    wanted = method(retention=0.3)(tangovlm.VideoTokens(features, saliency))
    used = set()
    for name in kernels:
        package = importlib.import_module(f"tangovlm.kernels.{name}")
        monkeypatch.setattr(package, "variant", lambda _, name=name: used.add(name) or "triton")
    found = method(retention=0.3)(tangovlm.VideoTokens(features.to(device), saliency.to(device)))
    assert used == kernels
    assert torch.equal(found.indices.cpu(), wanted.indices)
    assert torch.equal(found.sources.cpu(), wanted.sources)
    torch.testing.assert_close(found.features.cpu(), wanted.features)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_milonga_keeps_the_same_tokens(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """At a size where sums in different orders differ, and with the matrix products that a user may allow."""
    features = make_features("scenes", (16, 10, 10, 1536), seed=2).to(dtype)
    saliency = noise(16, 10, 10, seed=3).abs()
    for retention in (0.02, 0.2, 0.7):
        wanted = tangovlm.Milonga(retention=retention)(tangovlm.VideoTokens(features, saliency))
        for tf32 in (False, True):
            monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
            found = tangovlm.Milonga(retention=retention)(tangovlm.VideoTokens(features.cuda(), saliency.cuda()))
            assert torch.equal(found.indices.cpu(), wanted.indices)
            assert torch.equal(found.sources.cpu(), wanted.sources)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_device() -> None:
    def all_kernels(seed: int) -> Tensor:
        features = noise(60, 96, seed=seed).cuda(non_blocking=True)
        pairs = [(noise(size, 16).cuda(), noise(size, 16).cuda()) for size in (3, 4, 5)]
        tables = Tables((3, 4, 5), pairs[0], pairs[1], pairs[2], (32, 32, 32))
        index, norms = torch.arange(60, device="cuda"), torch.ones(60, device="cuda")
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if seed else "default")
        points = st_rope.rotate_rows_triton(features, index, norms, tables)
        chosen, _, labels = dpc_knn.dpc_knn_triton(points.__getitem__, [40, 20], [5, 2], 7, False, points.device)
        return blend.blend_ragged_triton(features, index, chosen, labels, 0.6)

    try:
        for seed in (0, 1):  # compilation may wait
            merged = all_kernels(seed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(merged.isfinite().all())
