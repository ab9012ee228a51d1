"""The features of the videos of one call, for later calls with the same pixels: several questions about one video."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..models.common.layout import Clip
from ..tokens import Selection, VideoReport


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """What a session records of one video; see `Records.add`."""

    clip: Clip
    report: VideoReport
    selection: Selection
    saliency: Tensor | None

    @property
    def has_dropped(self) -> bool:
        """Whether any token was dropped before the language model."""
        return self.selection.indices.numel() < self.clip.grid.tokens


@dataclass(frozen=True, eq=False)
class EncoderCall:
    """A call of the encoder and its result.

    Parameters
    ----------
    arguments: by position or name; tensors among them are referenced, so that no others can get their memory.
    versions: of these tensors, which count changes in place.
    output: with dropped features tagged.
    videos: one entry for each video.
    """

    arguments: Mapping[Any, Any]
    versions: Mapping[Any, int]
    output: Any
    videos: tuple[EncodedVideo, ...]


class Memo:
    """Stores the features of the last call whose pixels were encoded.

    Give the same memo to `attach_family` again only with the same family, method, timestamps and `chunk_frames`: only
    pixels are compared.

    Attributes
    ----------
    hits: number of calls that used stored features.
    """

    def __init__(self) -> None:
        self.hits = 0
        self._last: EncoderCall | None = None

    def find(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> EncoderCall | None:
        """The stored call, if it had the very same tensors, unchanged, and equal other arguments; else None."""
        last, arguments = self._last, _by_name(args, kwargs)
        if last is None or last.arguments.keys() != arguments.keys():
            return None
        for name, value in arguments.items():
            stored = last.arguments[name]
            if isinstance(value, Tensor) or isinstance(stored, Tensor):
                if not _is_same_view(value, stored) or value._version != last.versions[name]:
                    return None
            elif value != stored:
                return None
        self.hits += 1
        return replace(last, output=copy(last.output))

    def store(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, videos: tuple[EncodedVideo, ...]
    ) -> None:
        """Store a call in place of the one before."""
        arguments = _by_name(args, kwargs)
        versions = {name: value._version for name, value in arguments.items() if isinstance(value, Tensor)}
        # For beams, stock code writes copies of features into the output that it was given.
        self._last = EncoderCall(arguments, versions, copy(output), videos)


def _by_name(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Any, Any]:
    return {**dict(enumerate(args)), **kwargs}


def _is_same_view(one: Any, other: Any) -> bool:
    """Whether two are views of the same memory with the same layout."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    layout = (one.data_ptr(), one.dtype, one.device, one.shape, one.stride())
    return layout == (other.data_ptr(), other.dtype, other.device, other.shape, other.stride())
