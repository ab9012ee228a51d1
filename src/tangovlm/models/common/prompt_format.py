"""From pixels and text to the arguments of `generate`: what of it every family has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ...inputs.prompting import chat_prompt
from ...inputs.timestamps import of_frames
from .transformers_compat import Arg


class VideoInput(NamedTuple):
    """One video for a prompt.

    Parameters
    ----------
    pixels: see `PromptFormat.pixels`.
    seconds: ``(T,)`` times of its frames; None for one a second.
    duration_s: how long the whole video lasts, of which these are some frames; None if unknown.
    sampled_fps: how many frames a second of it these are; None for T / `duration_s`, or as far as their times tell.
    most_frames: of the longest video of the call, which `PromptFormat.build_inputs` finds out; 0 before.
    """

    pixels: Tensor
    seconds: Tensor | None = None
    duration_s: float | None = None
    sampled_fps: float | None = None
    most_frames: int = 0

    @property
    def frames(self) -> int:
        """T."""
        return int(self.pixels.shape[-4])

    @property
    def times(self) -> Tensor:
        """Seconds ``(T,)`` of the frames.

        Raises
        ------
        InputError: times that no frames can have.
        """
        return of_frames(self.seconds, self.frames)


class PromptFormat(ABC):
    """How prompts with videos are written for a family of models."""

    streams: ClassVar[bool] = False
    """Whether `streamed` can be called."""

    # --- pixels -------------------------------------------------------------------------------------------------

    @abstractmethod
    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """Model inputs of one video from uint8 frames ``(T, 3, H, W)`` and the checkpoint's preprocessor config.

        They are what the stock video processor makes of the same frames, up to rounding.

        Parameters
        ----------
        resized: whether the frames were scaled to their `frame_size` before, as they are while decoding.

        Raises
        ------
        InputError, ModelError: frames or a config that give the model nothing that it takes.
        """

    @abstractmethod
    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, frames: int | None = None
    ) -> tuple[int, int]:
        """Height and width in pixels to which `pixels` resizes the frames of a video.

        Parameters
        ----------
        height, width: of the frames in pixels.
        frames: of the video; None for as many as the model is meant for. Some models have a budget for all of them.
        """

    def limited(self, _config: Mapping[str, Any], max_frame_pixels: int) -> Mapping[str, Any]:
        """A preprocessor config under which frames have at most so many pixels (height times width).

        Raises
        ------
        InputError: the model takes frames of one size only, or the number is less than a token.
        """
        raise InputError(
            f"max_frame_pixels is {max_frame_pixels}, but the frames of this model have one size only: leave it out"
        )

    def notes(self, _config: Mapping[str, Any]) -> tuple[str, ...]:
        """In what the inputs differ from those of the stock processor, for the user."""
        return ()

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

    @abstractmethod
    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """What stands in a prompt for a video: placeholders for all features, and what goes with them."""

    # --- arguments ----------------------------------------------------------------------------------------------

    @abstractmethod
    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """Arguments of `generate` for one video, without the prompt's."""

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

    def build_inputs(self, tokenizer: Any, prompts: Sequence[str], videos: Sequence[VideoInput]) -> dict[str, Tensor]:
        """Arguments of `generate` for prompts, padded on the left; pixels stay on their device.

        Parameters
        ----------
        prompts: with a video token for each of the videos, which are taken in order.

        Raises
        ------
        InputError: more or fewer videos than tokens for them, videos that do not go into one batch, or times that no
            frames can have.
        """
        token = self.video_token(tokenizer)
        asked = [prompt.split(token) for prompt in prompts]
        count = sum(len(parts) - 1 for parts in asked)
        if count != len(videos):
            raise InputError(f"the prompts have {count} video tokens but {len(videos)} videos are given: one each")
        most = max((video.frames for video in videos), default=0)
        waiting = (video._replace(seconds=video.times, most_frames=most) for video in videos)
        texts, found = [], []
        for first, *rest in asked:
            own = [next(waiting) for _ in rest]
            pieces = (self.render_video(tokenizer, video) + text for video, text in zip(own, rest, strict=True))
            texts.append(first + "".join(pieces))
            found.append([self.media_kwargs(video) for video in own])
        ids, mask = _padded([_ids(tokenizer, text) for text in texts], _pad_token(tokenizer))
        try:
            media = self.collate(found)
        except RuntimeError as error:
            raise InputError("the videos differ in the number or size of their frames: make a call for each") from error
        return {Arg.IDS: ids, Arg.MASK: mask} | self.token_types(ids) | media

    def inputs(
        self,
        tokenizer: Any,
        template: str | None,
        pixels: Tensor,
        question: str,
        seconds: Tensor | None = None,
        duration_s: float | None = None,
    ) -> dict[str, Tensor]:
        """Arguments of `generate` for one question about one video; pixels stay on their device.

        Parameters
        ----------
        template: the processor's chat template, None for the tokenizer's.
        pixels, seconds, duration_s: see `VideoInput`.
        """
        token, reserved = self.video_token(tokenizer), self.reserved(tokenizer)
        prompt = chat_prompt(tokenizer, self.template(template), question, token, reserved=reserved)
        return self.build_inputs(tokenizer, [prompt], [VideoInput(pixels, seconds, duration_s)])


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a prompt, which may begin with the first special token already, as templates write it."""
    first = getattr(tokenizer, "bos_token", None)
    begun = isinstance(first, str) and first != "" and text.startswith(first)
    ids: list[int] = tokenizer(text, **({"add_special_tokens": False} if begun else {}))[Arg.IDS]
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
