"""The two steps of Tango (arXiv 2604.09547): salient token selection (STS) and spatio-temporal merging (STM).

Both work on the groups of a segmented video (`tangovlm.methods.common.groups`); the caller decides how many tokens each
group keeps. ``points`` is a function that returns ``(k, D)`` in float32 or float64 for grid
indices ``(k,)``: the tokens after ST-RoPE, between which distances are measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...budget import GroupCount, candidates
from ...kernels.blend import blend_ragged
from ...kernels.dpc_knn import dpc_knn_ragged
from .groups import GroupedSelectionBuilder, TokenGroups
from .selection import to_device, top_indices

Points = Callable[[Tensor], Tensor]


def select_salient(
    builder: GroupedSelectionBuilder,
    points: Points,
    counts: Sequence[GroupCount],
    *,
    expansion: float,
    neighbors: int,
    diversity: bool,
) -> None:
    """Keep ``count.salient`` entries of every group unchanged (STS).

    The ``expansion * count.salient`` most salient entries are candidates; `select_diverse` chooses among them. Without
    ``diversity`` the most salient entries are kept. Candidates are determined on the CPU, where the saliency is.
    """
    kept, shortlists = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    sizes, keep = [], []
    for entries, number, _ in builder.batches([count.salient for count in counts]):
        size = candidates(number, expansion, entries.shape[1]) if diversity else number
        shortlist = entries.gather(1, top_indices(builder.saliency[entries], size))
        if size == number:
            kept.append(shortlist.flatten())
        else:
            shortlists.append(shortlist.flatten())
            sizes += [size] * len(shortlist)
            keep += [number] * len(shortlist)
    builder.keep(to_device(torch.cat(kept), builder.device))
    if sizes:
        shortlist = to_device(torch.cat(shortlists), builder.device)
        entry_points: Points = lambda entries: points(builder.grid_indices[entries])  # noqa: E731
        builder.keep(select_diverse(entry_points, shortlist, sizes, keep, neighbors))


def select_diverse(
    points: Points, shortlist: Tensor, sizes: Sequence[int], keep: Sequence[int], neighbors: int
) -> Tensor:
    """Choose diverse entries among the candidates of each group.

    The candidates of a group are clustered by DPC-KNN into as many clusters as it keeps, and the most salient entry of
    each cluster is chosen.

    Parameters
    ----------
    points: ``(k, D)`` for entries ``(k,)``.
    shortlist: ``(M,)`` int64, the candidates of all groups, group after group, by descending saliency.
    sizes, keep: candidates of each group, and how many of them are chosen.

    Returns the chosen entries, ``(sum of keep,)`` int64, group after group in no particular order.
    """
    device = shortlist.device
    labels = dpc_knn_ragged(lambda numbers: points(shortlist[numbers]), sizes, keep, neighbors, device=device).labels
    # The shortlist descends, so the first member of a cluster is its most salient one.
    rank = torch.arange(len(labels), device=device)
    first = torch.full((sum(keep),), len(labels), device=device).scatter_reduce_(0, labels, rank, "amin")
    return shortlist[first]


def merge_remaining(
    builder: GroupedSelectionBuilder,
    points: Points,
    counts: Sequence[GroupCount],
    *,
    neighbors: int,
    anchor_weight: float,
    merge: bool,
    misplace: bool,
) -> None:
    """Cluster the entries that selection left, and merge each cluster into its centre, the anchor (STM).

    The static group of a segment is clustered separately, its dynamic groups together.

    Parameters
    ----------
    anchor_weight: weight of an anchor against the mean of its cluster.
    merge: False keeps the anchors unchanged and drops the others.
    misplace: store the merged values in the order of the authors' code; see `tangovlm.Tango.placement`.
    """
    pools = _pools(builder.groups, counts)
    remaining = builder.not_kept(sum(pool.size for pool in pools))
    builder.keep(remaining[_members([pool for pool in pools if 0 < pool.anchors == pool.size], builder.device)])
    # Adjacent pools of equal shape are clustered together; static pools come first.
    crowded = sorted(
        (pool for pool in pools if 0 < pool.anchors < pool.size), key=lambda p: (not p.static, p.size, p.anchors)
    )
    if not crowded:
        return
    entries = remaining[_members(crowded, builder.device)]
    clusters = dpc_knn_ragged(
        lambda numbers: points(builder.grid_indices[entries[numbers]]),
        [pool.size for pool in crowded],
        [pool.anchors for pool in crowded],
        neighbors,
        device=builder.device,
        ordered=misplace,
    )
    if not merge:
        builder.keep(entries[clusters.centers])
        return
    # The release computes the values in ascending order of the anchors but stores them in order of score.
    anchors = entries[clusters.order if misplace else clusters.centers]
    members = sum(pool.size for pool in crowded if pool.static)
    static = sum(pool.anchors for pool in crowded if pool.static)
    merged = torch.cat(
        [
            blend_ragged(
                builder.static_means,
                builder.static_number(entries[:members]),
                clusters.centers[:static],
                clusters.labels[:members],
                anchor_weight,
            ),
            blend_ragged(
                builder.features,
                builder.grid_indices[entries[members:]],
                clusters.centers[static:] - members,
                clusters.labels[members:] - static,
                anchor_weight,
            ),
        ]
    )
    builder.merge(entries[None], anchors[None], clusters.labels[None], merged[None])


@dataclass(frozen=True)
class _Pool:
    """Entries that are clustered together.

    Parameters
    ----------
    start: the first of them among the remaining entries.
    size: their number.
    anchors: clusters to form.
    static: whether they are static entries.
    """

    start: int
    size: int
    anchors: int
    static: bool


def _pools(groups: TokenGroups, counts: Sequence[GroupCount]) -> list[_Pool]:
    """The entries that selection leaves, in their order."""
    pools: list[_Pool] = []
    start = 0
    remaining = iter(counts)
    for shape in groups.shapes:
        for static, size, number in ((True, shape.static, 1), (False, shape.dynamic, shape.frames)):
            if size:
                of_pool = [next(remaining) for _ in range(number)]
                left = sum(size - count.salient for count in of_pool)
                pools.append(_Pool(start, left, sum(count.kept - count.salient for count in of_pool), static))
                start += left
    return pools


def _members(pools: list[_Pool], device: torch.device) -> Tensor:
    """The indices of the pools' entries among the remaining ones, pool after pool."""
    parts = [torch.arange(pool.start, pool.start + pool.size) for pool in pools]
    return to_device(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64), device)
