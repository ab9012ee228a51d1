"""The models of `bench ttft`: published shapes and the layout of patches."""

import pytest
import torch

from tangovlm.bench.ttft import models
from tangovlm.bench.ttft.random_weights import clips

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "billions"), [("llava-onevision", 8.03), ("qwen2.5-vl", 8.29)])
def test_shapes_are_the_published_ones(name: str, billions: float) -> None:
    host = models.HOSTS[name]
    made = host("7b", torch.device("meta"), torch.bfloat16)
    parameters = sum(weight.numel() for weight in made.model.parameters())
    assert parameters / 1e9 == pytest.approx(billions, abs=0.01)
    # The estimate counts weights as bytes and leaves out small things.
    estimate = host.required_bytes("7b", torch.bfloat16, 2, 1)
    assert 2 * 0.98 * parameters < estimate < 2 * 1.1 * parameters
    grid = host.visual_tokens(32)
    assert grid == made.placeholders(32) - (name == "llava-onevision") == {"llava-onevision": 6272}.get(name, 3136)


def test_qwen_patches_lie_as_the_model_wants_them() -> None:
    host = models.Qwen25VL("tiny", CPU, torch.float32)
    films = clips(1, 4, host.frame_side)
    got = host.pixels(films)
    assert got["video_grid_thw"].tolist() == [[2, 28, 28]]
    mean, std = torch.tensor(host._mean).view(3, 1, 1), torch.tensor(host._std).view(3, 1, 1)
    video = (films[0].float() / 255 - mean) / std
    # Patch (row, column) of two frames: groups of 2 x 2 patches row by row, the four of a group row by row.
    for step, row, column in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 0, 2), (0, 2, 0), (1, 27, 26)]:
        place = ((step * 14 + row // 2) * 14 + column // 2) * 4 + row % 2 * 2 + column % 2
        patch = video[2 * step : 2 * step + 2, :, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
        torch.testing.assert_close(got["pixel_values_videos"][place], patch.transpose(0, 1).flatten())
