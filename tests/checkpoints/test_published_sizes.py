"""Models of the sizes of published checkpoints on the meta device: structure without weights."""

from typing import Any, NamedTuple

import pytest
import torch
import transformers

import tangovlm
from tangovlm import registry


class Published(NamedTuple):
    """A checkpoint's config: what differs from the defaults of its class; and figures that follow from all of it.

    Parameters
    ----------
    billions: parameters of the whole model, as its publisher names them.
    width, layers: of the text model.
    """

    architecture: str
    options: dict[str, Any]
    billions: float
    width: int
    layers: int


QWEN3_5_27B = {
    "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 24, "intermediate_size": 17408,
    "linear_num_value_heads": 48,
}  # fmt: skip
QWEN3_8B = {"num_hidden_layers": 36, "intermediate_size": 12288, "num_key_value_heads": 8}
DEEPSTACK = {"out_hidden_size": 4096, "deepstack_visual_indexes": [8, 16, 24]}
PUBLISHED = {
    "Qwen/Qwen3.5-9B": Published(
        "Qwen3_5ForConditionalGeneration", {"vision_config": {"out_hidden_size": 4096}}, 9.4, 4096, 32
    ),
    "Qwen/Qwen3.5-27B": Published(
        "Qwen3_5ForConditionalGeneration",
        {"text_config": QWEN3_5_27B, "vision_config": {"out_hidden_size": 5120}}, 27.4, 5120, 64,
    ),
    "Qwen/Qwen3.5-35B-A3B": Published(
        "Qwen3_5MoeForConditionalGeneration", {"vision_config": {"out_hidden_size": 2048}}, 35.1, 2048, 40
    ),
    "Qwen/Qwen3-VL-8B-Instruct": Published(
        "Qwen3VLForConditionalGeneration", {"text_config": QWEN3_8B, "vision_config": DEEPSTACK}, 8.8, 4096, 36
    ),
    "zai-org/GLM-4.1V-9B-Thinking": Published("Glm4vForConditionalGeneration", {}, 10.3, 4096, 40),
    "LanguageBind/Video-LLaVA-7B-hf": Published("VideoLlavaForConditionalGeneration", {}, 7.4, 4096, 32),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": Published("LlavaNextVideoForConditionalGeneration", {}, 7.1, 4096, 32),
}  # fmt: skip


@pytest.mark.parametrize("hub_id", PUBLISHED)
def test_the_family_finds_its_parts(hub_id: str) -> None:
    """A session begins and ends on the whole model, with its text model and its tower at their real sizes."""
    known = PUBLISHED[hub_id]
    model_class = getattr(transformers, known.architecture)
    with torch.device("meta"):
        model = model_class(model_class.config_class(**known.options)).eval()
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e9, 1) == known.billions
    family = registry.family_for(model)
    assert hub_id in family.checkpoints
    bound = family(model)
    assert (bound.width, len(bound.decoder.layers)) == (known.width, known.layers)
    for kind in bound.signals.saliency_kinds:
        with tangovlm.attach(model, tangovlm.Milonga(retention=0.1), saliency=kind):
            assert any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
