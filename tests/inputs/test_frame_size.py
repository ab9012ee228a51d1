"""Sizes of frames for models that take any: those of the checkpoint's own processor, or smaller ones on request."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.video_utils import VideoMetadata

from tangovlm.errors import InputError, ModelError
from tangovlm.inputs.timestamps import samplings
from tangovlm.models.common.prompt_format import VideoInput
from tangovlm.models.qwen2_5_vl import Qwen25VL
from tangovlm.registry import family_for
from tangovlm.selfcheck.twins import twins
from tangovlm.selfcheck.twins.qwen2_5_vl import Qwen25VLTwin

# As Qwen2-VL and Qwen2.5-VL have it.
PUBLISHED = {"min_pixels": 3136, "max_pixels": 12_845_056, "size": {"min_pixels": 3136, "max_pixels": 12_845_056}}


@pytest.mark.parametrize(
    ("size", "config", "wanted"),
    [
        ((448, 448), {}, (448, 448)),
        ((1080, 1920), {}, (560, 1008)),
        ((100, 100), {}, (336, 336)),
        ((1080, 1920), PUBLISHED, (1092, 1932)),
        ((100, 100), PUBLISHED, (112, 112)),
        ((1080, 1920), PUBLISHED | {"max_pixels": 100_000}, (224, 420)),
        ((1080, 1920), {"size": {"shortest_edge": 784, "longest_edge": 100_000}}, (224, 420)),
    ],
)
def test_frame_size_is_the_checkpoints_own(
    size: tuple[int, int], config: dict[str, Any], wanted: tuple[int, int]
) -> None:
    """Whole tokens of 28 x 28 pixels, the aspect ratio kept as well as they allow; worked out by hand."""
    host = Qwen25VLTwin()
    family = Qwen25VL(host.model)
    host.model.config.vision_config.patch_size = 14
    assert family.prompt.frame_size(config, *size) == wanted
    assert family.prompt.frame_size(config, *wanted) == wanted


def family_of(name: str) -> Any:
    model = twins()[name]().model
    return family_for(model)(model)


def test_frame_size_of_a_shared_budget() -> None:
    """Qwen3-VL, GLM and VideoLLaMA3 have one for all frames of a video."""
    config = {"size": {"shortest_edge": 1024, "longest_edge": 16 * 128 * 128}}
    for name in ("qwen3_vl", "glm4v", "video_llama_3"):
        family = family_of(name)
        assert family.prompt.frame_size(config, 256, 256, 4) == (256, 256)
        assert family.prompt.frame_size(config, 256, 256, 16) == (128, 128)
        assert family.prompt.frame_size(config, 256, 256) == family.prompt.frame_size(config, 256, 256, 32) == (88, 88)


def test_smaller_frames_on_request() -> None:
    """An area, as the budgets of preprocessor configs are."""
    for name in ("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "qwen3_omni", "qwen3_vl", "glm4v", "video_llama_3"):
        family = family_of(name)
        config = family.prompt.limited({}, 64 * 64)
        assert family.prompt.frame_size(config, 64, 64, 4) == (64, 64)
        for size in ((90, 160, 4), (900, 1600, 6)):
            assert family.prompt.frame_size(config, *size) == (48, 80)
        with pytest.raises(InputError, match="max_frame_pixels is 8, but a token has 64 pixels: it is an area"):
            family.prompt.limited({}, 8)


def test_frames_that_are_not_resized() -> None:
    family = Qwen25VL(Qwen25VLTwin().model)
    assert family.prompt.frame_size({"do_resize": False}, 24, 40) == (24, 40)
    frames = torch.arange(2 * 3 * 24 * 40).remainder(256).to(torch.uint8).view(2, 3, 24, 40)
    plain = {"do_resize": False, "do_normalize": False, "do_rescale": False}
    assert torch.equal(family.prompt.pixels(frames, plain)[0], frames.float())
    with pytest.raises(InputError, match=r"have 20 x 40 pixels and .* takes multiples of 8 pixels: scale the video"):
        family.prompt.frame_size({"do_resize": False}, 20, 40)
    with pytest.raises(InputError, match="too narrow"):
        family.prompt.frame_size({}, 3, 1000)
    for size in ({"height": 4, "width": 4}, 448, {"shortest_edge": 0, "longest_edge": 9}):
        with pytest.raises(ModelError, match="the preprocessor config has"):
            family.prompt.frame_size({"size": size}, 24, 40)


def test_seconds_of_a_step_are_those_of_the_stock_processor() -> None:
    """Two frames of the whole video's length over their number, as far as that is known."""
    family, pixels = Qwen25VL(Qwen25VLTwin().model), torch.zeros(1, 4, 3, 8, 8)
    seconds = torch.tensor([0.0, 3.0, 6.0, 9.0])
    stock = VideoMetadata(total_num_frames=100, fps=10.0, duration=10.0, frames_indices=[0, 30, 60, 90])
    (known,) = samplings(stock)
    for video, wanted in (
        (VideoInput(pixels, *known), 2 / stock.sampled_fps),
        (VideoInput(pixels, seconds, 10.0), 5.0),
        (VideoInput(pixels, seconds), 6.0),
        (VideoInput(pixels), 2.0),
        (VideoInput(pixels[:, :1], seconds[:1]), 2.0),
    ):
        assert family.prompt.media_kwargs(video)["second_per_grid_ts"].tolist() == [wanted]
