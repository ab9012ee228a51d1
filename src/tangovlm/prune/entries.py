"""The entries of a segmented video while it is reduced: which become slots, and which go into them.

See `tangovlm.prune.rows` for rows and entries.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..kernels.dpc_knn import Peaks
from ..signals.similarity import compute_dtype
from ..tokens import Selection, VideoTokens
from .merge import mean_over_time
from .rows import Rows
from .slots import Slots


class Entries:
    """What is known while one video is reduced; E entries, C of them static columns, on the device of the features.

    Parameters
    ----------
    tokens: the video; only its features are read.
    saliency: ``(N,)``; where entries compete by it, and which static tokens are reopened first.
    rows: the entries of the video.
    reopen: static tokens to keep beside their column's mean, for when every entry is kept and the budget is larger.
    """

    def __init__(self, tokens: VideoTokens, saliency: Tensor, rows: Rows, reopen: int = 0) -> None:
        device = tokens.features.device
        self.rows = rows
        self._tokens = tokens
        self._features = tokens.features.flatten(0, 2)  # (N, D)
        self._reopened = _reopened(saliency, rows, reopen)  # (N,) bool
        self.place = rows.place.to(device)  # (E,) grid index
        columns = rows.columns.to(device)
        self._column_means, mean_saliency = _average_columns(self._features, saliency, rows, self._reopened)  # (C, D)
        self.saliency = saliency[self.place].index_copy_(0, columns, mean_saliency)  # (E,)
        self._column = torch.zeros_like(self.place)  # (E,) number of a static entry among the columns
        self._column[columns] = torch.arange(len(columns), device=device)
        self._home = torch.full_like(self.place, -1)  # (E,) the slot that an entry goes into, -1 where it is dropped
        self.slots = torch.zeros_like(self.place, dtype=torch.bool)  # (E,)
        self._written = [(columns, self._column_means)]  # entries, and the values that stand there if they are slots

    def by_shape(self, counts: Sequence[int]) -> Iterator[tuple[Tensor, int, bool]]:
        """Yield (entries ``(B, size)``, count, whether static) of all rows with a count, rows of equal shape at once.

        Parameters
        ----------
        counts: one a row.
        """
        groups: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
        rows = self.rows
        for start, size, static, count in zip(rows.starts, rows.sizes, rows.kinds, counts, strict=True):
            if count:
                groups[size, count, static].append(start)
        for (size, count, static), starts in groups.items():
            yield ranges(starts, size, self.place.device), count, static

    def values(self, entries: Tensor, static: bool) -> Tensor:
        """``(..., D)``: means of static columns, in float32 at least, or features of dynamic tokens."""
        return self._column_means[self._column[entries]] if static else self._features[self.place[entries]]

    def keep(self, entries: Tensor) -> None:
        """Make each of these entries a slot of its own."""
        self.slots[entries] = True
        self._home[entries] = entries

    def merge(self, entries: Tensor, anchors: Tensor, labels: Tensor, values: Tensor) -> None:
        """Put ``entries (B, n)`` into the slots of ``anchors (B, m)``, entries too, by ``labels (B, n)``.

        Parameters
        ----------
        values: ``(B, m, D)``, what stands in the slots.
        """
        self.slots[anchors] = True
        self._home[entries] = anchors.gather(1, labels)
        self._written.append((anchors.flatten(), values.flatten(0, 1)))

    def merge_peaks(self, entries: Tensor, peaks: Peaks, values: Tensor) -> None:
        """Put ``entries (B, n)`` into their clusters, each value at its own centre."""
        self.merge(entries, entries.gather(1, peaks.centers), peaks.labels, values)

    def finish(self, total: int) -> Selection:
        """The selection, which has ``total`` slots."""
        slots = Slots(self._tokens)
        home = torch.where(self._home >= 0, self.place[self._home.clamp_min(0)], -1)
        entry_of = self.rows.entry_of.to(home.device)
        slots.send(torch.arange(len(entry_of), device=home.device), home[entry_of])
        slots.keep(self.place[self.slots])
        slots.keep(self._reopened.nonzero().flatten())
        for entries, values in self._written:
            used = self.slots[entries]
            slots.write(self.place[entries[used]], values[used])
        selection = slots.finish(self.rows.segments)
        assert len(selection.indices) == total
        return selection


def ranges(starts: list[int], size: int, device: torch.device) -> Tensor:
    """``(B, size)``: consecutive numbers from each start."""
    return torch.tensor(starts, device=device)[:, None] + torch.arange(size, device=device)


def _reopened(saliency: Tensor, rows: Rows, number: int) -> Tensor:
    """``(N,)`` bool: the most salient static tokens outside the first frame of their segment."""
    reopened = torch.zeros(len(saliency), dtype=torch.bool, device=saliency.device)
    if number:
        tokens = torch.arange(len(rows.entry_of))
        hidden = (rows.place[rows.entry_of] != tokens).nonzero().flatten().to(saliency.device)
        order = saliency[hidden].sort(descending=True, stable=True).indices
        reopened[hidden[order[:number]]] = True
    return reopened


def _average_columns(features: Tensor, saliency: Tensor, rows: Rows, reopened: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features ``(C, D)``, without the reopened tokens, and mean saliency ``(C,)`` of the static columns."""
    length = rows.static.shape[1]
    means = [features.new_zeros(0, features.shape[1], dtype=compute_dtype(features.dtype))]
    mean_saliency = [saliency.new_zeros(0)]
    for shape, first, mask in zip(rows.shapes, rows.first_frames, rows.static, strict=True):
        if shape.static:
            frames = torch.arange(first, first + shape.frames)[:, None]
            tokens = (frames * length + mask.nonzero().flatten()).to(features.device)
            means.append(mean_over_time(features[tokens], ~reopened[tokens]))
            mean_saliency.append(saliency[tokens].mean(dim=0))
    return torch.cat(means), torch.cat(mean_saliency)
