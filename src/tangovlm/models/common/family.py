"""Description of a kind of model.

A family describes a stock `transformers` model: its published checkpoints, where its encoder and its text model are,
and what the rest of the library needs to know, in four parts. It does not depend on any method.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...checkpoints.checkpoint import load_complete
from ...errors import InputError
from ...machine.devices import device_of
from ...tokens import VideoTokens
from .encoding import ChunkedEncoding
from .layout import Clip, FeatureLayout
from .part import Part
from .prompt_format import PromptFormat
from .signals import SALIENCY_KINDS, EncoderSignals, Signals
from .transformers_compat import Arg, check_since

POSITIONS: tuple[str, ...] = ("contiguous", "original")
"""Kinds of position ids of kept tokens, see `tangovlm.attach`."""
FEATURES: tuple[str, ...] = (
    "batch",
    "several videos",
    "image beside video",
    "multi-turn",
    "beams",
    "sampling",
    "assisted",
    "static cache",
    "no cache",
    "chunked encoding",
    "pruning inside",
)
"""Uses of a model that the tests cover; each family lists those with which it is tested."""
_ATTENDING = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers of a text model that look at single tokens of the past, and so can leave out padding."""


class Family:
    """A family bound to one loaded model.

    A subclass sets the class attributes that have no value here, and declares its parts with `Part`.

    Parameters
    ----------
    model: the stock model, e.g. `LlavaOnevisionForConditionalGeneration`.
    saliency: "p-attn", the attention of the encoder's pooling head, "attn", the mean attention of its last layer, or
        "mean-query", the attention of the mean query of that layer; None for the one that the method asks for, or, if
        the family does not provide that one, the family's first.
    head_weights: safetensors file, checkpoint directory or hub id with the pooling head, if the model has none.
    config: the checkpoint's preprocessor config if available; it may affect how prompts are written.

    Raises
    ------
    InputError: unknown saliency.
    ModelError: an installed transformers that is older than `since`.
    """

    prompt: ClassVar[Part[PromptFormat]]
    """How a question about a video becomes the inputs of the model."""
    layout: ClassVar[Part[FeatureLayout]]
    """Where the features of videos are, in the output of the encoder and in a prompt."""
    signals: ClassVar[Part[EncoderSignals]]
    """Which signals the encoder provides, and how they are collected."""
    encoding: ClassVar[Part[ChunkedEncoding]]
    """How the encoder is run on a few frames at a time."""

    name: ClassVar[str]
    since: ClassVar[str] = ""
    """The oldest release of transformers with the model classes as described here, such as "5.21"; "" for all."""
    wholes: ClassVar[Mapping[str, str]] = {}
    """Names of larger model classes of which such a model is a part, and the attribute that holds it.

    Published checkpoints may name one of them: `load_model` then reads that part only.
    """
    checkpoints: ClassVar[tuple[str, ...]]
    """Hub ids of published checkpoints of the family."""
    tested: ClassVar[frozenset[str]] = frozenset(FEATURES)
    """Those of `FEATURES` in which the family is tested against an independent reference."""
    default_frames: ClassVar[int]
    """Number of frames of a video if the user names none."""
    feature_method: ClassVar[str] = "get_video_features"
    """Method of the encoder that returns the features."""
    visual_inputs: ClassVar[tuple[str, ...]] = (Arg.VIDEO_PIXELS,)
    """Arguments of the model that hold the inputs of the encoder."""
    mask_input: ClassVar[str | None] = None
    """Argument of the model with a mask ``(R,)`` bool over the features of all videos; stock code drops the others."""
    keeps_positions: ClassVar[bool] = False
    """Whether position ids have several axes (M-RoPE), so that kept tokens keep their own."""
    middle_of_steps: ClassVar[bool] = False
    """Whether the model assigns the mean of its frames' times to a step of several frames; else the first time."""
    prepares_masks: ClassVar[bool] = False
    """Whether the model without its head makes the masks of the layers, which the text model does otherwise."""
    prunes_images: ClassVar[bool] = False
    """Whether images can be pruned too, see `of_images`."""
    in_one_piece: ClassVar[bool] = False
    """Whether the features depend on pixels alone and are contiguous in the prompt, those of the grid first."""

    def __init__(
        self,
        model: Any,
        *,
        saliency: str | None = None,
        head_weights: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if saliency is not None and saliency not in SALIENCY_KINDS:
            raise InputError(f"saliency is {saliency!r}: choose {' or '.join(map(repr, SALIENCY_KINDS))}")
        self.check_release()
        self.model = model
        self.saliency = saliency
        self.head_weights = head_weights
        self.config = config or {}

    @classmethod
    def check_release(cls) -> None:
        """Raise `ModelError` if the installed transformers is older than `since`."""
        if cls.since:
            check_since(cls.since, cls.name)

    @classmethod
    def resolve_positions(cls, positions: str | None, own: str) -> str:
        """The kind of position ids that kept tokens get, one of `POSITIONS`.

        Parameters
        ----------
        positions: what the user asks for, None for nothing.
        own: of the method.

        Raises
        ------
        InputError: unknown positions, or contiguous ones for a family with M-RoPE.
        """
        if positions not in (None, *POSITIONS):
            raise InputError(f"positions is {positions!r}: choose {' or '.join(map(repr, POSITIONS))}")
        if positions == "contiguous" and cls.keeps_positions:
            raise InputError(
                f"positions is 'contiguous', but the family {cls.name} keeps M-RoPE positions: leave it out"
            )
        return "original" if cls.keeps_positions else positions or own

    def of_images(self) -> "Family":
        """The family bound to the same model, for its images in place of its videos; only with `prunes_images`."""
        raise NotImplementedError(f"{type(self).__name__}.prunes_images is False")

    @classmethod
    def load_model(cls, source: str, **options: Any) -> Any:
        """Load the stock model from a directory or hub id; `options` are passed to `from_pretrained`."""
        from transformers import AutoModelForImageTextToText

        return load_complete(AutoModelForImageTextToText, source, **options)

    @property
    def encoder(self) -> Any:
        """The object with the `feature_method`: the model without its language-model head."""
        return self.model.model

    @property
    def decoder(self) -> nn.Module:
        """The text model."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @property
    def width(self) -> int:
        """D: hidden size of the text model, the number of channels of a feature."""
        config: Any = self.decoder.config
        return int(config.hidden_size)

    @property
    def recurrent(self) -> bool:
        """Whether layers of the text model keep a state of all they have read, in which padding leaves traces."""
        config: Any = self.decoder.config
        return not _ATTENDING.issuperset(getattr(config, "layer_types", None) or ())

    @property
    def device(self) -> torch.device:
        """Device of the text model."""
        return device_of(self.decoder)

    def attention_blocks(self, _token_types: Tensor | None) -> Tensor | None:
        """Runs of visual tokens that attend to each other in both directions: their numbers ``(B, Q)`` int64, else -1.

        None if there are none. Only for families with `prepares_masks`.

        Parameters
        ----------
        token_types: ``(B, Q)`` of the call; None if it has none.
        """
        return None

    def layer_masks(
        self, embeds: Tensor, mask: Tensor | None, cache: Any, position_ids: Tensor | None, blocks: Tensor
    ) -> Any:
        """The stock masks of the layers, which the text model accepts as its attention mask, with `attention_blocks`.

        Parameters
        ----------
        embeds: ``(B, M, D)``.
        mask: ``(B, past + M)``, None without padding.
        position_ids: ``(B, M)``.
        blocks: ``(B, past + M)``, see `attention_blocks`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no attention blocks")

    def video_tokens(self, features: Tensor, clip: Clip, signals: Signals, timestamps: Tensor | None) -> VideoTokens:
        """Features and signals of one video as `VideoTokens`.

        Parameters
        ----------
        features: ``(R, D)`` of the video.
        clip: the video.
        signals: of the whole call.
        timestamps: ``(T,)`` seconds, one for each frame of the grid.

        Raises
        ------
        InputError: NaN or infinite features or signals.
        """
        grid, frames = clip.grid, slice(clip.start, clip.start + clip.grid.frames)
        return VideoTokens(
            features=features[self.layout.grid_indices(grid)].view(*grid, -1),
            saliency=_of_frames(signals.saliency, frames, features.device),
            timestamps=timestamps,
            frame_features=_of_frames(signals.frame_features, frames, features.device),
            keys=_of_frames(signals.keys, frames, features.device),
            sink_tokens=self.signals.sinks(grid),
        )


def _of_frames(signal: Tensor | list[Tensor] | None, frames: slice, device: torch.device) -> Tensor | None:
    """The frames of a signal, moved to the device of the features, which may be another one."""
    if signal is None:
        return None
    part = signal[frames]
    return (torch.stack(part) if isinstance(part, list) else part).to(device)
