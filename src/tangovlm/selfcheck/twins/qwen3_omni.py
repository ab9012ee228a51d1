"""Qwen3-Omni's thinker under test."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

from ...models.common.transformers_compat import Arg
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video
from .qwen2_5_omni import AUDIO, AUDIO_END, AUDIO_START, SOUND_IDS, Qwen25OmniTwin
from .qwen2_5_vl import END, IDS, START
from .qwen3_vl import VISION, text


class Qwen3OmniTwin(Qwen25OmniTwin):
    """Two layers of the tower are added in the text model, which has experts; positions in time are fractions."""

    family = "qwen3-omni"
    specials: ClassVar = {
        "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO, "<|audio_pad|>": AUDIO, "<|vision_start|>": START,
        "<|vision_end|>": END, "<|audio_start|>": AUDIO_START, "<|audio_end|>": AUDIO_END,
    }  # fmt: skip
    template = "<|vision_start|><|video_pad|><|vision_end|>"
    seconds_per_step = 0.75
    tokens_per_second = 2
    position_type = torch.float

    def make(self, attention: str, layers: int) -> Any:
        sound = {
            "num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16,
            "max_source_positions": 100, "output_dim": 48, "downsample_hidden_size": 4,
        }  # fmt: skip
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        config = Qwen3OmniMoeThinkerConfig(
            vision_config=VISION, audio_config=sound, text_config=text(layers) | experts,
            position_id_per_seconds=self.tokens_per_second, tie_word_embeddings=False, attn_implementation=attention,
            **IDS, **SOUND_IDS,
        )  # fmt: skip
        return Qwen3OmniMoeThinkerForConditionalGeneration(config)

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        pixels, thw = self.patches([part])
        kind = "video" if isinstance(part, Video) else "image"
        output = getattr(self.model.model, f"get_{kind}_features")(pixels, thw, **{Arg.AS_DICT: True})
        return replace(super().encode(part), layers=[layer[0] for layer in output.deepstack_features])

    def moment(self, step: int) -> float:
        return step * self.seconds_per_step * self.tokens_per_second
