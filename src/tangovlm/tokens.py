"""What flows between the stages. All containers are frozen; nothing in the library writes into their tensors.

Shape letters used throughout the package:

    T  frames            H, W  rows and columns of the token grid       L  tokens of a frame, H * W
    N  all tokens, T*L   D     channels of the language model           K  kept tokens (slots)
    S  temporal segments Dv    channels of a global frame feature       Dk channels of an encoder key

Grid index of the token at frame t, row h, column w: (t * H + h) * W + w ("frame-major raster order").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .errors import InputError

NO_TIMESTAMPS = "no timestamps given: frames are taken as one second apart"
# A flag on the device, and the message for when it is set.
_Fault = tuple[Tensor, str]
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """The visual tokens of one video and the signals that came with them.

    Parameters
    ----------
    features: ``(T, H, W, D)`` floating; projected and pooled tokens, as the language model would get them.
    saliency: ``(T, H, W)`` floating, >= 0; how much the vision encoder looks at each token.
    timestamps: ``(T,)`` seconds, strictly increasing; None means one second apart.
    frame_features: ``(T, Dv)`` floating; one global vector a frame.
    keys: ``(T, H, W, Dk)`` floating; key vectors of the vision encoder.
    sink_tokens: grid positions ``h * W + w`` that the encoder is known to over-attend; None means unknown.

    Raises
    ------
    InputError: a wrong shape or type, an empty grid, NaN or infinite values, negative saliency, unordered timestamps.
    """

    features: Tensor
    saliency: Tensor | None = None
    timestamps: Tensor | None = None
    frame_features: Tensor | None = None
    keys: Tensor | None = None
    sink_tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_tensor("features", self.features, "(T, H, W, D)")
        frames, height, width, _ = self.features.shape
        grid = (frames, height, width)
        faults = [_not_finite("features", self.features)]
        if self.saliency is not None:
            self._check_signal("saliency", self.saliency, "(T, H, W)", grid)
            faults.append(_not_finite("saliency", self.saliency))
            negative = "VideoTokens.saliency has negative values: pass attention weights, which are >= 0"
            faults.append(((self.saliency < 0).any(), negative))
        if self.frame_features is not None:
            self._check_signal("frame_features", self.frame_features, "(T, Dv)", (frames,))
            faults.append(_not_finite("frame_features", self.frame_features))
        if self.keys is not None:
            self._check_signal("keys", self.keys, "(T, H, W, Dk)", grid)
            faults.append(_not_finite("keys", self.keys))
        if self.timestamps is not None:
            faults += _timestamp_faults(self.timestamps, frames)
        if self.sink_tokens is not None:
            check_sink_tokens("VideoTokens.sink_tokens", self.sink_tokens, height, width)
        _raise_first(faults)

    def _check_signal(self, name: str, value: Tensor, layout: str, leading: tuple[int, ...]) -> None:
        _check_tensor(name, value, layout)
        if tuple(value.shape[: len(leading)]) != leading:
            raise InputError(
                f"VideoTokens.{name} must be {layout} and agree with features {tuple(self.features.shape)}, "
                f"not {tuple(value.shape)}"
            )
        if value.device != self.features.device:
            raise InputError(
                f"VideoTokens.{name} is on {value.device} but features are on {self.features.device}: move one of them"
            )

    @property
    def frames(self) -> int:
        """T."""
        return self.features.shape[0]

    @property
    def height(self) -> int:
        """H, rows of the grid."""
        return self.features.shape[1]

    @property
    def width(self) -> int:
        """W, columns of the grid."""
        return self.features.shape[2]

    @property
    def dim(self) -> int:
        """D, channels of a token."""
        return self.features.shape[3]

    @property
    def count(self) -> int:
        """N = T * H * W."""
        return self.frames * self.height * self.width


@dataclass(frozen=True, eq=False)
class Selection:
    """What a method keeps of one video.

    Parameters
    ----------
    indices: ``(K,)`` int64, strictly increasing grid indices of the slots.
    features: ``(K, D)`` in the type of the input features; the value that stands at each slot.
    sources: ``(T, H, W)`` int64; the slot that each input token went into, -1 where it was dropped.
    segments: frames per temporal segment; they sum to T.
    notes: fallbacks that the user should know of.
    """

    indices: Tensor
    features: Tensor
    sources: Tensor
    segments: tuple[int, ...]
    notes: tuple[str, ...] = ()


class Pruner(Protocol):
    """A method that reduces tokens before the language model. Implementations are frozen dataclasses.

    ``needs`` names the optional signals it reads: a subset of saliency, timestamps, frame_features, keys. A method
    that reads the saliency has a ``signal`` too, the attention that it is meant to be: "attn", the mean attention that
    a token gets in the vision encoder's last layer, or "p-attn", that of the encoder's pooling head.
    """

    @property
    def stage(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def retention(self) -> float: ...

    @property
    def needs(self) -> frozenset[str]: ...

    def __call__(self, tokens: VideoTokens) -> Selection: ...


@dataclass(frozen=True)
class VideoReport:
    """What happened to one video: counts and times.

    `tokens_before` and `tokens_after` are tokens of the grid, before reduction and as they entered the language model;
    `newlines_before` and `newlines_after` are what a model puts between or behind them. `tokens_per_layer` is what each
    layer held of the tokens, empty where nothing was pruned inside the model.
    """

    tokens_before: int
    tokens_after: int
    retention: float
    method: str
    segments: tuple[int, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tokens_per_layer: tuple[int, ...] = ()
    newlines_before: int = 0
    newlines_after: int = 0

    @property
    def equivalent_retention(self) -> float:
        """Mean kept fraction over the layers of the language model, as counted (Tango paper, Eq. 1)."""
        layers = self.tokens_per_layer or (self.tokens_after,)
        return sum(layers) / len(layers) / self.tokens_before

    @property
    def retention_with_newlines(self) -> float:
        """Fraction of what the language model would get of the video unpruned, newlines among it, that it got."""
        return (self.tokens_after + self.newlines_after) / (self.tokens_before + self.newlines_before)


@dataclass(frozen=True)
class Report:
    """What happened in one call of a model: one entry a video, and the times of the stages they share."""

    videos: tuple[VideoReport, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def tokens_before(self) -> int:
        """Visual tokens of all videos before reduction."""
        return sum(video.tokens_before for video in self.videos)

    @property
    def tokens_after(self) -> int:
        """Visual tokens of all videos that the language model got."""
        return sum(video.tokens_after for video in self.videos)


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


def _check_tensor(name: str, value: object, layout: str) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"VideoTokens.{name} must be a tensor {layout}, not {type(value).__name__}")
    if value.ndim != layout.count(",") + 1 or value.numel() == 0:
        raise InputError(f"VideoTokens.{name} must be {layout} with no empty dimension, not {tuple(value.shape)}")
    if value.dtype not in _TYPES:
        raise InputError(
            f"VideoTokens.{name} must be float16, bfloat16, float32 or float64, not {value.dtype}: convert it with "
            ".float()"
        )


def _not_finite(name: str, value: Tensor) -> _Fault:
    # The extremes of values with a NaN are NaN, and nothing of the size of the values is made.
    extremes = torch.stack(torch.aminmax(value))
    message = f"VideoTokens.{name} has NaN or infinite values: check the model's outputs and its dtype"
    return ~torch.isfinite(extremes).all(), message


def _raise_first(faults: list[_Fault]) -> None:
    """Ask each device once which of the faults there are, and raise `InputError` for the first."""
    devices = {flag.device for flag, _ in faults}
    found = {
        device: iter(torch.stack([flag for flag, _ in faults if flag.device == device]).tolist()) for device in devices
    }
    for flag, message in faults:
        if next(found[flag.device]):
            raise InputError(message)


def _timestamp_faults(value: object, frames: int) -> list[_Fault]:
    if not isinstance(value, Tensor):
        raise InputError(f"VideoTokens.timestamps must be a tensor (T,) of seconds, not {type(value).__name__}")
    if value.shape != (frames,) or value.is_complex() or value.dtype == torch.bool:
        raise InputError(
            f"VideoTokens.timestamps must be ({frames},) real seconds, one a frame, "
            f"not {tuple(value.shape)} {value.dtype}"
        )
    return [
        (
            ~torch.isfinite(value).all(),
            "VideoTokens.timestamps has NaN or infinite values: pass seconds, or None for one a second",
        ),
        (
            ~(value[1:] > value[:-1]).all(),
            "VideoTokens.timestamps must increase strictly: sort the frames by time and drop repeats",
        ),
    ]
