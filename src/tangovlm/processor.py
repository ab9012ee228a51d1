"""Text and videos into model inputs, in the way of the stock processors, with torch and a tokenizer only.

Stock processors of videos need torchvision, and LLaVA-Video has none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import BatchFeature

from .errors import InputError, ModelError
from .families.base import Family
from .families.written import VideoInput
from .video import Frames


@dataclass(frozen=True, eq=False)
class Processor:
    """Turns conversations into the arguments of `generate`.

    Parameters
    ----------
    family: the model's.
    tokenizer: the checkpoint's.
    template: the checkpoint's chat template, None for the tokenizer's.
    config: its preprocessor config.
    read: decodes a file.
    """

    family: Family
    tokenizer: Any
    template: str | None
    config: Mapping[str, Any]
    read: Callable[[str | Path], Frames]

    def __call__(
        self,
        text: str | Sequence[str],
        videos: Any = None,
        *,
        images: Any = None,
        timestamps: Sequence[Tensor | Sequence[float]] | None = None,
        return_tensors: str = "pt",
        padding: bool | str = True,
    ) -> BatchFeature:
        """Model inputs of prompts, padded on the left.

        Parameters
        ----------
        text: prompts with a video token (`video_token`) for each video.
        videos: one or a list of them: a path, decoded `Frames`, or uint8 frames ``(T, 3, H, W)`` or ``(T, H, W, 3)``.
        images: not supported.
        timestamps: ``(T,)`` seconds of each video; None for those of the files, or one frame a second.
        return_tensors, padding: as callers of stock processors give them; tensors are always made, and padded.

        Returns
        -------
        What `model.generate(**inputs)` takes; `.to(device, dtype)` moves it. With times `video_metadata` is not needed:
        hand them to `tangovlm.attach(timestamps=...)` where a method reads them.

        Raises
        ------
        InputError: more or fewer videos than tokens for them, or something else than frames.
        VideoError: a file that cannot be decoded.
        """
        if images is not None or return_tensors != "pt":
            raise InputError("this processor makes torch tensors of videos: take transformers' own for anything else")
        del padding
        prompts = [text] if isinstance(text, str) else list(text)
        clips = [self._frames(video) for video in _listed(videos)]
        times = _times(timestamps, clips)
        pairs = zip(clips, times, strict=True)
        made = [VideoInput(self.family.pixels(clip[0], self.config), seconds) for clip, seconds in pairs]
        return BatchFeature(self.family.fill(self.tokenizer, prompts, made))

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **options: Any,
    ) -> Any:
        """The text of a conversation, or of several; with `tokenize` its model inputs.

        Parameters
        ----------
        conversation: turns with a role and a content; the content is text or a list of parts such as
            ``{"type": "video", "video": "clip.mp4"}`` and ``{"type": "text", "text": "What happens?"}``.
        tokenize: read the videos that the parts name, and return model inputs.

        Raises
        ------
        ModelError: the checkpoint has no chat template, or a broken one.
        """
        several = bool(conversation) and isinstance(conversation[0], (list, tuple))
        conversations = list(conversation) if several else [conversation]
        options = {name: value for name, value in options.items() if name not in ("return_dict", "return_tensors")}
        template = self.family.template(self.template)
        try:
            texts = [
                self.tokenizer.apply_chat_template(
                    turns,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **options,
                )
                for turns in conversations
            ]
        except (TemplateError, ValueError) as error:
            raise ModelError(f"the checkpoint's chat template does not take this conversation ({error})") from error
        if tokenize:
            return self(texts, [video for turns in conversations for video in _named(turns)])
        return texts if several else texts[0]

    @property
    def video_token(self) -> str:
        """What stands for a video in a prompt."""
        return self.family.video_token(self.tokenizer)

    def decode(self, ids: Any, **options: Any) -> str:
        """The tokenizer's `decode`."""
        text: str = self.tokenizer.decode(ids, **options)
        return text

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        """The tokenizer's `batch_decode`."""
        texts: list[str] = self.tokenizer.batch_decode(ids, **options)
        return texts

    def _frames(self, video: Any) -> tuple[Tensor, Tensor | None]:
        """Frames ``(T, 3, H, W)`` and their times."""
        if isinstance(video, (str, Path)):
            video = self.read(video)
        if isinstance(video, Frames):
            return video.pixels, video.timestamps_s
        try:
            frames = torch.as_tensor(video)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"a video is a path, Frames, or uint8 frames (T, 3, H, W), not {type(video)}") from error
        channels_last = frames.dim() == 4 and frames.shape[1] != 3 and frames.shape[-1] == 3
        return frames.permute(0, 3, 1, 2) if channels_last else frames, None


def _listed(videos: Any) -> list[Any]:
    if videos is None:
        return []
    return list(videos) if isinstance(videos, (list, tuple)) else [videos]


def _times(given: Sequence[Any] | None, clips: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor | None]:
    if given is None:
        return [seconds for _, seconds in clips]
    if len(given) != len(clips):
        raise InputError(f"timestamps for {len(given)} videos, but {len(clips)} videos are given: give one each")
    times = [torch.as_tensor(seconds, dtype=torch.float64) for seconds in given]
    for number, (seconds, (frames, _)) in enumerate(zip(times, clips, strict=True)):
        if seconds.shape != (len(frames),):
            raise InputError(f"video {number} has {len(frames)} frames but {seconds.numel()} timestamps: one a frame")
    return list(times)


def _named(turns: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The videos that the parts of a conversation name."""
    parts = [part for turn in turns if not isinstance(turn["content"], str) for part in turn["content"]]
    found = []
    for part in (part for part in parts if part.get("type") == "video"):
        video = next((part[name] for name in ("video", "path") if part.get(name) is not None), None)
        if video is None:
            raise InputError('a part of type "video" names no video: give {"type": "video", "video": PATH}')
        found.append(video)
    return found
