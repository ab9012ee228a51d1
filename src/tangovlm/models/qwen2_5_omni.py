"""Qwen2.5-Omni's thinker: the tower of Qwen2.5-VL, positions in time in seconds, and sound beside or inside videos."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checkpoints.checkpoint import load_complete
from ..errors import InputError
from ..registry import register_family
from .common.layout import Prompt
from .common.part import Part
from .common.patch_sequence import PatchSequenceFamily, PatchSequenceLayout, PatchSequencePrompt
from .common.prompt_format import VideoInput
from .common.transformers_compat import Arg
from .qwen2_5_vl import window_order
from .qwen2_vl import SIZE_RULE

_SIZES = ("size", "min_pixels", "max_pixels")


class SilentVideos(PatchSequencePrompt):
    """Videos without their sound; the model receives the duration of a step."""

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, frames: int | None = None
    ) -> tuple[int, int]:
        """See `PromptFormat.frame_size`: the areas are those of the stock processor, not of the checkpoint's files."""
        rest = {name: value for name, value in config.items() if name not in _SIZES}
        return super().frame_size(rest, height, width, frames)

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        sound = str(tokenizer.convert_ids_to_tokens(self.model.config.audio_token_id))
        return (*super().reserved(tokenizer), sound)

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        interval = self.family.layout.frames_per_step * video.seconds_per_frame
        return super().media_kwargs(video) | {Arg.VIDEO_STEP_SECONDS: torch.tensor([interval])}

    def token_types(self, _ids: Tensor) -> dict[str, Tensor]:
        """See `PromptFormat.token_types`: none, as the model finds videos by the tokens before them."""
        return {}


class VideosWithSound(PatchSequenceLayout):
    """Tokens of sound may be between those of a video; they are tokens of the text here, so that all of them stay."""

    # Stock code counts the token after a video together with it.
    closing_tokens = 1

    def check_inputs(self, prompt: Prompt, options: Mapping[str, Any]) -> None:
        """See `FeatureLayout.check_inputs`: either all videos of a call have sound, or none."""
        if Arg.SOUND_IN_VIDEO in options and options.get(Arg.HIDDEN_STATES):
            # So calls the whole model. A longer answer would fill the places of dropped tokens.
            raise InputError(
                "the talker needs a hidden state for every token of the prompt, also for dropped ones: leave the "
                "attach context, or give generation_mode='text'"
            )
        input_ids, config = prompt.input_ids, self.model.config
        if input_ids is None or prompt.continues:
            return
        start = input_ids[:, :-2] == config.vision_start_token_id
        sound = start & (input_ids[:, 1:-1] == config.audio_start_token_id)
        silent = start & (input_ids[:, 1:-1] == config.video_token_id)
        if options.get(Arg.SOUND_IN_VIDEO):
            if bool(silent.any()):
                raise InputError(
                    "use_audio_in_video is True, but a video has no sound in the prompt, so that the model would "
                    "count its positions wrongly: make a call for videos without sound"
                )
        elif bool(sound.any()):
            raise InputError("a video has sound in the prompt, but use_audio_in_video is not True: give it to the call")


class Thinker(PatchSequenceFamily):
    """What the thinkers of Qwen's Omni models have in common; the talkers, which speak, are other models."""

    since = "5.21"
    thinker_class: ClassVar[str]
    """Name of the model class in transformers, whose config class is `thinker_config_class`."""
    thinker_config_class: ClassVar[str]
    default_frames = 32
    keeps_positions = True
    prompt = Part(SilentVideos)
    layout = Part(VideosWithSound)

    @classmethod
    def load_model(cls, source: str, **options: Any) -> Any:
        """See `Family.load_model`: the thinker alone, from its own checkpoint or from that of the whole model."""
        import transformers

        cls.check_release()
        local = bool(options.get("local_files_only"))
        config = getattr(transformers, cls.thinker_config_class).from_pretrained(source, local_files_only=local)
        return load_complete(getattr(transformers, cls.thinker_class), source, config=config, **options)


@register_family("Qwen2_5OmniThinkerForConditionalGeneration")
class Qwen25Omni(Thinker):
    """`Qwen2_5OmniThinkerForConditionalGeneration`.

    If a video has sound, stock code writes the tokens of both in turns, by time. Those of the sound stay where they
    are, and all tokens keep the positions that the stock model gives them. The whole model is refused: its talker reads
    a hidden state for every token of the prompt.
    """

    name = "qwen2.5-omni"
    checkpoints = ("Qwen/Qwen2.5-Omni-3B", "Qwen/Qwen2.5-Omni-7B")
    wholes: ClassVar = {"Qwen2_5OmniForConditionalGeneration": "thinker", "Qwen2_5OmniModel": "thinker"}
    thinker_class = "Qwen2_5OmniThinkerForConditionalGeneration"
    thinker_config_class = "Qwen2_5OmniThinkerConfig"
    size_rule = SIZE_RULE

    @property
    def query_key(self) -> tuple[nn.Module, ...]:
        """See `PatchSequenceFamily.query_key`."""
        return self.attention.q, self.attention.k

    def token_order(self, thw: Tensor) -> Tensor:
        """See `PatchSequenceFamily.token_order`."""
        return window_order(self.model.config.vision_config, thw)
