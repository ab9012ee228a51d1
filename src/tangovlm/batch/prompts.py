"""Clips and questions in the format of vLLM, with the same prompts as the pipeline of this library."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..checkpoints import checkpoint, hub
from ..inputs.pixels import whole
from ..inputs.prompting import chat_prompt
from ..models.common.family import Family
from ..models.common.layout import Grid
from ..models.common.transformers_compat import Arg
from ..registry import family_for
from ..video import Frames

_GRID_FIELDS = (Arg.VIDEO_PIXELS, Arg.VIDEO_GRIDS)


class PromptBuilder:
    """Prompts, frame sizes and token counts of a checkpoint; its weights are not needed.

    Parameters
    ----------
    source: directory or hub id.
    config: of the model.
    tokenizer: of the checkpoint.

    Raises
    ------
    ModelError: see `checkpoints.checkpoint`; or an architecture that no family supports.
    """

    def __init__(self, source: str, config: Any, tokenizer: Any) -> None:
        local = Path(source).exists() or not hub.reachable()
        self._pixels = checkpoint.preprocessor_config(source, local=local)
        self._template = checkpoint.chat_template(source, local=local)
        self._tokenizer = tokenizer
        # Sizes and prompts depend on the configuration only.
        self._family: Family = family_for(config.architectures[0])(SimpleNamespace(config=config), config=self._pixels)
        self._grids: dict[tuple[int, ...], Grid] = {}

    @property
    def default_frames(self) -> int:
        """The number of frames that the model samples from a clip by default."""
        frames = self._pixels.get("num_frames")
        return whole("num_frames", frames) if frames else self._family.default_frames

    @property
    def notes(self) -> tuple[str, ...]:
        """See `PromptFormat.notes`."""
        return self._family.prompt.notes(self._pixels)

    def frame_size(self, height: int, width: int, frames: int) -> tuple[int, int]:
        """See `PromptFormat.frame_size`."""
        return self._family.prompt.frame_size(self._pixels, height, width, frames)

    def text(self, question: str) -> str:
        """The prompt of a question about one video.

        Raises
        ------
        InputError, ModelError: see `inputs.pixels.chat_prompt`.
        """
        family, tokenizer = self._family, self._tokenizer
        token, reserved = family.prompt.video_token(tokenizer), family.prompt.reserved(tokenizer)
        return chat_prompt(tokenizer, family.prompt.template(self._template), question, token, reserved=reserved)

    def answer(self, ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def grid(self, clip: Frames, fields: Mapping[str, Any] | None) -> Grid:
        """The token grid of a clip before pruning.

        Parameters
        ----------
        fields: output of vLLM's processor for the clip; None if the clip is in the cache of the processor.
        """
        shape = tuple(clip.pixels.shape)
        if fields is not None:
            made = {name: fields[name].data[None] for name in _GRID_FIELDS if name in fields}
            (self._grids[shape],) = self._family.layout.grids(**made)
        return self._grids[shape]

    def kept(self, ids: Sequence[int], grid: Grid) -> int:
        """How many tokens of a grid are in a prompt, without newlines and the like."""
        layout = self._family.layout
        return list(ids).count(layout.placeholder) - (layout.feature_count(grid) - grid.tokens)
