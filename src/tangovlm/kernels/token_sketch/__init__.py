"""Sketches of tokens: few integers per token, whose distances are exact and stand for cosine distances."""

from torch import Tensor

from .pytorch import MAX_CHANNELS, SCALE, sketch_torch, to_grid

__all__ = ["MAX_CHANNELS", "SCALE", "sketch_tokens", "to_grid"]


def sketch_tokens(features: Tensor, channels: int) -> Tensor:
    """Project each token on few channels, scale it to unit length, and round it to a grid.

    Channel k of a token is added, with a sign that depends on k only, to channel ``k % channels`` of its sketch (count
    sketch, Charikar et al. 2002); tokens of at most ``channels`` channels are not projected. The sketch is divided by
    its norm and multiplied by `SCALE`, and its coordinates are rounded to integers, halves to even.

    Coordinates are integers below 2^11, and the squared distance of two sketches, or of two rounded means of sketches,
    is one below 2^24: float32 and TF32 hold them and all partial sums exactly, so that distances between sketches are
    the same on every device, in any order of summation. Half the squared distance, divided by ``SCALE^2``, estimates
    one minus the cosine of two tokens, with a standard deviation of about ``sqrt(2 / channels)`` times the estimate.

    Parameters
    ----------
    features: ``(N, D)``, any floating type.
    channels: m, 1 to `MAX_CHANNELS`.

    Returns ``(N, min(D, m))`` float32 of integers; a zero token has a zero sketch. Every device returns the same.
    """
    return sketch_torch(features, channels)
