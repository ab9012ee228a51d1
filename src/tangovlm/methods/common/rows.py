"""How the tokens of a segmented video line up for reduction.

A grid position of a segment is *static* if it hardly changes over the segment's frames; its column of tokens then
counts as one. A segment is made of *rows*: one static row (if any position is static), then one dynamic row a frame
(if any is not). The members of rows are called entries; all entries of a video are numbered row by row.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from ...budget import SegmentShape
from .segments import static_runs


@dataclass(frozen=True, eq=False)
class Rows:
    """Entries of a video and where they stand. All tensors are on the host, int64 but for `static`.

    Parameters
    ----------
    segments: frames of each segment.
    shapes: static and dynamic tokens of each segment.
    static: ``(S, L)`` bool; the static grid positions of each segment.
    place: ``(E,)`` grid index of each entry, ascending inside a row; a static one stands in its segment's first frame.
    columns: ``(C,)`` the static entries, ascending.
    entry_of: ``(N,)`` the entry that each token of the grid belongs to.
    """

    segments: tuple[int, ...]
    shapes: tuple[SegmentShape, ...]
    static: Tensor
    place: Tensor
    columns: Tensor
    entry_of: Tensor

    @cached_property
    def sizes(self) -> list[int]:
        """Entries of each row."""
        return [size for shape in self.shapes for size in shape.rows]

    @cached_property
    def kinds(self) -> list[bool]:
        """Whether each row is a static one."""
        return [
            static
            for shape in self.shapes
            for static in ([True] if shape.static else []) + ([False] * shape.frames if shape.dynamic else [])
        ]

    @cached_property
    def starts(self) -> list[int]:
        """First entry of each row."""
        return [0, *accumulate(self.sizes)][:-1]


def static_positions(static: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Positions ``(S, L)`` that are static in every pair of frames of a segment; none where it has one frame.

    Parameters
    ----------
    static: ``(T - 1, L)`` bool on the host; whether a position stays the same between a frame and the next.
    """
    runs = static_runs(static)
    masks = torch.zeros(len(segments), static.shape[1], dtype=torch.bool)
    for mask, size, end in zip(masks, segments, accumulate(segments), strict=True):
        if size > 1:
            mask.copy_(runs[end - 2] >= size - 1)
    return masks


def arrange(static: Tensor, segments: tuple[int, ...]) -> Rows:
    """Line up the tokens of a video, given the static positions ``(S, L)`` bool of its segments."""
    length = static.shape[1]
    segment_of = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(segments))
    first = torch.tensor([0, *accumulate(segments)])[segment_of]
    frame = torch.arange(len(segment_of))
    is_static = static[segment_of]
    tokens = torch.arange(len(segment_of) * length).view(-1, length)
    # A static token is represented by the one at its position in the segment's first frame.
    stand = torch.where(is_static, tokens - ((frame - first) * length)[:, None], tokens).flatten()
    row_kind = (2 * segment_of[:, None] + ~is_static).flatten()
    entries = (stand == tokens.flatten()).nonzero().flatten()
    place = entries[row_kind[entries].sort(stable=True).indices]
    number = torch.empty_like(stand)
    number[place] = torch.arange(len(place))
    counts = static.sum(dim=1).tolist()
    shapes = tuple(SegmentShape(frames, s, length - s) for frames, s in zip(segments, counts, strict=True))
    columns = is_static.flatten()[place].nonzero().flatten()
    return Rows(segments, shapes, static, place, columns, number[stand])
