"""From decoded frames to pixels and patches, with torch only (stock processors need torchvision)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError, ModelError

# PIL's numbers, which preprocessor configs use.
_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class PixelSpec:
    """How pixels are computed for a checkpoint, as in its preprocessor config.

    Parameters
    ----------
    size: height and width.
    mean, std: per channel, of values after rescaling; 0 and 1 without normalisation.
    rescale: factor for bytes, usually 1 / 255; 1 without rescaling.
    mode: "bicubic", "bilinear" or "lanczos", always with antialiasing.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float = 1 / 255
    mode: str = "bicubic"

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], default: "PixelSpec", size: tuple[int, int] | None = None
    ) -> "PixelSpec":
        """Read a video or image preprocessor config; missing fields are those of `default`.

        `do_rescale` and `do_normalize` are applied; `do_resize` is handled by the families.

        Parameters
        ----------
        size: height and width, instead of those in the config.

        Raises
        ------
        ModelError: a field that is not supported, or has an invalid value.
        """
        resample, mode = config.get("resample"), default.mode
        if resample is not None:
            if not isinstance(resample, int) or resample not in _RESAMPLE:
                raise ModelError(f"the preprocessor config has resample {resample!r}: only 1, 2 and 3 are supported")
            mode = _RESAMPLE[resample]
        rescale = _or(config.get("rescale_factor"), default.rescale)
        spec = cls(
            size=_size(config, default) if size is None else size,
            mean=_numbers("image_mean", config.get("image_mean"), default.mean),
            std=_numbers("image_std", config.get("image_std"), default.std, positive=True),
            rescale=_numbers("rescale_factor", [rescale], (rescale,), positive=True)[0],
            mode=mode,
        )
        if not flag(config, "do_rescale"):
            spec = replace(spec, rescale=1.0)
        if not flag(config, "do_normalize"):
            channels = len(default.mean)
            spec = replace(spec, mean=(0.0,) * channels, std=(1.0,) * channels)
        return spec


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def flag(config: Mapping[str, Any], name: str) -> bool:
    """A field of a preprocessor config such as `do_resize`, true if missing; `ModelError` unless it is a bool."""
    value = _or(config.get(name), True)
    if not isinstance(value, bool):
        raise ModelError(f"the preprocessor config has {name} {value!r}: it must be true or false")
    return value


def unresized(height: int, width: int, accepted: str) -> InputError:
    """The error for frames that the config does not resize (`do_resize`), in a size that the model does not accept.

    Parameters
    ----------
    height, width: of the frames in pixels.
    accepted: sizes that the model accepts, such as "384 x 384 pixels".
    """
    return InputError(
        f"the frames have {height} x {width} pixels and the preprocessor config has do_resize false, but the model "
        f"takes {accepted}: scale the video to that"
    )


def _size(config: Mapping[str, Any], default: PixelSpec) -> tuple[int, int]:
    size = _or(config.get("size"), {"height": default.size[0], "width": default.size[1]})
    if not isinstance(size, Mapping) or not {"height", "width"} <= set(size):
        raise ModelError(f"the preprocessor config has size {size!r}: only height and width are supported")
    return whole("height", size["height"]), whole("width", size["width"])


def whole(name: str, value: Any) -> int:
    """A field of a preprocessor config that is a count; `ModelError` unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1 or value != value // 1:
        raise ModelError(f"the preprocessor config has {name} {value!r}: it must be a whole number from 1 on")
    return int(value)


def _numbers(name: str, given: Any, default: tuple[float, ...], positive: bool = False) -> tuple[float, ...]:
    """Finite numbers, as many as in the default."""
    values = given if given else default
    fits = isinstance(values, (list, tuple)) and len(values) == len(default)
    least = 0 if positive else -math.inf
    # NaN is not greater than anything.
    if not fits or not all(isinstance(value, (int, float)) and least < value < math.inf for value in values):
        bound = " above 0" if positive else ""
        raise ModelError(
            f"the preprocessor config has {name} {given!r}: it must have {len(default)} finite numbers{bound}"
        )
    return tuple(values)


def check_frames(frames: Tensor) -> None:
    """Raise `InputError` unless frames are uint8 ``(T, 3, H, W)`` and not empty."""
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[1] != 3 or frames.numel() == 0:
        raise InputError(f"frames must be uint8 (T, 3, H, W) with T >= 1, not {frames.dtype} {tuple(frames.shape)}")


def prepare_pixels(frames: Tensor, spec: PixelSpec) -> Tensor:
    """Resize, rescale and normalise: uint8 ``(T, 3, H, W)`` to float32 ``(T, 3, height, width)``, on the frames'
    device.

    As in the stock processors, resized values are rounded to bytes. The original frames are never copied as floats.

    Raises
    ------
    InputError: see `check_frames`.
    """
    check_frames(frames)
    # Explicit, as a Python number times bytes would have torch's default dtype.
    as_float: dict[str, Any] = {"dtype": torch.float32, "device": frames.device}
    mean = torch.tensor(spec.mean, **as_float).view(3, 1, 1)
    std = torch.tensor(spec.std, **as_float).view(3, 1, 1)
    rescale = torch.tensor(spec.rescale, **as_float)
    pixels = torch.empty(*frames.shape[:2], *spec.size, **as_float)
    fits = tuple(frames.shape[-2:]) == spec.size
    # Frame by frame the data stay in a CPU's cache. On other devices the number of calls matters.
    together = fits and frames.device.type != "cpu"
    for target, source in [(pixels, frames)] if together else zip(pixels, frames, strict=True):
        torch.mul(source if fits else _resize(source, spec), rescale, out=target).sub_(mean).div_(std)
    return pixels


def _resize(frame: Tensor, spec: PixelSpec) -> Tensor:
    mode = "bicubic" if spec.mode == "lanczos" and not _has_lanczos() else spec.mode
    # On the CPU bytes are resized as bytes, as in the stock processors: PIL's fixed-point filter is clipped between its
    # two passes, and differs from the float filter by more than rounding at edges. Lanczos exists on the CPU only.
    on_cpu = frame.device.type == "cpu" or mode == "lanczos"
    image = frame.cpu()[None] if on_cpu else frame[None].float()
    resized = functional.interpolate(image, size=spec.size, mode=mode, antialias=True)[0]
    return resized.to(frame.device).float().round().clamp(0, 255)


@cache
def _has_lanczos() -> bool:
    """Whether torch has the filter; without it (before 2.12), stock processors use the bicubic one as well."""
    try:
        functional.interpolate(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), size=(1, 1), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError, RuntimeError):
        return False
    return True


def patches(frames: Tensor, side: int, merge: int, frames_per_step: int) -> tuple[Tensor, Tensor]:
    """Divide frames into a sequence of patches, in which those of one token are contiguous.

    Parameters
    ----------
    frames: ``(T, 3, height, width)``, sides multiples of ``side * merge``.
    side: side of a patch in pixels.
    merge: side of a token in patches.
    frames_per_step: frames of a patch; the last frame is repeated to fill the last patch.

    Returns
    -------
    ``(S, 3 * frames_per_step * side * side)`` and ``(1, 3)`` int64: steps, rows and columns of patches.
    """
    missing = -frames.shape[0] % frames_per_step
    frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames
    steps, rows, columns = frames.shape[0] // frames_per_step, frames.shape[2] // side, frames.shape[3] // side
    # (step, frame, colour, then rows and columns each as: token, patch, pixel)
    split = frames.reshape(steps, frames_per_step, 3, rows // merge, merge, side, columns // merge, merge, side)
    sequence = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(steps * rows * columns, -1)
    return sequence, torch.tensor([[steps, rows, columns]], device=frames.device)
