"""Text and videos into model inputs, in the way of the stock processors, with torch and a tokenizer only.

Stock processors of videos need torchvision, and LLaVA-Video has none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BatchFeature

from ..errors import InputError
from ..inputs import chat
from ..inputs.pixels import check_frames
from ..inputs.timestamps import Sampling, samplings
from ..inputs.timestamps import given as given_times
from ..models.common.family import Family
from ..models.common.prompt_format import VideoInput
from ..models.common.transformers_compat import Arg
from ..video import Frames


@dataclass(frozen=True, eq=False)
class Processor:
    """Turns conversations into the arguments of `generate`.

    Parameters
    ----------
    family: the model's.
    tokenizer: the checkpoint's.
    template: the checkpoint's chat template, None for the tokenizer's.
    config: its preprocessor config.
    read: decodes a file; with `frames` into so many.
    """

    family: Family
    tokenizer: Any
    template: str | None
    config: Mapping[str, Any]
    read: Callable[..., Frames]

    def __call__(
        self,
        text: str | Sequence[str],
        videos: Any = None,
        *,
        images: Any = None,
        timestamps: Any = None,
        video_metadata: Any = None,
        num_frames: int | None = None,
        return_metadata: bool = False,
        return_tensors: str = "pt",
        padding: bool | str = True,
    ) -> BatchFeature:
        """Model inputs of prompts, padded on the left.

        Parameters
        ----------
        text: prompts with a video token (`video_token`) for each video.
        videos: one or a list of them: a path, decoded `Frames`, or uint8 frames ``(T, 3, H, W)`` or ``(T, H, W, 3)``.
        images: not supported.
        timestamps: ``(T,)`` seconds of each video, or of all; None for those of the files, or one frame a second.
        video_metadata: one for each video, as stock processors take them: mappings with `fps` and `frames_indices`, and
            the `duration` and `total_num_frames` of the whole video, of which some prompts speak.
        num_frames: how many frames to take of a file; None for what the model is meant for.
        return_metadata: also give `video_metadata`, see below.
        return_tensors, padding: as callers of stock processors give them; tensors are always made, and padded.

        Returns
        -------
        What `model.generate(**inputs)` takes; `.to(device, dtype)` moves it. With `return_metadata` there is also
        `video_metadata`, the times of the frames for `tangovlm.attach`, which a model takes within `attach` only: a
        mapping for each video whose `frames_indices` are seconds, as `fps` is 1, with the `duration` where it is known.

        Raises
        ------
        InputError: more or fewer videos than tokens for them, something else than frames, images, times that no frames
            can have, or both `timestamps` and `video_metadata`.
        VideoError: a file that cannot be decoded.
        """
        if images is not None or return_tensors != "pt":
            raise InputError("this processor makes torch tensors of videos: take transformers' own for anything else")
        del padding
        prompts = self._prompts(text)
        made = _timed([self._video(video, num_frames) for video in _listed(videos)], timestamps, video_metadata)
        inputs: dict[str, Any] = dict(self.family.build_inputs(self.tokenizer, prompts, made))
        if return_metadata:
            inputs[Arg.METADATA] = [_metadata(video) for video in made]
        return BatchFeature(inputs)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        num_frames: int | None = None,
        return_metadata: bool = False,
        return_dict: bool = True,
        return_tensors: str = "pt",
        padding: bool | str = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> Any:
        """The text of a conversation, or of several; with `tokenize` its model inputs.

        Parameters
        ----------
        conversation: turns with a role and a content; the content is text or a list of parts such as
            ``{"type": "video", "video": "clip.mp4"}`` and ``{"type": "text", "text": "What happens?"}``.
        tokenize: read the videos that the parts name, and return model inputs.
        num_frames, return_metadata, return_tensors, padding: see `__call__`.
        return_dict: model inputs are always returned together.
        chat_template_kwargs: variables of the chat template.

        Raises
        ------
        InputError: see `__call__`; something else than a conversation, or another option.
        ModelError: the checkpoint has no chat template, or a broken one.
        """
        if unknown:
            raise InputError(
                f"this processor has no option {min(unknown)}: give variables of the chat template as "
                "chat_template_kwargs, and times to a call of the processor"
            )
        if tokenize and not return_dict:
            raise InputError("this processor returns all model inputs together: leave out return_dict=False")
        found, several = chat.conversations(conversation)
        options = {**(chat_template_kwargs or {}), "add_generation_prompt": add_generation_prompt}
        template = self.family.template(self.template)
        texts = [chat.render(self.tokenizer, template, turns, self.video_token, **options) for turns in found]
        if not tokenize:
            return texts if several else texts[0]
        return self(
            texts,
            [_named(part) for turns in found for part in chat.parts(turns, "video")],
            num_frames=num_frames,
            return_metadata=return_metadata,
            return_tensors=return_tensors,
            padding=padding,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer, the chat template and the preprocessor config beside a model that was saved there.

        `tangovlm.load(folder)` then prepares pixels and prompts as this processor does.
        """
        target = Path(folder)
        self.tokenizer.save_pretrained(target)
        if self.template is not None:
            (target / "chat_template.jinja").write_text(self.template, encoding="utf-8")
        config = json.dumps(dict(self.config), indent=2)
        (target / "video_preprocessor_config.json").write_text(f"{config}\n", encoding="utf-8")

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

    def _prompts(self, text: Any) -> list[str]:
        """Prompts as a list, without images."""
        prompts = [text] if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else []
        if not prompts or not all(isinstance(prompt, str) and prompt for prompt in prompts):
            raise InputError("the text must be a prompt, or a list of prompts, that are not empty")
        for token in self.family.reserved(self.tokenizer):
            if any(token in prompt for prompt in prompts):
                raise InputError(
                    f"a prompt holds {token!r}, which stands for an image: this processor takes videos only, for "
                    "images take transformers' own"
                )
        return prompts

    def _video(self, video: Any, count: int | None) -> VideoInput:
        """The pixels of a video and what is known of it."""
        from_file = isinstance(video, (str, Path))
        if from_file:
            video = self.read(video) if count is None else self.read(video, frames=count)
        known: dict[str, Any] = {}
        if isinstance(video, Frames):
            known = {"seconds": video.timestamps_s, "duration_s": video.duration_s}
            video = video.pixels
        try:
            frames = torch.as_tensor(video)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"a video is a path, Frames, or uint8 frames (T, 3, H, W), not {type(video)}") from error
        if frames.dim() == 4 and frames.shape[1] != 3 and frames.shape[-1] == 3:
            frames = frames.permute(0, 3, 1, 2)
        check_frames(frames)
        return VideoInput(self.family.pixels(frames, self.config, resized=from_file), **known)


def _listed(videos: Any) -> list[Any]:
    if videos is None:
        return []
    return list(videos) if isinstance(videos, (list, tuple)) else [videos]


def _timed(videos: Sequence[VideoInput], timestamps: Any, metadata: Any) -> list[VideoInput]:
    """With times out of what `attach` takes, or of lists in place of its tensors; or with what the metadata tells."""
    if timestamps is not None and metadata is not None:
        raise InputError("both timestamps and video_metadata are given: leave one of them out")
    if metadata is not None:
        found = samplings(metadata)
    elif timestamps is None:
        return list(videos)
    else:
        rows = timestamps if isinstance(timestamps, (list, tuple)) and not any(map(_is_number, timestamps)) else None
        try:
            times = [torch.as_tensor(row, dtype=torch.float64) for row in ([timestamps] if rows is None else rows)]
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError("timestamps must be numbers: one tensor (T,) of seconds, or one for each video") from error
        found = [Sampling(seconds) for seconds in given_times(times[0] if len(times) == 1 else times)]
    if len(found) not in (1, len(videos)):
        raise InputError(f"timestamps for {len(found)} videos, but {len(videos)} videos are given: give one each")
    dealt = [*found] * (len(videos) // len(found))
    return [video._replace(**told._asdict()) for video, told in zip(videos, dealt, strict=True)]


def _metadata(video: VideoInput) -> dict[str, Any]:
    """See `Processor.__call__`."""
    told: dict[str, Any] = {"fps": 1.0, "frames_indices": video.times.tolist()}
    return told if video.duration_s is None else told | {"duration": video.duration_s}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _named(part: Mapping[str, Any]) -> Any:
    """The video that a part of a conversation names."""
    video = next((part[name] for name in ("video", "path") if part.get(name) is not None), None)
    if video is None:
        raise InputError('a part of type "video" names no video: give {"type": "video", "video": PATH}')
    return video
