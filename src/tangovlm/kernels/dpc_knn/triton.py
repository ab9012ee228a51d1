"""DPC-KNN for CUDA in Triton: one launch per pass for ragged groups, without an n × n matrix.

Products are exact, so that ties are ties on every device: the points of a group are rounded to a grid with a step of
2^-23 of the power of two above their largest coordinate, each number is split into three signed bytes, and the nine
products of bytes are summed as int32 on the tensor cores. Every order of summation, tile size and hardware generation,
and the interpreter, yields the same distances bit for bit; they are rounded once, to float32. Nothing here waits for
the device: every count is known on the host, except one (see `_nearest_denser`), for which the launch has the largest
possible size and programs without work return at once.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import triton_passes as passes
from .pytorch import Peaks
from .tiles import PointSource

_MAX_NEIGHBORS = 32  # the lists of neighbours are in registers
_MAX_CHANNELS = 1 << 15  # sums of products of bytes stay below 2^31

# Nine products of 64 × 64 points fill five int32 accumulators: 160 of the 255 registers of 128 threads, so that two
# programs fit on an SM and the selection in one overlaps the products of the other. Three stages of 64 channels
# are 72 KiB of shared memory, within the 99 KiB of the smallest devices of compute capability 8.
_BLOCK = 64
_CHANNELS = 64
_TILING = {"BLOCK": _BLOCK, "CHANNELS": _CHANNELS, "num_warps": 4, "num_stages": 3}
_PROGRAMS = 528  # two rounds of two programs on 132 SMs: fewer leave SMs idle, many more only lengthen the lists
_FEW_ROWS = 16
# Coordinates of pools that are clustered together, 512 MiB in three bytes each: enough to fill any device.
_HELD_ELEMENTS = (1 << 29) // 3
_SLAB_ELEMENTS = 1 << 26  # coordinates in float32 at a time, 256 MiB


def supports(points: Tensor, neighbors: int) -> bool:
    """Whether `dpc_knn_triton` supports this dtype, this number of channels and this number of neighbours."""
    return points.dtype == torch.float32 and points.shape[1] <= _MAX_CHANNELS and 1 <= neighbors <= _MAX_NEIGHBORS


def dpc_knn_triton(
    points_at: PointSource,
    sizes: Sequence[int],
    centers: Sequence[int],
    neighbors: int,
    include_self: bool,
    device: torch.device,
) -> Peaks:
    """See `tangovlm.kernels.dpc_knn.dpc_knn_ragged`, for finite points that `supports` accepts.

    Memory holds three bytes for each of `_HELD_ELEMENTS` coordinates, more only for a single larger pool, and
    `_SLAB_ELEMENTS` coordinates in float32.
    """
    most = _HELD_ELEMENTS // points_at(torch.zeros(0, dtype=torch.int64, device=device)).shape[1]
    parts, point, cluster, first = [], 0, 0, 0
    with torch.cuda.device(device if device.type == "cuda" else -1):
        while first < len(sizes):
            last = first + 1
            while last < len(sizes) and sum(sizes[first : last + 1]) <= most:
                last += 1
            groups = _Groups.of(sizes[first:last], centers[first:last], device)
            found = _cluster(partial(_shifted, points_at, point), groups, neighbors, include_self)
            parts.append((found.centers + point, found.order + point, found.labels + cluster))
            point, cluster, first = point + len(found.labels), cluster + len(found.centers), last
    return Peaks(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _shifted(rows: PointSource, by: int, numbers: Tensor) -> Tensor:
    return rows(numbers + by)


def _cluster(rows: PointSource, groups: "_Groups", neighbors: int, include_self: bool) -> Peaks:
    """All work on the device after the groups are copied; can be captured in a CUDA graph."""
    grid = _Grid.of(rows, groups)
    nearest, spread = _neighborhoods(grid, groups, neighbors, include_self)
    # The densest point of a group has no denser one. By definition it gets the largest distance of the group and comes
    # first in the order; infinity has the same effect.
    separation = _nearest_denser(grid, groups, nearest, spread)
    unit = grid.unit[groups.of_point]
    order = _best(0.5 * (separation.double() * unit).log() - spread * unit, groups)
    chosen = order.sort().values
    return Peaks(chosen, order, _labels(grid, groups, chosen))


class _Groups(NamedTuple):
    """Offsets of the groups, their blocks of rows and their centres; all int64 and on the device."""

    points: Tensor  # (G + 1,)
    blocks: Tensor  # (G + 1,)
    centers: Tensor  # (G + 1,)
    of_point: Tensor  # (M,) group of each point
    of_block: Tensor  # (blocks,) group of each block
    of_center: Tensor  # (C,) group of each centre
    largest: tuple[int, int]  # points and centres of the largest groups

    @staticmethod
    def of(sizes: Sequence[int], centers: Sequence[int], device: torch.device) -> "_Groups":
        counts = [list(sizes), [triton.cdiv(size, _BLOCK) for size in sizes], list(centers)]
        # Pinned, so that the single copy to the device is asynchronous.
        sent = torch.tensor(counts, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        begins = torch.nn.functional.pad(sent.cumsum(dim=1), (1, 0))
        # Not repeat_interleave, some versions of which synchronize to read the sum of the repeats.
        of = [
            torch.searchsorted(begin[1:], torch.arange(sum(count), device=device), right=True)
            for begin, count in zip(begins, counts, strict=True)
        ]
        return _Groups(begins[0], begins[1], begins[2], of[0], of[1], of[2], (max(sizes), max(centers)))

    def launch(self, columns: int, rounds: int = 1) -> tuple[int, int]:
        """Grid (blocks of rows, shares of the columns) for groups of at most ``columns`` columns."""
        blocks = len(self.of_block)
        return blocks, max(1, min(triton.cdiv(columns, _BLOCK), rounds * _PROGRAMS // blocks))

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments by which a program finds its rows."""
        return self.points, self.blocks, self.of_block


class _Grid(NamedTuple):
    """Points as integers below 2^23, split into three signed bytes: ``(b2 * 256 + b1) * 256 + b0``."""

    bytes: Tensor  # (M, 3, D rounded up to whole tiles) int8, zero where there is no channel
    norms: Tensor  # (M,) int64, squared
    unit: Tensor  # (G,) float64, the square of the grid's step

    @staticmethod
    def of(rows: PointSource, groups: _Groups) -> "_Grid":
        numbers = torch.arange(len(groups.of_point), device=groups.points.device)
        dim = rows(numbers[:0]).shape[1]
        slabs = numbers.split(max(1, _SLAB_ELEMENTS // dim))
        # If not all points fit, they are computed twice: the step of the grid depends on the largest of a group.
        held = [rows(slab) for slab in slabs] if len(slabs) == 1 else None
        largest = [torch.linalg.vector_norm(part, torch.inf, dim=1) for part in held or map(rows, slabs)]
        bound = torch.zeros(len(groups.points) - 1, dtype=torch.float32, device=numbers.device)
        bound.scatter_reduce_(0, groups.of_point, torch.cat(largest), "amax")
        # The power of two that scales the bound below 127/128 of 2^23, the limit of the highest byte.
        exponent = ((bound * (129 / 128)).view(torch.int32) >> 23).clamp_min_(22)
        scale = ((276 - exponent) << 23).view(torch.float32)
        width = triton.cdiv(dim, _CHANNELS) * _CHANNELS
        parts = torch.empty(len(numbers), 3, width, dtype=torch.int8, device=numbers.device)
        norms = torch.empty_like(numbers)
        for slab, part in zip(slabs, held or map(rows, slabs), strict=True):
            passes.quantise[(len(slab),)](
                part.contiguous(), scale, groups.of_point, slab, parts, norms, dim, WIDTH=width, CHUNK=1024
            )
        return _Grid(parts, norms, scale.double().square().reciprocal())


def _neighborhoods(grid: _Grid, groups: _Groups, neighbors: int, include_self: bool) -> tuple[Tensor, Tensor]:
    """The nearest of each point ``(M, neighbors)`` as ascending keys (see `triton_passes`), and -log rho: the mean of
    their squared distances ``(M,)``, float64, in units of the grid.
    """
    count, device = len(grid.norms), grid.norms.device
    launch = groups.launch(groups.largest[0])
    slots = triton.next_power_of_2(neighbors)
    lists = torch.empty(count, launch[1] * slots, dtype=torch.int64, device=device)
    nearest = torch.empty(count, neighbors, dtype=torch.int64, device=device)
    spread = torch.empty(count, dtype=torch.float64, device=device)
    passes.nearest[launch](
        *grid[:2], *groups.tables(), lists, launch[1],
        WIDTH=grid.bytes.shape[2], SLOTS=slots, NEIGHBORS=neighbors, INCLUDE_SELF=include_self, **_TILING,
    )  # fmt: skip
    passes.summarise[(triton.cdiv(count, _FEW_ROWS),)](
        lists, nearest, spread, count, lists.shape[1],
        SLOTS=triton.next_power_of_2(lists.shape[1]), NEIGHBORS=neighbors, BLOCK=_FEW_ROWS,
    )  # fmt: skip
    return nearest, spread


def _nearest_denser(grid: _Grid, groups: _Groups, nearest: Tensor, spread: Tensor) -> Tensor:
    """Squared distance to the nearest denser point ``(M,)`` float32 in units of the grid; inf if there is none.

    Most points have a denser one among their neighbours, and then nothing outside the list is nearer. Only the rows
    of the others see all the points of their group again.
    """
    separation = torch.empty_like(spread, dtype=torch.float32)
    count = len(spread)
    blocks = (triton.cdiv(count, _BLOCK),)
    passes.denser_neighbor[blocks](nearest, spread, separation, count, NEIGHBORS=nearest.shape[1], BLOCK=_BLOCK)
    is_open = separation.isinf()
    rows = (2 * groups.of_point + ~is_open).sort(stable=True).indices
    before = torch.nn.functional.pad(is_open.cumsum(0), (1, 0))[groups.points]
    launch = groups.launch(groups.largest[0], rounds=8)  # about one row in sixteen is undecided
    passes.nearest_denser[launch](
        *grid[:2], *groups.tables(), spread, rows, before.diff(), separation.view(torch.int32), launch[1],
        WIDTH=grid.bytes.shape[2], **_TILING,
    )  # fmt: skip
    return separation


def _best(score: Tensor, groups: _Groups) -> Tensor:
    """The best points of each group, as many as it has centres, by descending score; the lowest index wins a tie."""
    ranked = score.sort(descending=True, stable=True).indices
    ranked = ranked[groups.of_point[ranked].sort(stable=True).indices]
    shift = (groups.points - groups.centers)[groups.of_center]
    return ranked[torch.arange(len(shift), device=score.device) + shift]


def _labels(grid: _Grid, groups: _Groups, chosen: Tensor) -> Tensor:
    """The nearest centre of each point; a centre is its own."""
    best = torch.full_like(grid.norms, passes.FURTHEST)
    launch = groups.launch(groups.largest[1])
    passes.nearest_center[launch](
        *grid[:2], *groups.tables(), groups.centers, chosen, best, launch[1], WIDTH=grid.bytes.shape[2], **_TILING
    )
    return (best & passes.INDEX).scatter_(0, chosen, torch.arange(len(chosen), device=chosen.device))
