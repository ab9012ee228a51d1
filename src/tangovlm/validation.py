"""Validation of the tensors in `tangovlm.VideoTokens`.

Checks of values read each device once.
"""

import torch
from torch import Tensor

from .errors import InputError

Fault = tuple[Tensor, str]
"""A flag on the device, and the error message if it is set."""

_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_sink_tokens(name: str, positions: tuple[int, ...], height: int, width: int) -> None:
    """Raise `InputError` unless all positions are integers inside the ``height`` x ``width`` grid."""
    if not isinstance(positions, (tuple, list)):
        raise InputError(f"{name} must be a tuple of grid positions h * W + w, not {positions!r}")
    for position in positions:
        if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < height * width:
            raise InputError(
                f"{name} has {position!r}: positions are integers h * W + w, 0 to {height * width - 1} "
                f"on a grid of {height} x {width}"
            )


def check_tensor(name: str, value: object, layout: str) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"VideoTokens.{name} must be a tensor {layout}, not {type(value).__name__}")
    if value.ndim != layout.count(",") + 1 or value.numel() == 0:
        raise InputError(f"VideoTokens.{name} must be {layout} with no empty dimension, not {tuple(value.shape)}")
    if value.dtype not in _TYPES:
        raise InputError(
            f"VideoTokens.{name} must be float16, bfloat16, float32 or float64, not {value.dtype}: convert it with "
            ".float()"
        )


def not_finite(name: str, value: Tensor) -> Fault:
    # The extremes of values with a NaN are NaN; no tensor of the size of the values is allocated.
    extremes = torch.stack(torch.aminmax(value))
    message = f"VideoTokens.{name} has NaN or infinite values: check the model's outputs and its dtype"
    return ~torch.isfinite(extremes).all(), message


def raise_first(faults: list[Fault]) -> None:
    """Read the flags back, once per device, and raise `InputError` for the first one that is set."""
    devices = {flag.device for flag, _ in faults}
    flags = {
        device: iter(torch.stack([flag for flag, _ in faults if flag.device == device]).tolist()) for device in devices
    }
    for flag, message in faults:
        if next(flags[flag.device]):
            raise InputError(message)


def timestamp_faults(value: object, frames: int) -> list[Fault]:
    if not isinstance(value, Tensor):
        raise InputError(f"VideoTokens.timestamps must be a tensor (T,) of seconds, not {type(value).__name__}")
    if value.shape != (frames,) or value.is_complex() or value.dtype == torch.bool:
        raise InputError(
            f"VideoTokens.timestamps must be ({frames},) real seconds, one per frame, "
            f"not {tuple(value.shape)} {value.dtype}"
        )
    return [
        (
            ~torch.isfinite(value).all(),
            "VideoTokens.timestamps has NaN or infinite values: pass seconds, or None for one frame per second",
        ),
        (
            ~(value[1:] > value[:-1]).all(),
            "VideoTokens.timestamps must increase strictly: sort the frames by time and drop repeats",
        ),
    ]
