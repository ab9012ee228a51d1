"""How a prompt is written: from frames and text to the arguments of `generate`."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ...inputs.prompting import chat_prompt
from ...inputs.timestamps import of_frames
from .layout import FeatureLayout
from .part import FamilyPart
from .transformers_compat import Arg


class VideoInput(NamedTuple):
    """One video for a prompt.

    Parameters
    ----------
    pixels: see `PromptFormat.pixels`.
    seconds: ``(T,)`` times of its frames; None for one frame per second.
    duration_s: length of the whole video, from which these frames were sampled; None if unknown.
    sampled_fps: sampled frames per second of the whole video; None to compute it from `duration_s` or the times.
    most_frames: frames of the longest video of the call, set by `PromptFormat.build_inputs`; 0 before.
    number: of the video in its prompt, from 0, set there too.
    """

    pixels: Tensor
    seconds: Tensor | None = None
    duration_s: float | None = None
    sampled_fps: float | None = None
    most_frames: int = 0
    number: int = 0

    @property
    def frames(self) -> int:
        """T."""
        return int(self.pixels.shape[-4])

    @property
    def times(self) -> Tensor:
        """Seconds ``(T,)`` of the frames.

        Raises
        ------
        InputError: invalid times, see `of_frames`.
        """
        return of_frames(self.seconds, self.frames)

    @property
    def seconds_per_frame(self) -> float:
        """Mean time between two frames.

        As in stock processors it is the length of the whole video over the number of its sampled frames; if that is
        unknown, the mean difference of their times, and one second for a single frame.
        """
        if self.sampled_fps:
            return 1 / self.sampled_fps
        if self.duration_s:
            return self.duration_s / self.frames
        times = self.times
        interval = float(times[-1] - times[0]) / (self.frames - 1) if self.frames > 1 else 1.0
        return interval or 1.0


class PromptFormat(FamilyPart, ABC):
    """How a question about videos becomes the inputs of a model."""

    streams: ClassVar[bool] = False
    """Whether `streamed` is implemented."""

    # --- pixels -------------------------------------------------------------------------------------------------

    @abstractmethod
    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """Model inputs of one video from uint8 frames ``(T, 3, H, W)`` and the checkpoint's preprocessor config.

        They equal the output of the stock video processor for the same frames, up to rounding.

        Parameters
        ----------
        resized: whether the frames already have their `frame_size`, as after decoding.

        Raises
        ------
        InputError, ModelError: frames or a config that are not supported.
        """

    @abstractmethod
    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, frames: int | None = None
    ) -> tuple[int, int]:
        """Height and width in pixels to which `pixels` resizes the frames of a video.

        Parameters
        ----------
        height, width: of the frames in pixels.
        frames: number of frames of the video, which may share a budget of pixels; None for the family's default.
        """

    def limited(self, _config: Mapping[str, Any], max_frame_pixels: int) -> Mapping[str, Any]:
        """A preprocessor config that limits frames to this number of pixels (height times width).

        Raises
        ------
        InputError: the model accepts frames of one size only, or the number is less than a token.
        """
        raise InputError(
            f"max_frame_pixels is {max_frame_pixels}, but the frames of this model have one size only: leave it out"
        )

    def notes(self, _config: Mapping[str, Any]) -> tuple[str, ...]:
        """Notes for the user: differences between these inputs and those of the stock processor."""
        return ()

    def streamed(
        self, frames: int, config: Mapping[str, Any], take: Callable[[int, int], Tensor]
    ) -> AbstractContextManager[Tensor]:
        """Within the context, the output of `pixels`, filled while the vision tower reads it; for one call.

        Parameters
        ----------
        frames: of the video.
        config: see `pixels`.
        take: returns the uint8 frames ``(n, 3, H, W)`` of a range (start, stop); it is called in order.
        """
        raise NotImplementedError(f"{type(self).__name__}.streams is False")

    # --- text ---------------------------------------------------------------------------------------------------

    def video_token(self, tokenizer: Any) -> str:
        """What a chat template writes for a video; by default the placeholder."""
        return str(tokenizer.convert_ids_to_tokens(self.family.layout.placeholder))

    def reserved(self, _tokenizer: Any) -> tuple[str, ...]:
        """Other tokens that represent pictures, which a question must not contain."""
        return ()

    def template(self, template: str | None) -> str | None:
        """The chat template for prompts with videos, from the processor's (None for the tokenizer's)."""
        return template

    @abstractmethod
    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """The text of a video in a prompt: placeholders for all features, with marks and times around them."""

    # --- arguments ----------------------------------------------------------------------------------------------

    @abstractmethod
    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """Arguments of `generate` for one video, without those of the text."""

    def token_types(self, _ids: Tensor) -> dict[str, Tensor]:
        """Arguments of `generate` with the type of each token of prompts ``(B, Q)``."""
        return {}

    def collate(self, videos: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """Arguments for all videos of all prompts, from those of each; by default concatenated.

        Parameters
        ----------
        videos: `media_kwargs` of the videos of each prompt.
        """
        flat = [video for prompt in videos for video in prompt]
        if len(flat) == 1:
            return dict(flat[0])
        return {name: torch.cat([video[name] for video in flat]) for name in (flat[0] if flat else ())}

    def build_inputs(self, tokenizer: Any, prompts: Sequence[str], videos: Sequence[VideoInput]) -> dict[str, Tensor]:
        """Arguments of `generate` for prompts, padded on the left; pixels stay on their device.

        Parameters
        ----------
        prompts: with one video token for each of the videos, in order.

        Raises
        ------
        InputError: the numbers of videos and video tokens differ, the videos do not fit into one batch, or their times
            are invalid.
        """
        token = self.video_token(tokenizer)
        split = [prompt.split(token) for prompt in prompts]
        count = sum(len(texts) - 1 for texts in split)
        if count != len(videos):
            raise InputError(f"the prompts have {count} video tokens but {len(videos)} videos are given: one each")
        most = max((video.frames for video in videos), default=0)
        remaining = (video._replace(seconds=video.times, most_frames=most) for video in videos)
        rendered, media_of_prompts = [], []
        for first, *rest in split:
            own = [next(remaining)._replace(number=number) for number in range(len(rest))]
            parts = (self.render_video(tokenizer, video) + text for video, text in zip(own, rest, strict=True))
            rendered.append(first + "".join(parts))
            media_of_prompts.append([self.media_kwargs(video) for video in own])
        placeholder = self.family.layout.placeholder
        ids, mask = _padded(tokenizer, [token_ids(tokenizer, text, placeholder) for text in rendered])
        try:
            media = self.collate(media_of_prompts)
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
        history: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Tensor]:
        """Arguments of `generate` for one question about one video; pixels stay on their device.

        Parameters
        ----------
        template: the processor's chat template, None for the tokenizer's.
        pixels, seconds, duration_s: see `VideoInput`.
        history: see `inputs.prompting.chat_prompt`.
        """
        token, reserved = self.video_token(tokenizer), self.reserved(tokenizer)
        prompt = chat_prompt(tokenizer, self.template(template), question, token, reserved, history)
        return self.build_inputs(tokenizer, [prompt], [VideoInput(pixels, seconds, duration_s)])


class VideoPlaceholders(PromptFormat):
    """A video is one run of placeholders, and its pixels are the one argument of `FeatureLayout.grids`."""

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        return (str(tokenizer.convert_ids_to_tokens(self.model.config.image_token_index)),)

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        layout: FeatureLayout = self.family.layout
        return self.video_token(tokenizer) * sum(layout.feature_count(grid) for grid in layout.grids(video.pixels))

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        return {Arg.VIDEO_PIXELS: video.pixels}


def token_ids(tokenizer: Any, text: str, placeholder: int) -> list[int]:
    """Token ids of a prompt, which may already begin with the first special token, as templates write it.

    Tokenizers split off added tokens before anything else, so that a run of them, of which a video has thousands, can
    be read as one and repeated.

    Parameters
    ----------
    placeholder: token that the text may have in long runs.
    """
    first = getattr(tokenizer, "bos_token", None)
    begun = isinstance(first, str) and first != "" and text.startswith(first)
    options = {"add_special_tokens": False} if begun else {}
    token = str(tokenizer.convert_ids_to_tokens(placeholder))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    # Another added token that contains this one could take several of a run.
    if placeholder in added and sum(token in str(other) for other in added.values()) == 1:
        run = re.compile(f"(?:{re.escape(token)})+")
        lengths = [len(found[0]) // len(token) for found in run.finditer(text)]
        short: list[int] = tokenizer(run.sub(lambda _: token, text), **options)[Arg.IDS]
        if short.count(placeholder) == len(lengths):
            counts = iter(lengths)
            return [each for each in short for _ in range(next(counts) if each == placeholder else 1)]
    whole: list[int] = tokenizer(text, **options)[Arg.IDS]
    return whole


def _padded(tokenizer: Any, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts as ``(B, Q)`` int64, padded on the left, and their attention mask."""
    candidates = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    pad = next((int(number) for number in candidates if number is not None), 0)
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
