"""Runs of tokens: what stays alike at a position of the grid over adjacent frames."""

from torch import Tensor

from .. import variant
from .pytorch import find_runs_torch

__all__ = ["find_runs"]


def find_runs(points: Tensor, limit: Tensor) -> Tensor:
    """Group the tokens at each position of the grid into runs of adjacent frames.

    A token joins the run of the frame before if its squared distance to the *first* token of that run is at
    most ``limit``, so that a slow change ends a run as a sudden one does; otherwise it begins a run.

    Parameters
    ----------
    points: ``(T, L, m)`` float32 of integers, see `tangovlm.kernels.token_sketch`: distances are exact.
    limit: ``()`` float32.

    Returns ``(T, L)`` int64: for each token the grid index ``t * L + l`` of the first token of its run.
    """
    if variant(points.device) == "triton":
        from .triton import find_runs_triton

        return find_runs_triton(points, limit)
    return find_runs_torch(points, limit)
