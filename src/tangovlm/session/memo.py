"""The features of the videos of one call, for later calls with the same pixels: several questions about one video."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..models.common.layout import Clip
from ..models.common.signals import Signals
from ..models.common.transformers_compat import Arg
from ..tokens import Selection, VideoReport
from .records import Alternative


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """What a session records of one video; see `Records.add`."""

    clip: Clip
    report: VideoReport
    selection: Selection
    saliency: Tensor | None
    alternatives: tuple[Alternative, ...] = ()

    @property
    def has_dropped(self) -> bool:
        """Whether any token was dropped before the language model."""
        return self.selection.indices.numel() < self.clip.grid.tokens


@dataclass(frozen=True, eq=False)
class EncoderArguments:
    """The arguments of a call of the encoder.

    Parameters
    ----------
    values: by position or name; tensors among them are referenced, so that no others can get their memory.
    versions: of these tensors, which count changes in place.
    """

    values: Mapping[Any, Any]
    versions: Mapping[Any, int]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "EncoderArguments":
        """Those of a call."""
        values: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        return cls(values, {name: _version(value) for name, value in values.items() if isinstance(value, Tensor)})

    def are(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call has the very same tensors, unchanged, and equal other arguments."""
        other = EncoderArguments.of(args, kwargs).values
        if self.values.keys() != other.keys():
            return False
        for name, value in other.items():
            stored = self.values[name]
            if isinstance(value, Tensor) or isinstance(stored, Tensor):
                if not _is_same_view(value, stored) or _version(value) != self.versions[name]:
                    return False
            elif value != stored:
                return False
        return True


@dataclass(frozen=True, eq=False)
class EncoderCall:
    """A call of the encoder and its result.

    Parameters
    ----------
    arguments: of the call.
    output: with dropped features tagged.
    videos: one entry for each video.
    """

    arguments: EncoderArguments
    output: Any
    videos: tuple[EncodedVideo, ...]


class UnprunedFeatures:
    """Stores the unpruned output and the signals of the last call of the encoder, for several methods.

    Give the same object to calls of the same model with the same head weights, `chunk_frames` and `encode` only.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, frozenset[str]] = {}
        self._last: tuple[EncoderArguments, Any, Mapping[str, Signals]] | None = None

    def wanted(self, kind: str = "", needs: frozenset[str] = frozenset()) -> Mapping[str, frozenset[str]]:
        """The signals that the next run of the encoder must record, by kind of saliency: these and all earlier ones."""
        if needs:
            self._wanted[kind] = self._wanted.get(kind, frozenset()) | needs
        return self._wanted

    def find(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: str = "", needs: frozenset[str] = frozenset()
    ) -> tuple[Any, Signals] | None:
        """The output and the signals of the stored call; None if it had other arguments, or lacks a signal."""
        if self._last is None:
            return None
        arguments, output, signals = self._last
        # Signals of a kind were recorded for everything that was wanted then.
        found = signals.get(kind, Signals())
        if any(getattr(found, name) is None for name in needs & _RECORDED) or not arguments.are(
            args, _keywords(kwargs)
        ):
            return None
        return copy(output), found

    def store(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, signals: Mapping[str, Signals]
    ) -> None:
        """Store a call in place of the one before."""
        # For beams, stock code writes copies of features into the output that it was given.
        self._last = EncoderArguments.of(args, _keywords(kwargs)), copy(output), signals


class Memo:
    """Stores the features of the last call whose pixels were encoded.

    Give the same memo to `attach_family` again only with the same family, method, timestamps, `chunk_frames` and
    `encode`: only pixels are compared.

    Parameters
    ----------
    unpruned: shares the encoder's output with the memos of other methods; None to store what a method keeps only.
    repeats: whether the method keeps the same of the same video in every call, so that its selection is stored too.

    Attributes
    ----------
    hits: number of calls that used stored features after pruning.
    """

    def __init__(self, unpruned: UnprunedFeatures | None = None, *, repeats: bool = True) -> None:
        self.hits = 0
        self.unpruned = unpruned
        self._repeats = repeats
        self._last: EncoderCall | None = None

    def find(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> EncoderCall | None:
        """The stored call, if it had the very same tensors, unchanged, and equal other arguments; else None."""
        last = self._last
        if last is None or not last.arguments.are(args, kwargs):
            return None
        self.hits += 1
        return replace(last, output=copy(last.output))

    def store(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, videos: tuple[EncodedVideo, ...]
    ) -> None:
        """Store a call in place of the one before."""
        if self._repeats:
            # For beams, stock code writes copies of features into the output that it was given.
            self._last = EncoderCall(EncoderArguments.of(args, kwargs), copy(output), videos)


_RECORDED = frozenset({"saliency", "frame_features", "keys"})


def _keywords(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments without the one that only changes the form of the output."""
    return {name: value for name, value in kwargs.items() if name != Arg.AS_DICT}


def _version(tensor: Tensor) -> int:
    # Tensors of inference mode have none.
    return 0 if tensor.is_inference() else tensor._version


def _is_same_view(one: Any, other: Any) -> bool:
    """Whether two are views of the same memory with the same layout."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    layout = (one.data_ptr(), one.dtype, one.device, one.shape, one.stride())
    return layout == (other.data_ptr(), other.dtype, other.device, other.shape, other.stride())
