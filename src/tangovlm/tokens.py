"""The data that stages exchange.

All containers are frozen; nothing in the library writes into their tensors.

Shape letters used throughout the package:

    T  frames            H, W  rows and columns of the token grid       L  tokens of a frame, H * W
    N  all tokens, T*L   D     channels of the language model           K  kept tokens (slots)
    S  temporal segments Dv    channels of a global frame feature       Dk channels of an encoder key

Grid index of the token at frame t, row h, column w: (t * H + h) * W + w ("frame-major raster order").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from . import _wording as wording
from .errors import InputError
from .validation import check_sink_tokens, check_tensor, not_finite, raise_first, timestamp_faults

NO_TIMESTAMPS = "no timestamps given: frames are taken as one second apart"


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """The visual tokens of one video, and optional signals from the vision encoder.

    Parameters
    ----------
    features: ``(T, H, W, D)`` floating point; projected and pooled tokens, as the language model would receive them.
    saliency: ``(T, H, W)`` floating point, >= 0; the attention that each token receives in the vision encoder.
    timestamps: ``(T,)`` seconds, strictly increasing; None means one second apart.
    frame_features: ``(T, Dv)`` floating point; one global vector per frame.
    keys: ``(T, H, W, Dk)`` floating point; key vectors of the vision encoder.
    sink_tokens: grid positions ``h * W + w`` that the encoder over-attends to (attention sinks); None means unknown.

    Raises
    ------
    InputError: a wrong shape or dtype, an empty grid, NaN or infinite values, negative saliency, unordered timestamps.

    Examples
    --------
    >>> import tangovlm, torch
    >>> tokens = tangovlm.VideoTokens(
    ...     features=torch.rand(8, 14, 14, 64), saliency=torch.rand(8, 14, 14), timestamps=torch.arange(8) * 0.5
    ... )
    >>> tokens.frames, tokens.count
    (8, 1568)
    >>> tangovlm.VideoTokens(tokens.features[0])
    Traceback (most recent call last):
    tangovlm.errors.InputError: VideoTokens.features must be (T, H, W, D) with no empty dimension, not (14, 14, 64)
    """

    features: Tensor
    saliency: Tensor | None = None
    timestamps: Tensor | None = None
    frame_features: Tensor | None = None
    keys: Tensor | None = None
    sink_tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_tensor("features", self.features, "(T, H, W, D)")
        frames, height, width, _ = self.features.shape
        grid = (frames, height, width)
        faults = [not_finite("features", self.features)]
        if self.saliency is not None:
            self._check_signal("saliency", self.saliency, "(T, H, W)", grid)
            faults.append(not_finite("saliency", self.saliency))
            negative = "VideoTokens.saliency has negative values: pass attention weights, which are >= 0"
            faults.append(((self.saliency < 0).any(), negative))
        if self.frame_features is not None:
            self._check_signal("frame_features", self.frame_features, "(T, Dv)", (frames,))
            faults.append(not_finite("frame_features", self.frame_features))
        if self.keys is not None:
            self._check_signal("keys", self.keys, "(T, H, W, Dk)", grid)
            faults.append(not_finite("keys", self.keys))
        if self.timestamps is not None:
            faults += timestamp_faults(self.timestamps, frames)
        if self.sink_tokens is not None:
            check_sink_tokens("VideoTokens.sink_tokens", self.sink_tokens, height, width)
        raise_first(faults)

    def _check_signal(self, name: str, value: Tensor, layout: str, leading: tuple[int, ...]) -> None:
        check_tensor(name, value, layout)
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
    """The tokens of one video that a method keeps.

    Parameters
    ----------
    indices: ``(K,)`` int64, strictly increasing grid indices of the slots.
    features: ``(K, D)`` in the dtype of the input features; the value of each slot.
    sources: ``(T, H, W)`` int64; the slot that each input token was merged into, -1 if it was dropped.
    segments: frames per temporal segment; they sum to T.
    notes: fallbacks that the user should know about.

    Examples
    --------
    Two frames of 1 x 2 tokens, of which the second shows nothing new at its first position:

    >>> import tangovlm, torch
    >>> features = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[1.0, 0.0], [-1.0, 0.0]]]])
    >>> selection = tangovlm.Milonga(retention=0.75)(tangovlm.VideoTokens(features))
    >>> selection.indices, selection.features.shape
    (tensor([0, 1, 3]), torch.Size([3, 2]))
    >>> selection.sources.tolist()
    [[[0, 1]], [[0, 2]]]

    Which tokens were merged into slot 0, as frame, row and column:

    >>> (selection.sources == 0).nonzero().tolist()
    [[0, 0, 0], [1, 0, 0]]
    """

    indices: Tensor
    features: Tensor
    sources: Tensor
    segments: tuple[int, ...]
    notes: tuple[str, ...] = ()


class Pruner(Protocol):
    """The interface of a method before the language model; any object that implements it can be attached.

    The library's methods derive from `tangovlm.methods.common.base.PreLLMMethod`. ``needs`` is the set of signals that
    the method reads: a subset of saliency, timestamps, frame_features and keys; a model family must provide those that
    are not among its ``optional`` ones. A method that reads the saliency may have an attribute ``signal``, what it is
    designed for: "attn", the mean attention to a token in the encoder's last layer, or "p-attn", that in its pooling
    head.
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
    """Counts and times of one video; ``str()`` returns a readable summary.

    Parameters
    ----------
    tokens_before, tokens_after: tokens of the grid, before reduction and as they entered the language model.
    retention: the intended fraction of tokens kept, on average over the layers (`FlexSelect`: of those after its own).
    method: name of the method or pair.
    segments: frames per temporal segment.
    timings_ms: milliseconds of the stages of this video alone.
    notes: fallbacks that the user should know about.
    tokens_per_layer: visual tokens in each layer; empty if nothing was pruned inside the model.
    newlines_before, newlines_after: tokens that a model inserts between or after those of the grid.
    first_pass_groups, first_pass_layers: visual tokens of the groups that a pass before the prefill read; its layers.
    tokens_cap: the most tokens that could be kept before the language model, if the content decided how many.
    encoded_frames: frames of the grid that the vision encoder ran on, if it was not all of them.
    medium: "video", or "image" for one that was pruned with `attach(..., images=True)`.
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
    first_pass_groups: tuple[int, ...] = ()
    first_pass_layers: int = 0
    tokens_cap: int | None = None
    encoded_frames: int | None = None
    medium: Literal["video", "image"] = "video"

    @property
    def equivalent_retention(self) -> float:
        """Mean kept fraction over the layers (Tango paper, Eq. 1); with a pass before the prefill, it may exceed 1."""
        layers = self.tokens_per_layer or (self.tokens_after,)
        first = self.first_pass_layers * sum(self.first_pass_groups)
        return (first + sum(layers)) / len(layers) / self.tokens_before

    def __str__(self) -> str:
        return "\n".join([self._line(), *wording.list_notes(self.notes)])

    def _line(self) -> str:
        parts = [f"{self.method}: {wording.change(self.tokens_before, self.tokens_after)}"]
        if self.tokens_cap is not None:
            parts.append(f"at most {self.tokens_cap}")
        if self.newlines_before:
            parts.append(f"{self.newlines_before} -> {self.newlines_after} newlines")
        if self.segments:
            parts.append(wording.describe_segments(self.segments))
        if self.encoded_frames is not None:
            parts.append(f"frames encoded: {self.encoded_frames}")
        if self.first_pass_groups:
            parts.append(wording.describe_first_pass(self.first_pass_groups, self.first_pass_layers))
        if self.tokens_per_layer:
            parts.append(wording.describe_layers(self.tokens_per_layer))
        return ", ".join([*parts, *wording.list_times(self.timings_ms)])


@dataclass(frozen=True)
class Report:
    """Counts and times of one call of a model; ``print(report)`` shows a readable summary.

    Parameters
    ----------
    videos: one report per video, and per image that was pruned.
    timings_ms: milliseconds of each stage, all videos together.
    notes: fallbacks that the user should know about.

    Examples
    --------
    `attach` and `EncodedClip` make reports; this one is made by hand:

    >>> import tangovlm
    >>> from tangovlm.tokens import VideoReport
    >>> video = VideoReport(6272, 627, 0.1, "tango", (8, 24), newlines_before=1, newlines_after=1)
    >>> report = tangovlm.Report((video,), {"encode": 812.4, "prune": 21.05}, ("no timestamps given",))
    >>> report.tokens_before, report.tokens_after, report.timings_ms["prune"]
    (6272, 627, 21.05)
    >>> print(report)
    1 video: 6272 -> 627 visual tokens (10.0 %)
      video 1: tango: 6272 -> 627 tokens (10.0 %), 1 -> 1 newlines, 2 segments of 8 and 24 frames
    times: encode 812.4 ms, prune 21.1 ms
    note: no timestamps given
    """

    videos: tuple[VideoReport, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def tokens_before(self) -> int:
        """Visual tokens of all videos before reduction."""
        return sum(video.tokens_before for video in self.videos)

    @property
    def tokens_after(self) -> int:
        """Visual tokens of all videos that entered the language model."""
        return sum(video.tokens_after for video in self.videos)

    def __str__(self) -> str:
        if not self.videos:
            lines = ["no videos"]
        else:
            number = wording.count_media([video.medium for video in self.videos])
            lines = [f"{number}: {wording.change(self.tokens_before, self.tokens_after, 'visual tokens')}"]
            lines += [f"  {video.medium} {place}: {video._line()}" for place, video in enumerate(self.videos, start=1)]
        if self.timings_ms:
            lines.append("times: " + ", ".join(wording.list_times(self.timings_ms)))
        notes = dict.fromkeys([*self.notes, *(note for video in self.videos for note in video.notes)])
        return "\n".join([*lines, *wording.list_notes(notes)])
