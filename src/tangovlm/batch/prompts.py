"""Clips and questions as vLLM takes them: written as this library's own pipeline writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..checkpoints import checkpoint
from ..inputs.pixels import whole
from ..inputs.prompting import chat_prompt
from ..models.common.family import Family
from ..models.common.layout import Grid
from ..models.common.transformers_compat import Arg
from ..registry import family_for
from ..video import Frames

_GRID_FIELDS = (Arg.VIDEO_PIXELS, Arg.VIDEO_GRIDS)


class Prompts:
    """What there is to know of a checkpoint without its weights.

    Parameters
    ----------
    source: directory or hub id.
    config: the model's.
    tokenizer: the checkpoint's own.

    Raises
    ------
    ModelError: see `checkpoints.checkpoint`, or an architecture that no family knows.
    """

    def __init__(self, source: str, config: Any, tokenizer: Any) -> None:
        local = Path(source).exists()
        self._pixels = checkpoint.preprocessor_config(source, local=local)
        self._template = checkpoint.chat_template(source, local=local)
        self._tokenizer = tokenizer
        # Sizes and prompts follow from the configuration alone.
        self._family: Family = family_for(config.architectures[0])(SimpleNamespace(config=config), config=self._pixels)
        self._grids: dict[tuple[int, ...], Grid] = {}

    @property
    def default_frames(self) -> int:
        """How many frames of a clip the model is meant for."""
        frames = self._pixels.get("num_frames")
        return whole("num_frames", frames) if frames else self._family.default_frames

    def frame_size(self, height: int, width: int, frames: int) -> tuple[int, int]:
        """See `Family.frame_size`."""
        return self._family.frame_size(self._pixels, height, width, frames)

    def text(self, question: str) -> str:
        """The prompt of a question about one video.

        Raises
        ------
        InputError, ModelError: see `inputs.pixels.chat_prompt`.
        """
        family, tokenizer = self._family, self._tokenizer
        token, reserved = family.video_token(tokenizer), family.reserved(tokenizer)
        return chat_prompt(tokenizer, family.template(self._template), question, token, reserved=reserved)

    def answer(self, ids: Sequence[int]) -> str:
        """The text of an answer, whose last character may be cut short."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def grid(self, clip: Frames, fields: Mapping[str, Any] | None) -> Grid:
        """The token grid of a clip before pruning.

        Parameters
        ----------
        fields: what vLLM's processor made of the clip; None where it remembers that it has seen the clip before.
        """
        shape = tuple(clip.pixels.shape)
        if fields is not None:
            made = {name: fields[name].data[None] for name in _GRID_FIELDS if name in fields}
            (self._grids[shape],) = self._family.grids(**made)
        return self._grids[shape]

    def kept(self, ids: Sequence[int], grid: Grid) -> int:
        """How many tokens of a grid are in a prompt, newlines and the like not counted."""
        return list(ids).count(self._family.placeholder) - (self._family.feature_count(grid) - grid.tokens)


def video_item(clip: Frames) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """A decoded clip as an entry of ``multi_modal_data["video"]``: frames ``(T, H, W, 3)`` uint8 and their times.

    The clip passes for one that has no other frames: processors take their rate from it as the pipeline does, and
    their times too, as these are whole numbers of frames where the rate is constant, and places between them elsewhere.
    """
    count, seconds = len(clip.timestamps_s), clip.timestamps_s
    span_s = float(seconds[-1] - seconds[0])
    fps = (count - 1) / span_s if span_s > 0 else 1.0
    metadata = {
        "fps": fps,
        "duration": count / fps,
        "total_num_frames": count,
        "frames_indices": (seconds * fps).tolist(),
        "do_sample_frames": False,
    }
    return clip.pixels.permute(0, 2, 3, 1).contiguous().numpy(), metadata
