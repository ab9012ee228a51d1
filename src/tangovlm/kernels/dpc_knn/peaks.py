"""What clustering by density peaks gives."""

from typing import NamedTuple

from torch import Tensor


class Peaks(NamedTuple):
    """Clusters around centres, all int64; one batch dimension where pools are alike, none where they are ragged."""

    centers: Tensor  # ascending in each pool
    order: Tensor  # the same centres, by descending score if that was asked for
    labels: Tensor  # cluster of each point, a position in `centers`
