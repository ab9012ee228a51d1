"""Between the host, which decides on counts, and the device of the features, without waiting more than needed."""

import torch
from torch import Tensor


def to_host(*values: Tensor) -> list[Tensor]:
    """Copies of floating tensors on the host, in a single transfer."""
    packed = torch.cat([value.flatten() for value in values]).cpu()
    sizes = [value.numel() for value in values]
    parts = torch.split(packed, sizes)
    return [part.view(value.shape).to(value.dtype) for part, value in zip(parts, values, strict=True)]


def send(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on another device, without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def positions(mask: Tensor, number: int) -> Tensor:
    """``(number,)`` int64, ascending: where ``mask (n,)`` is True, which it is ``number`` times.

    On another device than the host, its length is not asked for, so that nothing waits for the device.
    """
    if mask.device.type == "cpu":
        found = mask.nonzero().flatten()
        assert len(found) == number
        return found
    return mask.byte().sort(descending=True, stable=True).indices[:number]
