"""Trees over time: each token is attached to the tree of the most similar token of an earlier frame that is nearby."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...tokens import VideoTokens
from .similarity import clamped_norms, compute_dtype

# Similarities computed at a time; on a CPU also at most so many frames, as a frame is compared with those before only.
_TILE_ELEMENTS = (1 << 21, 1 << 26)
_CPU_FRAMES = 8


class Forest(NamedTuple):
    """Trees of n candidates, which are numbered by frame, then by position; int64 on the host.

    Parameters
    ----------
    parents: ``(n,)``, the candidate that each one is attached to, -1 for a root.
    depth: ``(n,)``, 0 for a root.
    """

    parents: Tensor
    depth: Tensor

    @property
    def roots(self) -> Tensor:
        """Numbers of the roots, ascending."""
        return (self.parents < 0).nonzero().flatten()


@dataclass(frozen=True, eq=False)
class Candidates:
    """Unit vectors and positions of the candidates, stored band by band, a band being some rows of the grid.

    Candidates of a band are ordered by frame, so that those before a frame are contiguous.

    Parameters
    ----------
    unit: ``(n, D)`` float32 (float64 for float64).
    number: ``(n,)`` int64, the number of each stored candidate; stored: the place of each number.
    frame, row, column: ``(n,)`` int64 of each stored candidate.
    bands: for each band, the rows in it, and the places at which each frame begins, T + 1 numbers.
    grid: (frames, height, width).
    """

    unit: Tensor
    number: Tensor
    stored: Tensor
    frame: Tensor
    row: Tensor
    column: Tensor
    bands: list[tuple[range, list[int]]]
    grid: tuple[int, int, int]

    @classmethod
    def of(cls, tokens: VideoTokens, places: Tensor) -> "Candidates":
        """From the positions ``h * W + w`` of the candidates of each frame, ``places (T, k)``, ascending."""
        frames, height, width = grid = (tokens.frames, tokens.height, tokens.width)
        device = places.device
        # On a CPU a band is one row, which saves most of the work; elsewhere all rows, which saves launches.
        rows_of_band = 1 if device.type == "cpu" else height
        frame = torch.arange(frames, device=device)[:, None].expand_as(places).flatten()
        place = places.flatten()
        band = place // width // rows_of_band
        number = band.sort(stable=True).indices
        frame, place, band = frame[number], place[number], band[number]
        bands = -(-height // rows_of_band)
        counts = torch.zeros(bands * frames, dtype=torch.int64, device=device)
        counts = counts.scatter_add_(0, band * frames + frame, torch.ones_like(band)).cpu()
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).tolist()
        unit = tokens.features.flatten(0, 2)[frame * (height * width) + place]
        unit = unit.to(compute_dtype(unit.dtype))
        return cls(
            unit.div_(clamped_norms(unit)[:, None]),
            number,
            torch.empty_like(number).scatter_(0, number, torch.arange(len(number), device=device)),
            frame,
            place // width,
            place % width,
            [
                (
                    range(b * rows_of_band, min((b + 1) * rows_of_band, height)),
                    starts[b * frames : (b + 1) * frames + 1],
                )
                for b in range(bands)
            ],
            grid,
        )

    def units(self, numbers: Tensor) -> Tensor:
        """Unit vectors of candidates by their numbers on the host."""
        return self.unit[self.stored[numbers.to(self.stored.device)]]


def grow_forest(candidates: Candidates, similarity: float, distance: float) -> Forest:
    """Attach each candidate to a tree of earlier candidates, or make it a root (ForestPrune, arXiv 2603.22911).

    A candidate is attached by the earlier one that is most similar to it, among those whose cosine is at least
    ``similarity`` and whose distance is at most ``distance``: the larger one of the differences of rows and of columns,
    as fractions of the grid. The nearest wins a tie, then the oldest tree. Its parent is the last candidate of that
    tree before its frame.
    """
    frames = candidates.grid[0]
    in_frame = len(candidates.number) // frames
    trees = torch.zeros(in_frame * frames, dtype=torch.int64)
    parents, depth = torch.full_like(trees, -1), torch.zeros_like(trees)
    trees[:in_frame] = torch.arange(in_frame)
    tails = torch.zeros_like(trees)
    tails[:in_frame] = torch.arange(in_frame)
    number_of_trees = in_frame
    for first, stop in _slabs(candidates):
        links = _best_links(candidates, first, stop, similarity, distance)
        by_frame = torch.searchsorted(links[0], torch.arange(first, stop + 1) * in_frame).tolist()
        for frame in range(max(first, 1), stop):
            these = slice(frame * in_frame, (frame + 1) * in_frame)
            child, other = links[:, by_frame[frame - first] : by_frame[frame - first + 1]]
            none = len(trees)
            tree = torch.full((in_frame,), none).scatter_reduce_(0, child - these.start, trees[other], "amin")
            is_root = tree == none
            parent = tails[tree.clamp_max(none - 1)]
            parents[these] = torch.where(is_root, -1, parent)
            depth[these] = torch.where(is_root, 0, depth[parent] + 1)
            trees[these] = torch.where(is_root, number_of_trees + is_root.cumsum(0) - 1, tree)
            number_of_trees += int(is_root.sum())
            # Numbers ascend, so that the highest of a tree is its last.
            tails.scatter_reduce_(0, trees[these], torch.arange(these.start, these.stop), "amax")
    return Forest(parents, depth)


def _slabs(candidates: Candidates) -> Iterator[tuple[int, int]]:
    """Ranges of frames that are compared with all frames before their end at once."""
    frames = candidates.grid[0]
    on_cpu = candidates.unit.device.type == "cpu"
    in_frame = max(1, len(candidates.number) // frames)
    step = max(1, min(_TILE_ELEMENTS[not on_cpu] // (in_frame**2 * frames), _CPU_FRAMES if on_cpu else frames))
    for start in range(0, frames, step):
        yield start, min(start + step, frames)


def _best_links(candidates: Candidates, first: int, stop: int, similarity: float, distance: float) -> Tensor:
    """Numbers of candidates of some frames and of the earlier one that each is attached by, ``(2, m)`` on the host.

    Ascending by the first; several links of a candidate are equally similar and near.
    """
    _, height, width = candidates.grid
    rows, columns = _distances(height, candidates.unit.device), _distances(width, candidates.unit.device)
    near = (rows <= distance).tolist()
    found = []
    for own_rows, starts in candidates.bands:
        own = slice(starts[first], starts[stop])
        reach = [
            slice(ends[0], ends[stop])
            for other_rows, ends in candidates.bands
            if any(near[a][b] for a in own_rows for b in other_rows) and ends[stop] > ends[0]
        ]
        if own.start < own.stop and reach:
            found.append(_links_of_band(candidates, own, reach, rows, columns, similarity, distance))
    if not found:
        return torch.zeros(2, 0, dtype=torch.int64)
    links = candidates.number[torch.cat(found, dim=1)].cpu()
    return links[:, links[0].sort(stable=True).indices]


def _links_of_band(
    candidates: Candidates,
    own: slice,
    reach: list[slice],
    rows: Tensor,
    columns: Tensor,
    similarity: float,
    distance: float,
) -> Tensor:
    """Stored places ``(2, m)`` of the links of candidates ``own`` to those in ``reach``."""
    other = torch.cat([torch.arange(part.start, part.stop, device=rows.device) for part in reach])
    cosines = torch.cat([candidates.unit[own] @ candidates.unit[part].T for part in reach], dim=1)
    apart = torch.maximum(
        rows[candidates.row[own]][:, candidates.row[other]],
        columns[candidates.column[own]][:, candidates.column[other]],
    )
    feasible = (cosines >= similarity) & (apart <= distance)
    feasible &= candidates.frame[other] < candidates.frame[own, None]
    best = cosines.masked_fill_(~feasible, -torch.inf).amax(dim=1, keepdim=True)
    feasible &= cosines == best
    feasible &= apart == apart.masked_fill(~feasible, torch.inf).amin(dim=1, keepdim=True)
    child, parent = feasible.nonzero().unbind(dim=1)
    return torch.stack([child + own.start, other[parent]])


def _distances(size: int, device: torch.device) -> Tensor:
    """``(size, size)`` float32: differences of rows, or of columns, as fractions of the grid."""
    place = torch.arange(size, device=device, dtype=torch.float32) / max(size - 1, 1)
    return (place[:, None] - place).abs()
