"""What the rest of the library needs to know of a model family.

A family describes a stock `transformers` model: where its video features are made, how they lie on the (T, H, W) grid,
which signals its vision encoder gives away, and how a question about a video becomes its inputs. It knows no method.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError
from ..tokens import VideoTokens
from . import chunks

SaliencyKind = Literal["p-attn", "attn"]
SALIENCY_KINDS: tuple[str, ...] = get_args(SaliencyKind)


class Grid(NamedTuple):
    """Token grid of one video."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens of the video, without newlines."""
        return self.frames * self.height * self.width


@dataclass
class Signals:
    """What the vision encoder gave away during one call, already on the token grid; frames of all videos in a row.

    Parameters
    ----------
    saliency: ``(F, H, W)`` or None.
    frame_features: ``(F, Dv)`` or None.
    keys: ``(F, H, W, Dk)`` or None.
    """

    saliency: Tensor | None = None
    frame_features: Tensor | None = None
    keys: Tensor | None = None


class Family(ABC):
    """A family bound to one loaded model.

    Parameters
    ----------
    model: the stock model, e.g. `LlavaOnevisionForConditionalGeneration`.
    saliency: "p-attn", the attention of the encoder's pooling head, or "attn", the mean attention of its last layer;
        None: the one that a method asks for.
    head_weights: safetensors file, checkpoint directory or hub id with the pooling head, where the model has none.

    Raises
    ------
    InputError: unknown saliency.
    """

    default_frames: ClassVar[int]
    gives: ClassVar[frozenset[str]] = frozenset({"saliency", "timestamps", "frame_features", "keys"})
    saliency_kinds: ClassVar[tuple[str, ...]] = SALIENCY_KINDS
    streams: ClassVar[bool] = False
    """Whether `streamed` can be called."""

    def __init__(self, model: Any, *, saliency: str | None = None, head_weights: str | Path | None = None) -> None:
        if saliency is not None and saliency not in SALIENCY_KINDS:
            raise InputError(f"saliency is {saliency!r}: choose {' or '.join(map(repr, SALIENCY_KINDS))}")
        self.model = model
        self.saliency = saliency
        self.head_weights = head_weights

    @classmethod
    @abstractmethod
    def load_model(cls, source: str, **options: Any) -> Any:
        """The stock model from a directory or hub id; `options` go to `from_pretrained`."""

    @property
    @abstractmethod
    def encoder(self) -> Any:
        """The object whose `get_video_features` makes the features of all videos of a call."""

    @property
    def decoder(self) -> nn.Module:
        """The text model."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @property
    def device(self) -> torch.device:
        """Where the text model is."""
        return next(self.decoder.parameters()).device

    @abstractmethod
    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """Token grids of the videos in a call of `get_video_features`, from its arguments."""

    @property
    @abstractmethod
    def frame_bytes(self) -> int:
        """Working memory of one frame between its pixels and its features, roughly."""

    def encode(self, original: Callable[..., Any], chunk_frames: int | None, *args: Any, **kwargs: Any) -> Any:
        """What the stock `get_video_features` gives, made of a few frames at a time.

        The result is that of the undivided call up to rounding (a matrix product of another size may add in another
        order), without the hidden states that stock code collects for itself. A call that is a single chunk is the
        stock one.

        Parameters
        ----------
        original: the stock `get_video_features`; args, kwargs: of the call.
        chunk_frames: the most frames at a time, those of all videos in a row; None for what the device holds easily.

        Raises
        ------
        InputError: a device that is out of memory.
        """
        frames = sum(grid.frames for grid in self.grids(*args, **kwargs))
        device = self.device
        at_once = min(frames, chunk_frames or chunks.frames_at_once(self.frame_bytes, device))
        with chunks.guarded(at_once, self.frame_bytes, device):
            if at_once == frames:
                return original(*args, **kwargs)
            as_tuple = kwargs.pop("return_dict", None) is False
            output = self.encode_chunks(original, chunks.bounds(frames, at_once), *args, return_dict=True, **kwargs)
        return output.to_tuple() if as_tuple else output

    @abstractmethod
    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `encode`.

        Parameters
        ----------
        bounds: (start, stop) of each chunk, at least two.
        """

    def kind(self, wanted: str | None = None) -> str:
        """Which saliency to take: the family's if it was given one, else the one that is wanted, else p-attn."""
        return self.saliency or wanted or "p-attn"

    def check(self, name: str, needs: frozenset[str], kind: str) -> None:
        """See that a method's signals are to be had.

        Parameters
        ----------
        name: of the method, for the message.
        kind: of the saliency.

        Raises
        ------
        ModelError: the family cannot give a signal, whatever the checkpoint.
        """
        missing = sorted(needs - self.gives)
        if "saliency" in needs and not missing and kind not in self.saliency_kinds:
            missing = [f"the saliency {kind!r}"]
        if missing:
            raise ModelError(
                f"method {name!r} needs {missing[0]}, which {type(self).__name__} does not give: choose another method"
            )

    @abstractmethod
    def videos(self, input_ids: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Which video of its prompt each token stands for.

        Parameters
        ----------
        input_ids: ``(B, Q)`` whole prompts with their placeholders.
        grids: of the videos, in order; there may be copies of every prompt.

        Returns
        -------
        ``(B, Q)`` int64, counted from 0 in each prompt; -1 for all tokens outside a grid.
        """

    @abstractmethod
    def prepare(self, needs: frozenset[str], kind: str | None = None) -> None:
        """Get ready to observe these signals, so that what is missing is found before anything is encoded.

        Parameters
        ----------
        kind: of the saliency, see `kind`.

        Raises
        ------
        ModelError: the model cannot give a signal.
        """

    @abstractmethod
    def observe(self, needs: frozenset[str], kind: str | None = None) -> AbstractContextManager[Signals]:
        """Within the context, signals of the vision encoder are collected; what it yields has them when it ends.

        Several calls within it, such as those for chunks of frames, follow each other along the first dimension.
        """

    @abstractmethod
    def sinks(self, grid: Grid) -> tuple[int, ...] | None:
        """Grid positions that the encoder is known to over-attend; None where nobody has looked."""

    @abstractmethod
    def pixels(self, frames: Tensor, config: Mapping[str, Any]) -> Tensor:
        """Model inputs of one video from uint8 frames ``(T, 3, H, W)`` and the checkpoint's preprocessor config."""

    def streamed(
        self, frames: int, config: Mapping[str, Any], take: Callable[[int, int], Tensor]
    ) -> AbstractContextManager[Tensor]:
        """Within the context, what `pixels` would give, filled in as the vision tower asks for it; for one call.

        Parameters
        ----------
        frames: of the video.
        config: see `pixels`.
        take: gives the uint8 frames ``(n, 3, H, W)`` from one to another, called in order.
        """
        raise NotImplementedError(f"{type(self).__name__}.streams is False")

    @abstractmethod
    def frame_size(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width in pixels to which `pixels` resizes frames."""

    @abstractmethod
    def inputs(self, tokenizer: Any, template: str | None, pixels: Tensor, question: str) -> dict[str, Tensor]:
        """Arguments of `generate` for one question about one video; pixels stay on their device."""

    def video_tokens(
        self, rows: Tensor, grid: Grid, start: int, signals: Signals, timestamps: Tensor | None
    ) -> VideoTokens:
        """One video's features and signals as `VideoTokens`.

        Parameters
        ----------
        rows: ``(R, D)`` features of the video, those of the grid first; what follows them (a newline) is left out.
        start: the video's first frame in `signals`.

        Raises
        ------
        InputError: NaN or infinite features or signals.
        """
        frames = slice(start, start + grid.frames)
        return VideoTokens(
            features=rows[: grid.tokens].view(*grid, -1),
            saliency=None if signals.saliency is None else signals.saliency[frames],
            timestamps=timestamps,
            frame_features=None if signals.frame_features is None else signals.frame_features[frames],
            keys=None if signals.keys is None else signals.keys[frames],
            sink_tokens=self.sinks(grid),
        )


def frame_starts(grids: Sequence[Grid]) -> list[int]:
    """Index of each video's first frame when the frames of all videos stand in a row."""
    starts, total = [], 0
    for grid in grids:
        starts.append(total)
        total += grid.frames
    return starts
