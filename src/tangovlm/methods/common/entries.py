"""The entries of a segmented video while it is reduced: which become slots, and which go into them.

See `tangovlm.methods.common.rows` for rows and entries.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...kernels import fallback_note
from ...kernels.blend import blend_ragged
from ...kernels.dpc_knn import Peaks
from ...tokens import Selection, VideoTokens
from .rows import Rows
from .slots import Slots
from .transfer import positions, send


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
        self.device = device
        self._tokens = tokens
        self.features = tokens.features.flatten(0, 2)  # (N, D)
        self.place = send(rows.place, device)  # (E,) grid index
        self._reopened = _reopened(saliency.cpu(), rows, reopen)  # tokens, on the host
        over_time = _tokens_of_columns(rows, self._reopened)
        self.column_means = _mean_columns(self.features, *over_time)  # (C, D)
        self.saliency = saliency[rows.place.to(saliency.device)]  # (E,) on the device of the saliency given
        everywhere = _tokens_of_columns(rows, self._reopened[:0])
        mean_saliency = _mean_columns(saliency[:, None], *everywhere)[:, 0].to(saliency.dtype)
        self.saliency.index_copy_(0, rows.columns.to(saliency.device), mean_saliency)
        columns = send(rows.columns, device)
        self._column = torch.zeros_like(self.place)  # (E,) number of a static entry among the columns
        self._column[columns] = torch.arange(len(columns), device=device)
        self._home = torch.full_like(self.place, -1)  # (E,) the slot that an entry goes into, -1 where it is dropped
        self._slots = torch.zeros_like(self.place, dtype=torch.bool)  # (E,)
        self._written = [(columns, self.column_means)]  # entries, and the values that stand there if they are slots

    def by_shape(self, counts: Sequence[int]) -> Iterator[tuple[Tensor, int, bool]]:
        """Yield (entries ``(B, size)``, count, whether static) of all rows with a count, rows of equal shape at once.

        Entries are on the device of `saliency`.

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
            yield ranges(starts, size, self.saliency.device), count, static

    def values(self, entries: Tensor, static: bool) -> Tensor:
        """``(..., D)``: means of static columns, in float32 at least, or features of dynamic tokens."""
        return self.column_means[self.column(entries)] if static else self.features[self.place[entries]]

    def column(self, entries: Tensor) -> Tensor:
        """Rows of `column_means` for static entries."""
        return self._column[entries]

    def left(self, number: int) -> Tensor:
        """``(number,)``: the entries that are no slots, ascending; their number must be known."""
        return positions(~self._slots, number)

    def keep(self, entries: Tensor) -> None:
        """Make each of these entries a slot of its own."""
        self._slots[entries] = True
        self._home[entries] = entries

    def merge(self, entries: Tensor, anchors: Tensor, labels: Tensor, values: Tensor) -> None:
        """Put ``entries (B, n)`` into the slots of ``anchors (B, m)``, entries too, by ``labels (B, n)``.

        Parameters
        ----------
        values: ``(B, m, D)``, what stands in the slots.
        """
        self._slots[anchors] = True
        self._home[entries] = anchors.gather(1, labels)
        self._written.append((anchors.flatten(), values.flatten(0, 1)))

    def merge_peaks(self, entries: Tensor, peaks: Peaks, values: Tensor) -> None:
        """Put ``entries (B, n)`` into their clusters, each value at its own centre."""
        self.merge(entries, entries.gather(1, peaks.centers), peaks.labels, values)

    def finish(self, total: int) -> Selection:
        """The selection, which has ``total`` slots."""
        slots = Slots(self._tokens)
        home = torch.where(self._home >= 0, self.place[self._home.clamp_min(0)], -1)
        entry_of = send(self.rows.entry_of, self.device)
        slots.send(torch.arange(len(entry_of), device=self.device), home[entry_of])
        slots.keep(self.place[positions(self._slots, total - len(self._reopened))])
        slots.keep(send(self._reopened, self.device))
        for entries, values in self._written:
            slots.write(self.place[entries], values)
        return replace(slots.finish(self.rows.segments, total), notes=fallback_note(self.device))


def ranges(starts: list[int], size: int, device: torch.device) -> Tensor:
    """``(B, size)``: consecutive numbers from each start."""
    return send(torch.tensor(starts)[:, None] + torch.arange(size), device)


def _reopened(saliency: Tensor, rows: Rows, number: int) -> Tensor:
    """The ``number`` most salient static tokens outside the first frame of their segment; all on the host."""
    tokens = torch.arange(len(rows.entry_of))
    hidden = (rows.place[rows.entry_of] != tokens).nonzero().flatten()
    order = saliency[hidden].sort(descending=True, stable=True).indices
    return hidden[order[:number]]


def _tokens_of_columns(rows: Rows, without: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens of all static columns, position of each column's first one among them, column of each); on the host.

    Parameters
    ----------
    without: tokens to leave out, none of them in the first frame of its segment.
    """
    column = torch.full_like(rows.place, -1)
    column[rows.columns] = torch.arange(len(rows.columns))
    column_of = column[rows.entry_of]
    column_of[without] = -1
    tokens = (column_of >= 0).nonzero().flatten()
    tokens = tokens[column_of[tokens].sort(stable=True).indices]
    first = torch.searchsorted(column_of[tokens], torch.arange(len(rows.columns)))
    return tokens, first, column_of[tokens]


def _mean_columns(values: Tensor, tokens: Tensor, first: Tensor, column: Tensor) -> Tensor:
    """Means ``(C, D)`` of ``values (N, D)`` over the tokens of each column; an exact copy where they are equal."""
    tokens, first, column = (send(part, values.device) for part in (tokens, first, column))
    return blend_ragged(values, tokens, first, column, 0.0)
