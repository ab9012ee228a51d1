"""Greedy choice of points in PyTorch, on any device, a block of candidates at a time."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]

BLOCK = 256
"""Candidates that compete at a time: a table of their distances is small, and a choice often stays inside it."""
_TILE_ELEMENTS = 1 << 22  # distances at a time, 16 MiB in float32


class Choice(NamedTuple):
    """The chosen points, and the chosen point that is nearest to each."""

    order: Tensor  # (k,) int64, the points in the order of choice
    nearest: Tensor  # (E,) int64, the number of the nearest chosen point in that order; the first of equal ones
    distance: Tensor  # (E,) float32, the squared distance to it


def choose_farthest(
    points: Tensor, weights: Tensor, bounds: Tensor, keep: int, floor: Tensor | None = None, *, block: int = BLOCK
) -> Choice:
    """Choose points one by one, each time the largest ``weight * min(bound, squared distance to the nearest chosen)``.

    Scores only fall. So the ``block`` points with the highest scores compete among themselves, on a table of their
    distances, for as long as the best of them is not below the highest score of the others; then all points learn of
    these choices in a single matrix product. The result is that of choosing one by one, for every size of the block,
    and takes one transfer to the host per block.

    Parameters
    ----------
    points: ``(E, m)`` float32 of integers, see `tangovlm.kernels.token_sketch`: distances are exact.
    weights: ``(E,)`` float32, >= 0.
    bounds: ``(E,)`` float32, >= 0: the squared distances before anything is chosen.
    keep: how many to choose, 1 to E.
    floor: ``()`` float32; fewer are chosen, but at least one, if the best score is below it.

    Returns the choice; the lowest index wins a tie. Every device returns the same.
    """
    search = _Search(points, weights, bounds, floor)
    while search.left(keep):
        search.choose_block(keep, block)
    return Choice(torch.cat(search.order), search.nearest, search.distance)


class _Search:
    """The state of a search; all tensors are on the device of the points."""

    def __init__(self, points: Tensor, weights: Tensor, bounds: Tensor, floor: Tensor | None) -> None:
        self.points, self.weights, self.bounds = points, weights, bounds
        self.floor = bounds.new_zeros(()) if floor is None else floor
        self.squares = points.square().sum(dim=-1)
        self.free = torch.ones_like(bounds, dtype=torch.bool)
        self.nearest = torch.zeros_like(self.free, dtype=torch.int64)
        self.distance = torch.full_like(bounds, torch.inf)
        self.order: list[Tensor] = []
        self.count = 0
        self.ended = False

    def left(self, keep: int) -> bool:
        return self.count < keep and not self.ended

    def choose_block(self, keep: int, block: int) -> None:
        """Choose for as long as the candidates with the highest scores are certain to be the best of all."""
        near = torch.minimum(self.bounds, self.distance)
        score = torch.where(self.free, self.weights * near, -1)
        order = score.sort(descending=True, stable=True)
        candidates = order.indices[:block].sort().values
        inside, squares = self.points[candidates], self.squares[candidates]
        table = squares[:, None] + squares - 2 * (inside @ inside.mT)
        best_outside, outside = order.values[block : block + 1], order.indices[block : block + 1]
        if not len(outside):
            best_outside, outside = score.new_full((1,), -1), order.indices.new_full((1,), len(score))
        host = _to_host(
            table, near[candidates], self.weights[candidates], score[candidates], candidates < outside,
            best_outside, self.floor,
        )  # fmt: skip
        taken, stop = _compete(*host, most=keep - self.count, needed=self.count == 0)
        if taken:
            self._add(candidates[torch.tensor(taken, device=candidates.device)])
        self.ended = stop == "floor"
        if stop == "zero":
            self._complete(self.free.nonzero().flatten()[: keep - self.count])

    def _add(self, chosen: Tensor) -> None:
        """Record the next points in the order, and the distances of all points to them."""
        self._learn(chosen, torch.arange(self.count, self.count + len(chosen), device=chosen.device))
        self._record(chosen)

    def _complete(self, rest: Tensor) -> None:
        """Record the next points, where no score is above zero: only those at a distance change that of others."""
        apart = (self.distance[rest] > 0).nonzero().flatten()
        for some in torch.split(apart, BLOCK) if len(apart) else ():
            self._learn(rest[some], self.count + some)
        self._record(rest)

    def _record(self, chosen: Tensor) -> None:
        self.free[chosen] = False
        self.order.append(chosen)
        self.count += len(chosen)

    def _learn(self, chosen: Tensor, numbers: Tensor) -> None:
        """Update each point's nearest chosen point."""
        new, squares = self.points[chosen], self.squares[chosen]
        step = max(1, _TILE_ELEMENTS // len(chosen))
        for start in range(0, len(self.points), step):
            some = slice(start, start + step)
            apart = (self.squares[some, None] + squares).addmm_(self.points[some], new.mT, alpha=-2)
            which = apart.argmin(dim=1)
            least = apart.gather(1, which[:, None])[:, 0]
            closer = least < self.distance[some]
            self.nearest[some] = torch.where(closer, numbers[which], self.nearest[some])
            self.distance[some] = torch.where(closer, least, self.distance[some])


def _compete(
    table: Floats, near: Floats, weights: Floats, score: Floats, first: Floats, best_outside: Floats, floor: Floats,
    *, most: int, needed: bool,
) -> tuple[list[int], str]:  # fmt: skip
    """Choose among candidates one by one.

    Parameters
    ----------
    table: ``(b, b)`` squared distances.
    near, weights, score: ``(b,)`` of each candidate; a score of -1 if it is chosen already.
    first: ``(b,)`` whether it wins a tie with the best point outside.
    most: choose at most so many.
    needed: choose one although its score is below the floor.

    Returns the chosen candidates in order, and why they are not more: "floor", "zero" if no score of any point is
    above zero, else "".
    """
    taken: list[int] = []
    while len(taken) < most:
        best = int(score.argmax())
        value = score[best]
        if value < best_outside[0] or (value == best_outside[0] and not first[best]) or value < 0:
            return taken, ""
        if value < floor[0] and (taken or not needed):
            return taken, "floor"
        if value == 0 and floor[0] == 0:
            return taken, "zero"
        taken.append(best)
        near = np.minimum(near, table[best])
        score = np.where(score < 0, -1, weights * near)
        score[best] = -1
    return taken, ""


def _to_host(*values: Tensor) -> list[Floats]:
    """Copies as float32 on the host, in a single transfer."""
    packed: Floats = torch.cat([value.flatten().float() for value in values]).cpu().numpy()
    ends = np.cumsum([value.numel() for value in values])
    parts = np.split(packed, ends[:-1])
    return [part.reshape(value.shape) if value.ndim else part for part, value in zip(parts, values, strict=True)]
