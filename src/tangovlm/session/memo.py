"""The features of the videos of one call, for later calls with the same pixels: several questions about one video."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..models.common.layout import Clip
from ..tokens import Selection, VideoReport


@dataclass(frozen=True, eq=False)
class Entry:
    """What a session writes down of one video; see `Records.add`."""

    clip: Clip
    report: VideoReport
    selection: Selection
    saliency: Tensor | None


@dataclass(frozen=True, eq=False)
class Kept:
    """What the encoder gave for some pixels.

    Parameters
    ----------
    arguments: of the call of the encoder, by place or name; the tensors among them are held, so that no others can
        take their places in memory.
    versions: of these tensors, which count changes in place.
    output: with dropped features tagged.
    entries: one a video.
    dropped: whether any feature was dropped.
    """

    arguments: Mapping[Any, Any]
    versions: Mapping[Any, int]
    output: Any
    entries: tuple[Entry, ...]
    dropped: bool


class Memo:
    """Keeps the features of the last call whose pixels were encoded.

    Give the same memo to `attach_family` again only with the same family, method, timestamps and number of frames
    at a time: pixels are all that is compared.

    Attributes
    ----------
    hits: how many calls got what was kept.
    """

    def __init__(self) -> None:
        self.hits = 0
        self._kept: Kept | None = None

    def find(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Kept | None:
        """What was kept for the very same tensors, unchanged, and equal other arguments; None if anything differs."""
        kept, asked = self._kept, _named(args, kwargs)
        if kept is None or kept.arguments.keys() != asked.keys():
            return None
        for name, value in asked.items():
            known = kept.arguments[name]
            if isinstance(value, Tensor) or isinstance(known, Tensor):
                if not _same(value, known) or value._version != kept.versions[name]:
                    return None
            elif value != known:
                return None
        self.hits += 1
        return replace(kept, output=copy(kept.output))

    def keep(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
        entries: tuple[Entry, ...],
        *,
        dropped: bool,
    ) -> None:
        """Keep an output in place of the one before."""
        arguments = _named(args, kwargs)
        versions = {name: value._version for name, value in arguments.items() if isinstance(value, Tensor)}
        # Where there are beams, stock code puts copies of features into the output that it was given.
        self._kept = Kept(arguments, versions, copy(output), entries, dropped)


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Any, Any]:
    return {**dict(enumerate(args)), **kwargs}


def _same(one: Any, other: Any) -> bool:
    """Whether two are views of the same memory in the same way."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    layout = (one.data_ptr(), one.dtype, one.device, one.shape, one.stride())
    return layout == (other.data_ptr(), other.dtype, other.device, other.shape, other.stride())
