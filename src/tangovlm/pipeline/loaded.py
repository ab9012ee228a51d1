"""A loaded model with what belongs to it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from ..errors import InputError
from ..models.common.family import Family
from ..video import decode
from .processor import Processor


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded model with its tokenizer and preprocessor config.

    Parameters
    ----------
    model: the stock `transformers` model, in evaluation mode.
    tokenizer: the checkpoint's own.
    family: the model's family, bound to it.
    name: the name that `load` was given.
    builtin: whether it is an embedded model.
    default_frames: number of frames that the model is meant for.
    config: the checkpoint's preprocessor config.
    template: chat template of the processor, None for that of the tokenizer.
    """

    model: Any
    tokenizer: Any
    family: Family
    name: str
    builtin: bool
    default_frames: int
    config: Mapping[str, Any]
    template: str | None

    @property
    def processor(self) -> Processor:
        """The processor, which decodes `default_frames` frames of a file."""
        read = partial(decode, frames=self.default_frames, fit=partial(self.family.prompt.frame_size, self.config))
        return Processor(self.family, self.tokenizer, self.template, self.config, read)

    def limited(self, max_frame_pixels: int | None) -> Self:
        """The same model with a limit on the size of a frame in pixels, height times width.

        Parameters
        ----------
        max_frame_pixels: such as ``448 * 448``; None for the sizes that the checkpoint specifies.

        Raises
        ------
        InputError: not a whole number, fewer pixels than a token has, or a model with a fixed frame size.
        """
        if max_frame_pixels is None:
            return self
        if isinstance(max_frame_pixels, bool) or not isinstance(max_frame_pixels, int):
            raise InputError(f"max_frame_pixels is {max_frame_pixels!r}: give a whole number, such as 448 * 448")
        return replace(self, config=self.family.prompt.limited(self.config, max_frame_pixels))
