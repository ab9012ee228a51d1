"""From pixels and text to the arguments of `generate`: what of it every family has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .inputs import chat_prompt
from .timestamps import of_frames


class VideoInput(NamedTuple):
    """One video for a prompt.

    Parameters
    ----------
    pixels: see `Written.pixels`.
    seconds: ``(T,)`` times of its frames; None for one a second.
    """

    pixels: Tensor
    seconds: Tensor | None = None


class Written(ABC):
    """How prompts with videos are written for a family of models."""

    streams: ClassVar[bool] = False
    """Whether `streamed` can be called."""

    # --- pixels -------------------------------------------------------------------------------------------------

    @abstractmethod
    def pixels(self, frames: Tensor, config: Mapping[str, Any]) -> Tensor:
        """Model inputs of one video from uint8 frames ``(T, 3, H, W)`` and the checkpoint's preprocessor config."""

    @abstractmethod
    def frame_size(self, config: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels to which `pixels` resizes frames of this size."""

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

    # --- text ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def video_token(self, tokenizer: Any) -> str:
        """What a chat template writes for a video."""

    def reserved(self, _tokenizer: Any) -> tuple[str, ...]:
        """Other tokens that stand for pictures, which a question must not hold."""
        return ()

    def template(self, given: str | None) -> str | None:
        """The chat template for prompts with videos: the processor's, or None for the tokenizer's."""
        return given

    def mark(self, tokenizer: Any, _prompt: str) -> str:
        """The piece of a prompt in whose place a video is written."""
        return self.video_token(tokenizer)

    @abstractmethod
    def written(self, tokenizer: Any, pixels: Tensor, seconds: Tensor) -> str:
        """What stands in a prompt for a video: placeholders for all features, and what goes with them.

        Parameters
        ----------
        seconds: ``(T,)`` times of the frames.
        """

    # --- arguments ----------------------------------------------------------------------------------------------

    @abstractmethod
    def arguments(self, pixels: Tensor, seconds: Tensor) -> dict[str, Tensor]:
        """Arguments of `generate` for one video, without the prompt's; see `written`."""

    def token_types(self, _ids: Tensor) -> dict[str, Tensor]:
        """Arguments of `generate` that say what each token of ``(B, Q)`` prompts is."""
        return {}

    def collate(self, videos: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """Arguments for all videos of all prompts out of those of each; by default one after another.

        Parameters
        ----------
        videos: of each prompt.
        """
        flat = [video for prompt in videos for video in prompt]
        if len(flat) == 1:
            return dict(flat[0])
        return {name: torch.cat([video[name] for video in flat]) for name in (flat[0] if flat else ())}

    def fill(self, tokenizer: Any, prompts: Sequence[str], videos: Sequence[VideoInput]) -> dict[str, Tensor]:
        """Arguments of `generate` for prompts, padded on the left; pixels stay on their device.

        Parameters
        ----------
        prompts: with a video token for each of the videos, which are taken in order.

        Raises
        ------
        InputError: more or fewer videos than tokens for them, videos that do not go into one batch, or times that no
            frames can have.
        """
        asked = [prompt.split(self.mark(tokenizer, prompt)) for prompt in prompts]
        count = sum(len(parts) - 1 for parts in asked)
        if count != len(videos):
            raise InputError(f"the prompts have {count} video tokens but {len(videos)} videos are given: one each")
        waiting = iter(videos)
        texts, found = [], []
        for first, *rest in asked:
            own = [next(waiting) for _ in rest]
            told = [(video.pixels, of_frames(video.seconds, video.pixels.shape[-4])) for video in own]
            pieces = (self.written(tokenizer, *video) + text for video, text in zip(told, rest, strict=True))
            texts.append(first + "".join(pieces))
            found.append([self.arguments(*video) for video in told])
        ids, mask = _padded([_ids(tokenizer, text) for text in texts], _pad_token(tokenizer))
        try:
            media = self.collate(found)
        except RuntimeError as error:
            raise InputError("the videos differ in the number or size of their frames: make a call for each") from error
        return {"input_ids": ids, "attention_mask": mask} | self.token_types(ids) | media

    def inputs(
        self, tokenizer: Any, template: str | None, pixels: Tensor, question: str, seconds: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Arguments of `generate` for one question about one video; pixels stay on their device.

        Parameters
        ----------
        template: the processor's chat template, None for the tokenizer's.
        pixels: see `pixels`.
        seconds: ``(T,)`` times of the frames; None for one a second.
        """
        token, reserved = self.video_token(tokenizer), self.reserved(tokenizer)
        prompt = chat_prompt(tokenizer, self.template(template), question, token, reserved=reserved)
        return self.fill(tokenizer, [prompt], [VideoInput(pixels, seconds)])


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a prompt, which may begin with the first special token already, as templates write it."""
    first = getattr(tokenizer, "bos_token", None)
    begun = isinstance(first, str) and first != "" and text.startswith(first)
    ids: list[int] = tokenizer(text, **({"add_special_tokens": False} if begun else {}))["input_ids"]
    return ids


def _pad_token(tokenizer: Any) -> int:
    found = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    return next((int(number) for number in found if number is not None), 0)


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows as ``(B, Q)`` int64, padded on the left, and the mask of what is no padding."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], dtype=torch.int64)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
