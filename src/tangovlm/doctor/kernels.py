"""The kernels, compared with their plain references: PyTorch on every device, Triton on GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .devices import cuda_devices
from .rows import Examination, NotInstalledError

if TYPE_CHECKING:
    from torch import Tensor

PART = "kernels"
_TOLERANCE = 1e-5


def examinations() -> Iterator[Examination]:
    """Each operation in each variant on each device."""
    devices = cuda_devices()
    for name, check in {"dpc_knn": _dpc_knn, "st_rope": _st_rope, "blend": _blend}.items():
        for device in ("cpu", *devices):
            yield Examination(PART, f"{name}, torch, {device}", partial(check, "torch", device))
        for device in devices:
            yield Examination(PART, f"{name}, triton, {device}", partial(_triton, check, device))
    if not devices:
        yield Examination(PART, "triton", _no_device)


def _no_device() -> str:
    raise NotInstalledError("Triton needs a GPU, and there is none")


def _triton(check: Callable[[str, str], str], device: str) -> str:
    import torch

    from ..kernels import fallback_note

    if notes := fallback_note(torch.device(device)):
        raise NotInstalledError("; ".join(notes))
    return check("triton", device)


def _variant(kernel: str, variant: str) -> Any:
    return import_module(f"tangovlm.kernels.{kernel}.{'pytorch' if variant == 'torch' else variant}")


def _noise(*shape: int, seed: int) -> Tensor:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _dpc_knn(variant: str, device: str) -> str:
    """Compare the clustering of two pools of points, one with ties."""
    from ..kernels.dpc_knn.reference import dpc_knn_reference

    points = _noise(90, 40, seed=1)
    points[60:] = points[60:].round()
    sizes, centers, neighbors = [60, 30], [9, 5], 7
    x = points.to(device)
    if variant == "triton":
        found = _variant("dpc_knn", variant).dpc_knn_triton(x.__getitem__, sizes, centers, neighbors, False, x.device)
    else:
        run = _variant("dpc_knn", variant).dpc_knn_torch
        found = run(x.__getitem__, sizes, centers, neighbors, False, True, x.device)
    expected: list[list[int]] = [[], [], []]
    for pool, count in zip(points.split(sizes), centers, strict=True):
        first = len(expected[2]), len(expected[0])
        chosen, order, labels = dpc_knn_reference(pool.tolist(), count, neighbors)
        expected[0] += [first[0] + number for number in chosen]
        expected[1] += [first[0] + number for number in order]
        expected[2] += [first[1] + label for label in labels]
    for what, numbers, right in zip(("centres", "order of the centres", "labels"), found, expected, strict=True):
        if numbers.tolist() != right:
            raise RuntimeError(f"the {what} differ from those of the reference")
    return "centres, their order and labels equal those of the reference"


def _st_rope(variant: str, device: str) -> str:
    """Compare all tokens of a small grid, with blocks of odd and even width."""
    import torch

    from ..kernels.st_rope import Tables
    from ..kernels.st_rope.reference import rotate_reference

    shape, sections = (3, 2, 4), (6, 5, 4)
    angles = [9 * _noise(size, width // 2, seed=width) for size, width in zip(shape, sections, strict=True)]
    pairs = [(angle.cos().to(device), angle.sin().to(device)) for angle in angles]
    tables = Tables(shape, pairs[0], pairs[1], pairs[2], sections)
    features, norms = _noise(24, sum(sections), seed=2), _noise(24, seed=3).abs() + 0.5
    run = getattr(_variant("st_rope", variant), f"rotate_rows_{variant}")
    found = run(features.to(device), torch.arange(24, device=device), norms.to(device), tables)
    expected = []
    for row in range(24):
        places = row // 8, row // 4 % 2, row % 4
        turns = [angle[place].tolist() for angle, place in zip(angles, places, strict=True)]
        expected.append(rotate_reference(features[row].tolist(), float(norms[row]), sections, turns))
    return _compare(found, expected)


def _blend(variant: str, device: str) -> str:
    """Compare clusters of many tokens, of one, and of equal ones."""
    import torch

    from ..kernels.blend.reference import blend_reference

    values = _noise(70, 48, seed=4)
    index = torch.tensor([*range(69, 9, -1), 3, 8, 8, 8])
    labels = torch.tensor([*(number % 4 for number in range(60)), 4, 5, 5, 5])
    centers = torch.tensor([int((labels == label).nonzero()[-1]) for label in range(6)])
    module = _variant("blend", variant)
    run = module.blend_ragged_triton if variant == "triton" else module.blend_torch
    found = run(*(part.to(device) for part in (values, index, centers, labels)), 0.6)
    expected = blend_reference(values.tolist(), index.tolist(), centers.tolist(), labels.tolist(), 0.6)
    return _compare(found, expected)


def _compare(found: Tensor, expected: list[list[float]]) -> str:
    import torch

    gap = float((found.cpu().double() - torch.tensor(expected, dtype=torch.float64)).abs().max())
    if not gap <= _TOLERANCE:
        raise RuntimeError(f"up to {gap:.3g} from the reference, more than {_TOLERANCE}")
    return f"within {gap:.1g} of the reference"
