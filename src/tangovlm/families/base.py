"""What the rest of the library needs to know of a model family.

A family describes a stock `transformers` model: where its video features are made, how they lie on the (T, H, W) grid,
which signals its vision encoder gives away, and how a question about a video becomes its inputs. It knows no method.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..tokens import VideoTokens

SaliencyKind = Literal["p-attn", "attn"]


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
    saliency: "p-attn", the attention of the encoder's pooling head, or "attn", the mean attention of its last layer.
    head_weights: safetensors file, checkpoint directory or hub id with the pooling head, where the model has none.

    Raises
    ------
    InputError: unknown saliency.
    """

    default_frames: ClassVar[int]

    def __init__(self, model: Any, *, saliency: str = "p-attn", head_weights: str | Path | None = None) -> None:
        if saliency not in ("p-attn", "attn"):
            raise InputError(f"saliency is {saliency!r}: choose 'p-attn' or 'attn'")
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

    @abstractmethod
    def prepare(self, needs: frozenset[str]) -> None:
        """Get ready to observe these signals, so that what is missing is found before anything is encoded.

        Raises
        ------
        ModelError: the model cannot give a signal.
        """

    @abstractmethod
    def observe(self, needs: frozenset[str]) -> AbstractContextManager[Signals]:
        """Within the context, the signals of the vision encoder's next call are collected into what it yields."""

    @abstractmethod
    def sinks(self, grid: Grid) -> tuple[int, ...] | None:
        """Grid positions that the encoder is known to over-attend; None where nobody has looked."""

    @abstractmethod
    def pixels(self, frames: Tensor, config: Mapping[str, Any]) -> Tensor:
        """Model inputs of one video from uint8 frames ``(T, 3, H, W)`` and the checkpoint's preprocessor config."""

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
