"""Pixels and grids at natural sizes: what each family makes of frames beside what the stock video processor makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tangovlm.models.common.patch_sequence import PatchSequenceFamily
from tangovlm.models.common.prompt_format import VideoInput
from tests.processors.geometry import SHAPES, SIZES, Shape, frames

WITHIN = 1.0
"""Of 255."""


def ours(family: Any, video: Tensor, config: dict[str, Any]) -> dict[str, Tensor]:
    """Arguments of `generate`."""
    return family.prompt.media_kwargs(VideoInput(family.prompt.pixels(video, config)))


def farthest(made: dict[str, Tensor], stock: Any, config: dict[str, Any]) -> float:
    """The largest difference of two pixels, in steps of a byte."""
    (mine,) = (made[name] for name in ("pixel_values_videos", "pixel_values") if name in made)
    (theirs,) = (stock[name] for name in ("pixel_values_videos", "pixel_values") if name in stock)
    # A stock processor by itself gives InternVL's frames a dimension for the video.
    theirs = theirs[0] if theirs.dim() == mine.dim() + 1 else theirs
    assert mine.shape == theirs.shape
    scale = config["rescale_factor"] if config["do_rescale"] else 1.0
    spread = max(config["image_std"]) if config["do_normalize"] else 1.0
    return float((mine - theirs.float()).abs().max()) * spread / scale


def check(shape: Shape, count: int, height: int, width: int, *, noise: bool = False, **changes: Any) -> float:
    family, (processor, config) = shape.family(), shape.stock(**changes)
    video = frames(count, height, width, noise=noise)
    stock = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    made = ours(family, video, config)
    if isinstance(family, PatchSequenceFamily):
        assert made["video_grid_thw"].tolist() == stock["video_grid_thw"].tolist()
    return farthest(made, stock, config)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SHAPES)
def test_pixels_and_grids(name: str, size: tuple[int, int], record_property: Any) -> None:
    found = check(SHAPES[name], 3 if max(size) < 1000 else 2, *size)
    record_property("farthest", found)
    assert found <= WITHIN


@pytest.mark.parametrize("name", SHAPES)
def test_noise(name: str) -> None:
    """In which every wrong place or weight of a filter shows."""
    assert check(SHAPES[name], 2, 360, 640, noise=True) <= WITHIN


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith(("qwen", "videollama", "glm"))])
def test_grids_depend_on_the_number_of_frames(name: str, count: int) -> None:
    assert check(SHAPES[name], count, 900, 700) <= WITHIN


@pytest.mark.parametrize(
    "changes",
    [{"do_normalize": False}, {"do_rescale": False}, {"do_normalize": False, "do_rescale": False},
     {"rescale_factor": 0.5}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}, {"resample": 2}],
    ids=lambda changes: "-".join(changes),
)  # fmt: skip
@pytest.mark.parametrize("name", SHAPES)
def test_steps_of_the_config(name: str, changes: dict[str, Any]) -> None:
    if name.startswith("minicpm") and len(changes) == 2 and "do_rescale" in changes:
        pytest.skip("the stock processor fails to divide bytes into patches")
    assert check(SHAPES[name], 2, 337, 601, **changes) <= WITHIN


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in ("llava-next-video-default", "video-llava")])
def test_frames_that_are_not_resized(name: str) -> None:
    family = SHAPES[name].family()
    prompt = family.prompt
    height, width = (
        (224, 448) if isinstance(family, PatchSequenceFamily) else (prompt.pixels(frames(1, 50, 50), {}).shape[-1],) * 2
    )
    assert check(SHAPES[name], 2, height, width, do_resize=False) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    "name", [name for name in SHAPES if name in ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "videollama3", "gemma-4")]
)
def test_without_a_preprocessor_config(name: str) -> None:
    """The defaults are those of the stock class."""
    shape = SHAPES[name]
    family, (processor, config), video = shape.family(), shape.stock(), frames(2, 480, 640)
    made, stock = ours(family, video, {}), processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    (places,) = (key for key in ("video_grid_thw", "video_position_ids") if key in made)
    assert made[places].tolist() == stock[places].tolist()
    assert farthest(made, stock, config) <= WITHIN


def test_lanczos_is_taken() -> None:
    """The comparison would not notice if both had fallen back to the bicubic filter."""
    shape, video = SHAPES["smolvlm2"], frames(1, 360, 640, noise=True)
    family, (_, config) = shape.family(), shape.stock()
    lanczos, bicubic = family.prompt.pixels(video, config), family.prompt.pixels(video, config | {"resample": 3})
    assert config["resample"] == 1
    assert float((lanczos - bicubic).abs().max()) * 127.5 > 10 * WITHIN


def test_budgets_in_all_their_ranges() -> None:
    """The arithmetic of sizes beside the stock functions, over sizes from a pixel to thousands."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize as of_frame
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as of_video

    from tangovlm.errors import InputError
    from tangovlm.inputs.frame_size import SizeRule

    generator = torch.Generator().manual_seed(0)
    compared = 0
    for draw in torch.rand(20_000, 5, generator=generator, dtype=torch.float64).tolist():
        height, width = (int(2 ** (12 * part)) for part in draw[:2])
        count, least, most = 1 + int(40 * draw[2]), int(2 ** (6 + 14 * draw[3])), int(2 ** (10 + 16 * draw[4]))
        unit = (8, 28, 32)[count % 3]
        config = {"size": {"shortest_edge": least, "longest_edge": most}}
        for of, per_step, bounds in (("frame", 2, most), ("shared", 1, most // count), ("video", 2, most)):
            try:
                if of == "video":
                    wanted: Any = of_video(max(count, 2), height, width, 2, unit, least, bounds)
                else:
                    wanted = of_frame(height, width, unit, least, bounds)
            except ValueError:
                with pytest.raises(InputError, match="too narrow"):
                    SizeRule(1, 1, of=of).size(config, height, width, count, unit, per_step)
                continue
            assert SizeRule(1, 1, of=of).size(config, height, width, count, unit, per_step) == wanted
            compared += 1
    assert compared > 40_000
