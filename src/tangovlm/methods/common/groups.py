"""Groups of tokens in a segmented video, and the builder of a selection from them.

A grid position is *static* in a segment if its token hardly changes over the segment's frames; the tokens at that
position then count as one. A segment has one *static group* (if any position is static), followed by one *dynamic
group* per frame (if any position is not). The members of groups are called *entries*: a static entry represents the
tokens at one position over the whole segment, a dynamic entry is a single token. The entries of a video are numbered
group by group. Selection is done within each group. A *slot* is a position of the output selection.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from ...budget import SegmentShape
from ...kernels import fallback_note
from ...kernels.blend import blend_ragged
from ...kernels.dpc_knn import Peaks
from ...tokens import Selection, VideoTokens
from .selection import SelectionBuilder, to_device, true_indices


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """The E entries of a video, C of them static. All tensors are int64 and on the host.

    Parameters
    ----------
    segments: frames of each segment.
    shapes: static and dynamic tokens of each segment.
    grid_indices: ``(E,)`` grid index of each entry, ascending inside a group; for a static entry that of its token in
        the first frame of the segment.
    static_entries: ``(C,)`` ascending.
    entry_of_token: ``(N,)`` the entry that each token of the grid belongs to.
    """

    segments: tuple[int, ...]
    shapes: tuple[SegmentShape, ...]
    grid_indices: Tensor
    static_entries: Tensor
    entry_of_token: Tensor

    @cached_property
    def sizes(self) -> list[int]:
        """Entries of each group."""
        return [size for shape in self.shapes for size in shape.group_sizes]

    @cached_property
    def are_static(self) -> list[bool]:
        """Whether each group is a static one."""
        return [
            static
            for shape in self.shapes
            for static in ([True] if shape.static else []) + ([False] * shape.frames if shape.dynamic else [])
        ]

    @cached_property
    def starts(self) -> list[int]:
        """First entry of each group."""
        return [0, *accumulate(self.sizes)][:-1]


def group_tokens(static: Tensor, segments: tuple[int, ...]) -> TokenGroups:
    """Group the tokens of a video.

    Parameters
    ----------
    static: ``(S, L)`` bool on the host; the static positions of each segment.
    segments: frames of each segment.
    """
    length = static.shape[1]
    segment_of_frame = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(segments))
    first_frame = torch.tensor([0, *accumulate(segments)])[segment_of_frame]
    frame = torch.arange(len(segment_of_frame))
    is_static = static[segment_of_frame]
    tokens = torch.arange(len(segment_of_frame) * length).view(-1, length)
    # A static token is represented by the one at its position in the first frame of the segment.
    representative = torch.where(is_static, tokens - ((frame - first_frame) * length)[:, None], tokens).flatten()
    static_first = (2 * segment_of_frame[:, None] + ~is_static).flatten()
    entries = (representative == tokens.flatten()).nonzero().flatten()
    grid_indices = entries[static_first[entries].sort(stable=True).indices]
    entry_at = torch.empty_like(representative)
    entry_at[grid_indices] = torch.arange(len(grid_indices))
    counts = static.sum(dim=1).tolist()
    shapes = tuple(SegmentShape(frames, s, length - s) for frames, s in zip(segments, counts, strict=True))
    static_entries = is_static.flatten()[grid_indices].nonzero().flatten()
    return TokenGroups(segments, shapes, grid_indices, static_entries, entry_at[representative])


class GroupedSelectionBuilder:
    """Collects which entries of a video become slots, and which are merged into them.

    Tensors are on the device of the features unless stated otherwise.

    Parameters
    ----------
    tokens: the video; only its features are read.
    saliency: ``(N,)``; ranks entries, and decides which static tokens are kept separately.
    groups: the entries of the video.
    extra: static tokens to keep as separate slots in addition to the mean of their position; for a budget that exceeds
        the number of entries, all of which are then kept.
    """

    def __init__(self, tokens: VideoTokens, saliency: Tensor, groups: TokenGroups, extra: int = 0) -> None:
        device = tokens.features.device
        self.groups = groups
        self.device = device
        self._tokens = tokens
        self.features = tokens.features.flatten(0, 2)  # (N, D)
        self.grid_indices = to_device(groups.grid_indices, device)  # (E,)
        self._extra = _most_salient_repeats(saliency.cpu(), groups, extra)  # tokens, on the host
        self.static_means = _mean_over_time(self.features, *_static_tokens(groups, self._extra))  # (C, D)
        # (E,) on the device of the saliency given: the mean over time for static entries
        self.saliency = saliency[groups.grid_indices.to(saliency.device)]
        means = _mean_over_time(saliency[:, None], *_static_tokens(groups, self._extra[:0]))[:, 0].to(saliency.dtype)
        self.saliency.index_copy_(0, groups.static_entries.to(saliency.device), means)
        static_entries = to_device(groups.static_entries, device)
        self._static_number = torch.zeros_like(self.grid_indices)  # (E,) index of a static entry into static_means
        self._static_number[static_entries] = torch.arange(len(static_entries), device=device)
        self._slot_of_entry = torch.full_like(self.grid_indices, -1)  # (E,) -1 where it is dropped
        self._is_slot = torch.zeros_like(self.grid_indices, dtype=torch.bool)  # (E,)
        self._values = [(static_entries, self.static_means)]  # entries, and their values if they are slots

    def batches(self, counts: Sequence[int]) -> Iterator[tuple[Tensor, int, bool]]:
        """Yield (entries ``(B, size)``, count, whether static) for all groups with a count above 0.

        Groups of equal size, count and kind are yielded together. Entries are on the device of `saliency`.

        Parameters
        ----------
        counts: one per group.
        """
        alike: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
        groups = self.groups
        for start, size, static, count in zip(groups.starts, groups.sizes, groups.are_static, counts, strict=True):
            if count:
                alike[size, count, static].append(start)
        for (size, count, static), starts in alike.items():
            entries = torch.tensor(starts)[:, None] + torch.arange(size)
            yield to_device(entries, self.saliency.device), count, static

    def values(self, entries: Tensor, static: bool) -> Tensor:
        """``(..., D)``: means over time of static entries, in float32 at least, or features of dynamic entries."""
        return self.static_means[self.static_number(entries)] if static else self.features[self.grid_indices[entries]]

    def static_number(self, entries: Tensor) -> Tensor:
        """Indices into `static_means` of static entries."""
        return self._static_number[entries]

    def not_kept(self, number: int) -> Tensor:
        """``(number,)``: the entries that are not slots, ascending; there must be ``number`` of them."""
        return true_indices(~self._is_slot, number)

    def keep(self, entries: Tensor) -> None:
        """Make each of these entries a slot of its own."""
        self._is_slot[entries] = True
        self._slot_of_entry[entries] = entries

    def merge(self, entries: Tensor, anchors: Tensor, labels: Tensor, values: Tensor) -> None:
        """Make ``anchors (B, m)``, which are entries, slots, and merge ``entries (B, n)`` into them by label.

        Parameters
        ----------
        labels: ``(B, n)``, the anchor of each entry, 0 to m - 1.
        values: ``(B, m, D)``, the features of the slots.
        """
        self._is_slot[anchors] = True
        self._slot_of_entry[entries] = anchors.gather(1, labels)
        self._values.append((anchors.flatten(), values.flatten(0, 1)))

    def merge_clusters(self, entries: Tensor, clusters: Peaks, values: Tensor) -> None:
        """Merge ``entries (B, n)`` into the centres of their clusters, which get ``values (B, m, D)``."""
        self.merge(entries, entries.gather(1, clusters.centers), clusters.labels, values)

    def build(self, total: int) -> Selection:
        """The selection, which has ``total`` slots."""
        builder = SelectionBuilder(self._tokens)
        slots = torch.where(self._slot_of_entry >= 0, self.grid_indices[self._slot_of_entry.clamp_min(0)], -1)
        entry_of_token = to_device(self.groups.entry_of_token, self.device)
        builder.assign(torch.arange(len(entry_of_token), device=self.device), slots[entry_of_token])
        builder.keep(self.grid_indices[true_indices(self._is_slot, total - len(self._extra))])
        builder.keep(to_device(self._extra, self.device))
        for entries, values in self._values:
            builder.set_values(self.grid_indices[entries], values)
        return replace(builder.build(self.groups.segments, total), notes=fallback_note(self.device))


def _most_salient_repeats(saliency: Tensor, groups: TokenGroups, number: int) -> Tensor:
    """The ``number`` most salient static tokens outside the first frame of their segment; all on the host."""
    tokens = torch.arange(len(groups.entry_of_token))
    repeats = (groups.grid_indices[groups.entry_of_token] != tokens).nonzero().flatten()
    order = saliency[repeats].sort(descending=True, stable=True).indices
    return repeats[order[:number]]


def _static_tokens(groups: TokenGroups, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens of all static entries, index of each entry's first token among them, static entry of each token).

    All on the host.

    Parameters
    ----------
    excluded: tokens to leave out, none of them in the first frame of its segment.
    """
    number = torch.full_like(groups.grid_indices, -1)
    number[groups.static_entries] = torch.arange(len(groups.static_entries))
    entry = number[groups.entry_of_token]
    entry[excluded] = -1
    tokens = (entry >= 0).nonzero().flatten()
    tokens = tokens[entry[tokens].sort(stable=True).indices]
    first = torch.searchsorted(entry[tokens], torch.arange(len(groups.static_entries)))
    return tokens, first, entry[tokens]


def _mean_over_time(values: Tensor, tokens: Tensor, first: Tensor, entry: Tensor) -> Tensor:
    """Means ``(C, D)`` of ``values (N, D)`` over the tokens of each static entry; an exact copy if they are equal."""
    tokens, first, entry = (to_device(part, values.device) for part in (tokens, first, entry))
    return blend_ragged(values, tokens, first, entry, 0.0)
