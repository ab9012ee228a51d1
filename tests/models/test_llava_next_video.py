"""LLaVA-NeXT-Video: signals against the eager tower, the map of patches to tokens, prompts, pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from tangovlm.errors import InputError, ModelError
from tangovlm.models.common.layout import Clip, Grid, Prompt
from tangovlm.models.llava_next_video import LlavaNextVideo
from tangovlm.selfcheck.twins.common.parts import VIDEO
from tangovlm.selfcheck.twins.common.weights import random
from tangovlm.selfcheck.twins.llava_next_video import PATCH, SIDE, LlavaNextVideoTwin
from tests.support.prompts import ByteTokenizer

NEEDS = frozenset({"saliency", "frame_features", "keys"})
SPECIAL = ("<pad>", "<image>", "<video>")


def token_means(values: torch.Tensor) -> torch.Tensor:
    """Patches ``(F, 36, C)`` to tokens ``(F, 3, 3, C)``, written out."""
    square = values.view(len(values), SIDE, SIDE, -1)
    return (square[:, ::2, ::2] + square[:, 1::2, ::2] + square[:, ::2, 1::2] + square[:, 1::2, 1::2]) / 4


@torch.no_grad()
def tower_output(model: Any, frames: torch.Tensor) -> Any:
    return model.model.vision_tower(frames, output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize(("entries", "last"), [(-2, 1), (-1, 2), (2, 1), ([-2, 1], 1), ([-1, -3], 2)])
@torch.no_grad()
def test_signals_against_the_eager_tower(entries: Any, last: int) -> None:
    """Saliency and keys are those of the last layer that the features use, the last but one by default."""
    model, videos = LlavaNextVideoTwin(attention="eager").model, random((2, 3, 3, PATCH * SIDE, PATCH * SIDE), 1)
    model.config.vision_feature_layer = entries
    family = LlavaNextVideo(model)
    with family.signals.observe(NEEDS) as signals:
        family.tower(videos.flatten(0, 1))
    output = tower_output(model, videos.flatten(0, 1))
    received = output.attentions[last].mean(dim=(1, 2))[:, 1:]
    wanted = token_means((received / received.sum(dim=1, keepdim=True))[..., None])[..., 0]
    torch.testing.assert_close(signals.saliency, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(signals.frame_features, output.pooler_output, atol=1e-5, rtol=1e-5)
    layer = family.tower.encoder.layers[last]
    keys = layer.self_attn.k_proj(layer.layer_norm1(output.hidden_states[last]))[:, 1:].unflatten(-1, (4, 8)).mean(2)
    torch.testing.assert_close(signals.keys, token_means(keys), atol=1e-5, rtol=1e-5)


def test_each_token_is_made_of_the_patches_that_are_averaged() -> None:
    model = LlavaNextVideoTwin().model
    values = random((2, SIDE * SIDE, 32), 3)
    with torch.no_grad():
        wanted = model.model.vision_resampler(values)
    torch.testing.assert_close(LlavaNextVideo(model).signals.pool(values).flatten(1, 2), wanted)


def test_clips() -> None:
    family = LlavaNextVideo(LlavaNextVideoTwin().model)
    clips = family.layout.clips(Prompt(), torch.zeros(2, 5, 3, PATCH * SIDE, PATCH * SIDE))
    assert clips == [Clip(Grid(5, 3, 3), 0), Clip(Grid(5, 3, 3), 5)]


def test_other_towers_are_refused() -> None:
    model = LlavaNextVideoTwin().model
    tower = LlavaNextVideo(model).tower
    del tower.pre_layrnorm
    with pytest.raises(ModelError, match="only CLIP towers are supported"):
        LlavaNextVideo(model).signals.observe(NEEDS).__enter__()


# --- from a file to inputs --------------------------------------------------------------------------------------------


def test_prompt() -> None:
    tokenizer = ByteTokenizer(*SPECIAL)
    template = "USER: {% for c in messages[0].content %}{{ '<video>\n' if c.type == 'video' else c.text }}{% endfor %}"
    family, pixels = LlavaNextVideo(LlavaNextVideoTwin().model), torch.zeros(1, 2, 3, PATCH * SIDE, PATCH * SIDE)
    family.model.config.image_token_index, family.model.config.video_token_index = 1, 2
    inputs = family.prompt.inputs(tokenizer, template, pixels, "Why?")
    assert tokenizer.whole_text(inputs["input_ids"]) == "USER: " + "<video>" * 18 + "\nWhy?"
    assert int((inputs["input_ids"] == 2).sum()) == 18
    assert inputs["pixel_values_videos"] is pixels
    with pytest.raises(InputError, match="'<image>', which stands for visual tokens"):
        family.prompt.inputs(tokenizer, template, pixels, "an <image>?")


CONFIG = {"size": {"shortest_edge": 42}, "crop_size": {"height": 42, "width": 42}}


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [(100, 201, (42, 84)), (201, 100, (84, 42)), (60, 60, (42, 42)), (360, 640, (42, 74)), (60, 65, (42, 45)),
     (67, 60, (46, 42)), (60, 70, (42, 49))],
)  # fmt: skip
def test_pixels_are_the_middle(height: int, width: int, wanted: tuple[int, int]) -> None:
    family = LlavaNextVideo(LlavaNextVideoTwin().model)
    assert family.prompt.frame_size(CONFIG, height, width) == wanted
    rows, columns = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    frame = torch.stack([(torch.sin(rows * k) * torch.cos(columns) + 1) * 110 for k in (1, 2, 3)]).to(torch.uint8)
    pixels = family.prompt.pixels(frame[None], CONFIG | {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]})
    assert pixels.shape == (1, 1, 3, 42, 42)
    left, top = (wanted[1] - 42) // 2, (wanted[0] - 42) // 2
    picture = Pictures.fromarray(frame.permute(1, 2, 0).numpy()).resize(wanted[::-1], Pictures.BICUBIC)
    picture = picture.crop((left, top, left + 42, top + 42))
    assert (255 * pixels[0, 0] - torch.from_numpy(np.array(picture)).permute(2, 0, 1)).abs().max() <= 2.001


def test_sizes_of_other_configs() -> None:
    family = LlavaNextVideo(LlavaNextVideoTwin().model)
    frames = torch.zeros(2, 3, 60, 90, dtype=torch.uint8)
    assert family.prompt.pixels(frames, {}).shape == (1, 2, 3, 42, 42)
    assert family.prompt.frame_size({"size": 42}, 60, 90) == (42, 63)
    fixed = {"size": {"height": 42, "width": 42}}
    assert family.prompt.frame_size(fixed, 60, 90) == (42, 42)
    assert family.prompt.pixels(frames, fixed).shape == (1, 2, 3, 42, 42)
    with pytest.raises(ModelError, match="the preprocessor config has size"):
        family.prompt.frame_size({"size": {"longest_edge": 3}}, 60, 90)
    with pytest.raises(ModelError, match="frames of 40 x 60 pixels, but the model takes 42 x 42"):
        family.prompt.pixels(frames, {"size": {"shortest_edge": 40}})
    # Not resized, the middle is taken all the same, unless nothing is cut off either.
    assert family.prompt.frame_size({"do_resize": False}, 60, 90) == (60, 90)
    ramp = torch.arange(90, dtype=torch.uint8).expand(1, 3, 60, 90)
    plain = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    assert family.prompt.pixels(ramp, plain)[0, 0, 0, 0].tolist() == list(range(24, 66))
    with pytest.raises(ModelError, match="frames of 42 x 63 pixels, but the model takes 42 x 42"):
        family.prompt.pixels(frames, {"do_center_crop": False})


def test_placeholder() -> None:
    assert LlavaNextVideo(LlavaNextVideoTwin().model).layout.placeholder == VIDEO
