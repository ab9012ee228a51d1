"""Pixels and prompts without torchvision."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tangovlm.errors import InputError, ModelError
from tangovlm.inputs.chat import render
from tangovlm.inputs.pixels import PixelSpec, _has_lanczos, patches, prepare_pixels
from tangovlm.inputs.prompting import chat_prompt

SPEC = PixelSpec(size=(28, 28), mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
TEMPLATE = (
    "{% for m in messages %}<u>{% for c in m['content'] if c.type == 'video' %}<video>{% endfor %}"
    "{% for c in m['content'] if c.type == 'text' %}{{ c.text }}{% endfor %}</u>{% endfor %}"
)
PLAIN = "{% for m in messages %}<u>{{ m['content'] if m['content'] is string else '' }}</u>{% endfor %}"

CONCATENATED = "{% for m in messages %}{{ '<u>' + m['content'] + '</u>' }}{% endfor %}"
PRINTED = "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}"


def frames(count: int = 2, height: int = 50, width: int = 64) -> torch.Tensor:
    """Smooth pictures with an edge, as resampling filters differ most there."""
    rows, columns = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    wave = torch.stack([(torch.sin(rows * k) * torch.cos(columns) + 1) * 110 for k in (1, 2, 3)])
    wave[:, height // 3 :, width // 2 :] = 255
    return torch.stack([wave + number for number in range(count)]).clamp(0, 255).to(torch.uint8)


def back_to_bytes(pixels: torch.Tensor, spec: PixelSpec = SPEC) -> torch.Tensor:
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    return (pixels * std + mean) / spec.rescale


@pytest.mark.parametrize("size", [(28, 28), (70, 90), (50, 64), (112, 112)])
@pytest.mark.parametrize(
    ("mode", "pil"), [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR), ("lanczos", Image.LANCZOS)]
)
def test_pixels_follow_pil_within_one(size: tuple[int, int], mode: str, pil: int) -> None:
    if mode == "lanczos" and not _has_lanczos():
        pytest.skip("this torch has no Lanczos filter")
    spec = PixelSpec(size=size, mean=SPEC.mean, std=SPEC.std, mode=mode)
    video = frames()
    got = back_to_bytes(prepare_pixels(video, spec), spec)
    for frame, pixels in zip(video, got, strict=True):
        picture = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(size[::-1], pil)
        wanted = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert (pixels - wanted).abs().max() <= 1.001


def test_without_lanczos_the_filter_is_bicubic(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in stock processors with a torch or a torchvision before it."""
    monkeypatch.setattr("tangovlm.inputs.pixels._has_lanczos", lambda: False)
    got = prepare_pixels(frames(), replace(SPEC, mode="lanczos"))
    assert torch.equal(got, prepare_pixels(frames(), SPEC))


def test_pixels_of_the_right_size_are_exact() -> None:
    video = frames(height=28, width=28)
    wanted = (video / 255 - torch.tensor(SPEC.mean).view(3, 1, 1)) / torch.tensor(SPEC.std).view(3, 1, 1)
    torch.testing.assert_close(prepare_pixels(video, SPEC), wanted)


@pytest.fixture
def set_default_dtype() -> Any:
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("shape", [(50, 64), (28, 28)])
def test_pixels_do_not_depend_on_the_default_dtype(shape: tuple[int, int], set_default_dtype: Any) -> None:
    video = frames(2, *shape)
    wanted = prepare_pixels(video, SPEC)
    set_default_dtype(torch.bfloat16)
    got = prepare_pixels(video, SPEC)
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("shape", [(50, 64), (28, 28), (20, 20)])
def test_pixels_equal_the_stock_processor(shape: tuple[int, int], stock_processor: Any) -> None:
    video = frames(3, *shape)
    processor = stock_processor(size={"height": 28, "width": 28}, image_mean=SPEC.mean, image_std=SPEC.std)
    wanted = processor(videos=[video], return_tensors="pt")["pixel_values_videos"][0]
    got = prepare_pixels(video, SPEC)
    assert (back_to_bytes(got) - back_to_bytes(wanted)).abs().max() <= 1.001


@pytest.fixture
def stock_processor() -> Any:
    """The stock class, which needs a torchvision that fits torch."""
    pytest.importorskip("torchvision", exc_type=Exception, reason="torchvision cannot be imported")
    return pytest.importorskip("transformers").LlavaOnevisionVideoProcessor


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(0, 3, 8, 8, dtype=torch.uint8)],
)
def test_bad_frames(bad: torch.Tensor) -> None:
    with pytest.raises(InputError, match="uint8"):
        prepare_pixels(bad, SPEC)


def test_spec_from_a_config() -> None:
    config = {"size": {"height": 10, "width": 12}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1], "resample": 2}
    wanted = PixelSpec((10, 12), (0, 0, 0), (1, 1, 1), mode="bilinear")
    assert PixelSpec.from_config(config, SPEC) == wanted
    assert PixelSpec.from_config({}, SPEC) == SPEC
    assert PixelSpec.from_config(config, SPEC, (3, 4)) == PixelSpec((3, 4), (0, 0, 0), (1, 1, 1), mode="bilinear")
    nothing = dict.fromkeys(["size", "resample", "image_mean", "image_std", "rescale_factor", "do_normalize"])
    assert PixelSpec.from_config(nothing, SPEC) == SPEC
    assert PixelSpec.from_config({"resample": 1}, SPEC).mode == "lanczos"


def test_steps_that_a_config_leaves_out() -> None:
    video = frames(height=28, width=28)
    plain, mean, std = video.float(), *(torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    for config, wanted in (
        ({"do_rescale": False}, (plain - mean) / std),
        ({"do_normalize": False}, plain / 255),
        ({"do_rescale": False, "do_normalize": False}, plain),
        ({"do_rescale": True, "do_normalize": True}, (plain / 255 - mean) / std),
    ):
        torch.testing.assert_close(prepare_pixels(video, PixelSpec.from_config(config, SPEC)), wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": {"shortest_edge": 10}},
        {"size": 5},
        {"size": {"height": "a", "width": 4}},
        {"size": {"height": 4, "width": -4}},
        {"resample": 0},
        {"resample": [3]},
        {"do_rescale": "no"},
        {"do_normalize": 1},
        {"image_mean": [0.5]},
        {"image_mean": "abc"},
        {"image_mean": [0.5, 0.5, float("nan")]},
        {"image_std": [0.5, 0.5, 0]},
        {"rescale_factor": "x"},
    ],
)
def test_config_with_wrong_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="the preprocessor config has"):
        PixelSpec.from_config(wrong, SPEC)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    plain = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (TEMPLATE, "<u><video>why?</u>"),
        (PLAIN, "<u><video>\nwhy?</u>"),
        (CONCATENATED, "<u><video>\nwhy?</u>"),
        (PRINTED, "<u><video>\nwhy?</u>"),
        (None, "<video>\nwhy?\n"),
    ],
)
def test_prompt(tokenizer: Any, template: str | None, wanted: str) -> None:
    assert chat_prompt(tokenizer, template, "why?", "<video>") == wanted


@pytest.mark.parametrize(
    "template",
    ["{% for %}", "{{ 1 / 0 }}", "{{ 1 + 'a' }}", "{{ raise_exception('no') }}", "{{ messages[7].x }}", "hello"],
)
def test_templates_that_are_broken(tokenizer: Any, template: str) -> None:
    with pytest.raises(ModelError, match="chat template does not accept this conversation"):
        chat_prompt(tokenizer, template, "why?", "<video>")


def test_templates_for_text_get_videos_in_their_places(tokenizer: Any) -> None:
    video, text = {"type": "video"}, {"type": "text", "text": "a"}
    turns = [{"role": "user", "content": [text, video, video, text]}, {"role": "assistant", "content": "b"}]
    for template in (CONCATENATED, PRINTED):
        assert render(tokenizer, template, turns, "<video>") == "<u>a<video>\n<video>\na</u><u>b</u>"
        # Also where there is no video to be missed.
        assert render(tokenizer, template, [{"role": "user", "content": [text]}], "<video>") == "<u>a</u>"


def test_template_of_the_tokenizer(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE
    assert chat_prompt(tokenizer, None, "why?", "<video>") == "<u><video>why?</u>"


@pytest.mark.parametrize("question", ["", "  \n", "what is <video> ?", "an <image>"])
def test_bad_questions(tokenizer: Any, question: str) -> None:
    with pytest.raises(InputError, match="the question"):
        chat_prompt(tokenizer, TEMPLATE, question, "<video>", reserved=("<image>",))


def test_patches_are_in_the_order_of_the_tower() -> None:
    """Pixel by pixel: step, token row, token column, patch row, patch column; inside: colour, frame, row, column."""
    frames = torch.arange(3 * 3 * 8 * 16, dtype=torch.float32).view(3, 3, 8, 16)
    rows, thw = patches(frames, side=2, merge=2, frames_per_step=2)
    assert thw.tolist() == [[2, 4, 8]]
    wanted = []
    for step in range(2):
        for top in range(0, 8, 4):
            for left in range(0, 16, 4):
                for y in (top, top + 2):
                    for x in (left, left + 2):
                        pair = [frames[min(2 * step + number, 2)] for number in (0, 1)]
                        cells = [image[colour, y : y + 2, x : x + 2].flatten() for colour in range(3) for image in pair]
                        wanted.append(torch.cat(cells))
    assert torch.equal(rows, torch.stack(wanted))
