"""A processor of text and videos with the interface of the stock processors, which needs only torch and a tokenizer.

Stock video processors need torchvision, and LLaVA-Video has no stock processor.
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
    """Makes the arguments of `generate` from prompts or conversations, and videos.

    Parameters
    ----------
    family: of the model.
    tokenizer: of the checkpoint.
    template: chat template of the checkpoint, None for that of the tokenizer.
    config: preprocessor config of the checkpoint.
    read: decodes a file; its keyword `frames` sets the number of frames.
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
        """Model inputs for prompts, padded on the left.

        Parameters
        ----------
        text: one or several prompts with a video token (`video_token`) for each video.
        videos: one or several videos, each a path, decoded `Frames`, or uint8 frames ``(T, 3, H, W)`` or
            ``(T, H, W, 3)``.
        images: not supported.
        timestamps: seconds ``(T,)`` of each video, or of all. None: those of the files, or else one frame per second.
        video_metadata: one for each video, as stock processors accept them: mappings with `fps` and `frames_indices`,
            and optionally the `duration` and `total_num_frames` of the whole video, which some prompts contain.
        num_frames: number of frames to decode from a file; None for the model's default.
        return_metadata: also return `video_metadata`, see below.
        return_tensors, padding: accepted for compatibility; the result always holds padded tensors.

        Returns
        -------
        The arguments of `model.generate(**inputs)`; `.to(device, dtype)` moves them. With `return_metadata` they
        include `video_metadata`, the times of the frames, which a model accepts only within `tangovlm.attach`: for each
        video a mapping whose `frames_indices` are seconds, because its `fps` is 1, and with its `duration` if known.

        Raises
        ------
        InputError: another number of videos than of video tokens, invalid frames, images, invalid times, or both
            `timestamps` and `video_metadata`.
        VideoError: a file that cannot be decoded.
        """
        if images is not None or return_tensors != "pt":
            raise InputError(
                "this processor makes torch tensors of videos only: use the processor of transformers for anything else"
            )
        del padding
        prompts = self._prompts(text)
        made = _with_times([self._video(video, num_frames) for video in _as_list(videos)], timestamps, video_metadata)
        inputs: dict[str, Any] = dict(self.family.prompt.build_inputs(self.tokenizer, prompts, made))
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
        """The prompt of one or several conversations; with `tokenize`, the model inputs.

        Parameters
        ----------
        conversation: one or several lists of turns with a role and a content, which is text or a list of parts such as
            ``{"type": "video", "video": "clip.mp4"}`` and ``{"type": "text", "text": "What happens?"}``.
        tokenize: also decode the videos of the conversation, and return model inputs.
        num_frames, return_metadata, return_tensors, padding: see `__call__`.
        return_dict: must be True with `tokenize`.
        chat_template_kwargs: variables of the chat template.

        Raises
        ------
        InputError: see `__call__`; an invalid conversation, or an unknown option.
        ModelError: the checkpoint has no chat template, or an invalid one.
        """
        if unknown:
            raise InputError(
                f"this processor has no option {min(unknown)}: give variables of the chat template as "
                "chat_template_kwargs, and times to a call of the processor"
            )
        if tokenize and not return_dict:
            raise InputError("this processor returns a mapping of all model inputs: leave out return_dict=False")
        conversations, several = chat.conversations(conversation)
        options = {**(chat_template_kwargs or {}), "add_generation_prompt": add_generation_prompt}
        template = self.family.prompt.template(self.template)
        texts = [chat.render(self.tokenizer, template, turns, self.video_token, **options) for turns in conversations]
        if not tokenize:
            return texts if several else texts[0]
        return self(
            texts,
            [_video_of(part) for turns in conversations for part in chat.parts(turns, "video")],
            num_frames=num_frames,
            return_metadata=return_metadata,
            return_tensors=return_tensors,
            padding=padding,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the tokenizer, the chat template and the preprocessor config to the folder of a saved model.

        `tangovlm.load(folder)` then prepares pixels and prompts in the same way.
        """
        target = Path(folder)
        self.tokenizer.save_pretrained(target)
        if self.template is not None:
            (target / "chat_template.jinja").write_text(self.template, encoding="utf-8")
        config = json.dumps(dict(self.config), indent=2)
        (target / "video_preprocessor_config.json").write_text(f"{config}\n", encoding="utf-8")

    @property
    def video_token(self) -> str:
        """The token that represents a video in a prompt."""
        return self.family.prompt.video_token(self.tokenizer)

    def decode(self, ids: Any, **options: Any) -> str:
        """The tokenizer's `decode`."""
        text: str = self.tokenizer.decode(ids, **options)
        return text

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        """The tokenizer's `batch_decode`."""
        texts: list[str] = self.tokenizer.batch_decode(ids, **options)
        return texts

    def _prompts(self, text: Any) -> list[str]:
        """The prompts as a list; raises `InputError` for invalid ones."""
        prompts = [text] if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else []
        if not prompts or not all(isinstance(prompt, str) and prompt for prompt in prompts):
            raise InputError("the text must be a non-empty prompt, or a list of them")
        for token in self.family.prompt.reserved(self.tokenizer):
            if any(token in prompt for prompt in prompts):
                raise InputError(
                    f"a prompt holds {token!r}, which represents an image: this processor supports videos only; for "
                    "images use the processor of transformers"
                )
        return prompts

    def _video(self, video: Any, count: int | None) -> VideoInput:
        """The pixels of a video, and its times if known."""
        from_file = isinstance(video, (str, Path))
        if from_file:
            video = self.read(video) if count is None else self.read(video, frames=count)
        times: dict[str, Any] = {}
        if isinstance(video, Frames):
            times = {"seconds": video.prompt_times_s, "duration_s": video.prompt_duration_s}
            video = video.pixels
        try:
            frames = torch.as_tensor(video)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"a video is a path, Frames, or uint8 frames (T, 3, H, W), not {type(video)}") from error
        if frames.dim() == 4 and frames.shape[1] != 3 and frames.shape[-1] == 3:
            frames = frames.permute(0, 3, 1, 2)
        check_frames(frames)
        return VideoInput(self.family.prompt.pixels(frames, self.config, resized=from_file), **times)


def _as_list(videos: Any) -> list[Any]:
    if videos is None:
        return []
    return list(videos) if isinstance(videos, (list, tuple)) else [videos]


def _with_times(videos: Sequence[VideoInput], timestamps: Any, metadata: Any) -> list[VideoInput]:
    """Videos with times from `timestamps` as `attach` accepts them (lists instead of tensors too), or from metadata."""
    if timestamps is not None and metadata is not None:
        raise InputError("both timestamps and video_metadata are given: leave one of them out")
    if metadata is not None:
        sampling = samplings(metadata)
    elif timestamps is None:
        return list(videos)
    else:
        several = isinstance(timestamps, (list, tuple)) and not any(map(_is_number, timestamps))
        try:
            times = [torch.as_tensor(each, dtype=torch.float64) for each in (timestamps if several else [timestamps])]
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError("timestamps must be numbers: one tensor (T,) of seconds, or one for each video") from error
        sampling = [Sampling(seconds) for seconds in given_times(times[0] if len(times) == 1 else times)]
    if len(sampling) not in (1, len(videos)):
        raise InputError(f"timestamps for {len(sampling)} videos, but {len(videos)} videos are given: give one each")
    repeated = sampling * (len(videos) // len(sampling))
    return [video._replace(**each._asdict()) for video, each in zip(videos, repeated, strict=True)]


def _metadata(video: VideoInput) -> dict[str, Any]:
    """See `Processor.__call__`."""
    metadata: dict[str, Any] = {"fps": 1.0, "frames_indices": video.times.tolist()}
    return metadata if video.duration_s is None else metadata | {"duration": video.duration_s}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _video_of(part: Mapping[str, Any]) -> Any:
    """The video of a part of a conversation."""
    video = next((part[name] for name in ("video", "path") if part.get(name) is not None), None)
    if video is None:
        raise InputError('a part of type "video" has no video: give {"type": "video", "video": PATH}')
    return video
