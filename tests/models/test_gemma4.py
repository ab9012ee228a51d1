"""Gemma 4: signals against the eager tower, frame sizes and prompts against stock code, windows, frames as blocks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

import tangovlm
from tangovlm.errors import InputError, ModelError
from tangovlm.inputs.frame_size import fit_into
from tangovlm.models.common.layout import Grid
from tangovlm.models.common.signals import Signals
from tangovlm.models.common.transformers_compat import counts_frames
from tangovlm.models.gemma4 import Gemma4
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import VIDEO, Image, RandomWords, Video
from tangovlm.selfcheck.twins.gemma4 import MOST, PATCH, POOL, WINDOW, Gemma4MoeTwin, Gemma4Twin
from tests.session.test_generate_families import BOTH, NEW, ONE, OTHER, check
from tests.support.prompts import ByteTokenizer
from tests.support.turns import second_turn

NEEDS = frozenset({"saliency", "keys", "frame_features"})
UNEVEN = (Video(4, 1), Video(4, 2, wide=True))
SIDES = [(3, 3)] * 4 + [(2, 5)] * 4


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def stock_code() -> Any:
    """The module of the stock processor, which needs torchvision in older releases."""
    return pytest.importorskip("transformers.models.gemma4.processing_gemma4", exc_type=ImportError)


def media(host: Gemma4Twin) -> dict[str, Any]:
    return host.pixels(UNEVEN)


def observed(host: Gemma4Twin, chunk: int = 99) -> tuple[Signals, Any]:
    family = Gemma4(host.model)
    with family.signals.observe(NEEDS) as signals:
        output = family.encoding.encode(host.model.model.get_video_features, chunk, **media(host), return_dict=True)
    return signals, output


def in_tokens(values: Tensor, sides: tuple[int, int]) -> Tensor:
    """Means over the patches of each token, which are in raster order over the whole frame."""
    rows, columns = sides
    tokens = [
        torch.stack(
            [values[(POOL * row + y) * POOL * columns + POOL * column + x] for y in range(POOL) for x in range(POOL)]
        ).mean(0)
        for row in range(rows)
        for column in range(columns)
    ]
    return torch.stack(tokens).unflatten(0, sides)


def test_saliency_is_the_attention_of_the_eager_model() -> None:
    """The eager model gives its attention maps away; the model that is observed runs SDPA, with the same weights."""
    signals, _ = observed(Gemma4Twin())
    host = Gemma4Twin(attention="eager")
    patches, places = (torch.cat(each) for each in zip(*map(host.frames, UNEVEN), strict=True))
    maps = host.model.model.vision_tower(
        pixel_values=patches, pixel_position_ids=places, output_attentions=True
    ).attentions[-1]
    assert len(maps) == len(signals.saliency) == len(SIDES)
    for got, weights, sides in zip(signals.saliency, maps, SIDES, strict=True):
        patches_of_frame = sides[0] * sides[1] * POOL**2
        wanted = in_tokens(weights[:, :patches_of_frame].mean(dim=(0, 1))[:patches_of_frame], sides)
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
        assert abs(float(got.sum()) * POOL**2 - 1) < 1e-5


def test_keys_and_frame_features() -> None:
    host, keys = Gemma4Twin(), []
    attention = host.model.model.vision_tower.encoder.layers[-1].self_attn
    hook = attention.k_norm.register_forward_hook(lambda _module, _args, output: keys.append(output))
    signals, output = observed(host)
    hook.remove()
    for got, key, sides in zip(signals.keys, keys[0], SIDES, strict=True):
        torch.testing.assert_close(got, in_tokens(key.mean(1), sides), atol=1e-6, rtol=0)
    frames = torch.split(torch.cat(list(output.pooler_output)), [rows * columns for rows, columns in SIDES])
    torch.testing.assert_close(torch.stack(signals.frame_features), torch.stack([frame.mean(0) for frame in frames]))


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_chunks_across_videos(chunk: int) -> None:
    host = Gemma4Twin()
    whole, output = observed(host)
    parts, joined = observed(host, chunk)
    for name in ("saliency", "keys", "frame_features"):
        for one, other in zip(getattr(whole, name), getattr(parts, name), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert [len(video) for video in output.pooler_output] == [len(video) for video in joined.pooler_output] == [36, 40]
    for one, other in zip(output.pooler_output, joined.pooler_output, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


# --- the text model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twin", [Gemma4Twin, Gemma4MoeTwin])
def test_prompts_are_longer_than_the_window(twin: type[Gemma4Twin]) -> None:
    """So that references of all tests depend on it; also after pruning."""
    host = twin()
    assert host.length(BOTH, Norms(0.5)) > WINDOW
    rows = [(RandomWords(3, 1), UNEVEN[0], RandomWords(5, 3)), (RandomWords(4, 6), UNEVEN[1], RandomWords(2, 7))]
    output = check(host, rows, Norms(0.5))
    assert [video.tokens_before for video in output.session.report.videos] == [36, 40]


def test_tokens_of_a_frame_attend_in_both_directions() -> None:
    """Only in the configuration that says so, and only if the call says which tokens are visual, as in stock code."""
    host = Gemma4MoeTwin()
    inputs = host.inputs([ONE])
    with tangovlm.attach(host.model, Norms()):
        both = host.model(**inputs).logits[0, -1]
        one = host.model(**{name: value for name, value in inputs.items() if name != "mm_token_type_ids"}).logits[0, -1]
    assert not torch.allclose(both, one, atol=1e-2)
    torch.testing.assert_close(both, host.reference(ONE, Norms(), 1)[1], atol=1e-4, rtol=0)
    family = Gemma4(Gemma4Twin().model)
    assert family.attention_blocks(inputs["mm_token_type_ids"]) is None


@pytest.mark.parametrize("twin", [Gemma4Twin, Gemma4MoeTwin])
@pytest.mark.parametrize("wanted", [1, 3])
def test_logits_of_the_last_positions_only(twin: type[Gemma4Twin], wanted: int) -> None:
    host = twin()
    inputs = host.inputs([ONE])
    with tangovlm.attach(host.model, Norms()):
        whole = host.model(**inputs).logits
        last = host.model(**inputs, logits_to_keep=wanted).logits
    assert whole.shape[1] == host.length(ONE, Norms())
    torch.testing.assert_close(last, whole[:, -wanted:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("turns", [(Image(20), Video(4, 21)), (Video(4, 20), Image(21)), UNEVEN])
@pytest.mark.parametrize("twin", [Gemma4Twin, Gemma4MoeTwin])
def test_a_turn_with_pixels_of_its_own(twin: type[Gemma4Twin], turns: Any) -> None:
    host, pruner = twin(), Norms()
    first, second = (
        (RandomWords(3, 1 + 2 * turn), part, RandomWords(4, 2 + 2 * turn)) for turn, part in enumerate(turns)
    )
    with tangovlm.attach(host.model, pruner):
        row, said = second_turn(host, first, second)
    assert said == host.reference(row, pruner, NEW)[0]


@pytest.mark.parametrize("twin", [Gemma4Twin, Gemma4MoeTwin])
def test_original_positions(twin: type[Gemma4Twin]) -> None:
    host = twin()
    with tangovlm.attach(host.model, Norms(), positions="original"):
        logits = host.model.generate(
            **host.inputs([ONE, OTHER]), max_new_tokens=1, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        ).logits[0]  # fmt: skip
    wanted = [host.reference(row, Norms(), 1, original=True)[1] for row in (ONE, OTHER)]
    torch.testing.assert_close(logits, torch.stack(wanted), atol=1e-4, rtol=0)


def test_methods_inside_the_text_model_are_refused() -> None:
    message = "needs layers with full attention, not a sliding window|rotates other channels"
    with pytest.raises(ModelError, match=message), tangovlm.attach(Gemma4Twin().model, tangovlm.method("fastv")):
        pass


# --- from frames to inputs ------------------------------------------------------------------------------------------


def test_frame_sizes_are_those_of_the_stock_processor() -> None:
    stock_size = stock_code().get_aspect_ratio_preserving_size
    for tokens in (70, 280, 1120):
        for height, width in [
            (360, 640),
            (720, 1280),
            (1080, 1920),
            (64, 96),
            (96, 64),
            (40, 3000),
            (3000, 40),
            (1, 1),
        ]:
            wanted = stock_size(height, width, 16, tokens * 9, 3)
            assert fit_into(height, width, 48, tokens * 48 * 48) == wanted, (height, width)
    for side in range(1, 4000, 37):
        wanted = stock_size(side, 1111, 16, 630, 3)
        assert fit_into(side, 1111, 48, 70 * 48 * 48) == wanted, side


def test_frame_sizes_of_configs() -> None:
    family, unit = Gemma4(Gemma4Twin().model), PATCH * POOL
    size = family.prompt.frame_size
    assert size({}, 90, 160) == fit_into(90, 160, unit, 70 * unit**2)
    assert size({"max_soft_tokens": 280}, 90, 160) == fit_into(90, 160, unit, 280 * unit**2)
    assert size({"do_resize": False}, 16, 24) == (16, 24)
    with pytest.raises(InputError, match="90 x 160 pixels and the preprocessor config has do_resize false"):
        size({"do_resize": False}, 90, 160)
    with pytest.raises(ModelError, match="max_soft_tokens 71: it must be one of"):
        size({"max_soft_tokens": 71}, 90, 160)
    height, width = size(family.prompt.limited({}, 12 * unit**2), 90, 160)
    assert (height * width) <= 12 * unit**2 < size({}, 90, 160)[0] * size({}, 90, 160)[1]
    with pytest.raises(InputError, match=f"max_frame_pixels is 1, but a token has {unit**2} pixels"):
        family.prompt.limited({}, 1)


@pytest.mark.parametrize("frames", [1, 5])
def test_prompts_are_those_of_the_stock_processor(frames: int) -> None:
    tokenizer = ByteTokenizer("<pad>", *Gemma4Twin.specials)
    family = Gemma4(Gemma4Twin().model)
    indices, fps = [0, 9, 21, 630, 64_470][:frames], 10.0
    pixels = torch.zeros(1, frames, 3, 2 * POOL * PATCH, 3 * POOL * PATCH)
    template = (
        "{% for m in messages %}{% for c in m['content'] if c.type == 'video' %}<|video|>{% endfor %}"
        "{% for c in m['content'] if c.type == 'text' %}{{ c.text }}{% endfor %}{% endfor %}"
    )
    seconds = torch.tensor(indices, dtype=torch.float64) / fps
    made = family.prompt.inputs(tokenizer, template, pixels, "Why?", seconds)
    stock = stock_code().Gemma4Processor
    stub = SimpleNamespace(video_token="<|video|>", boi_token="<|image>", eoi_token="<image|>")
    processed = {
        "num_soft_tokens_per_video": [6],
        "video_metadata": [VideoMetadata(total_num_frames=99_999, fps=fps, frames_indices=indices)],
    }
    assert tokenizer.whole_text(made["input_ids"]) == stock.replace_video_token(stub, processed, 0) + "Why?"
    assert torch.equal(made["mm_token_type_ids"], 2 * (made["input_ids"] == VIDEO).int())
    assert int((made["input_ids"] == VIDEO).sum()) == 6 * frames
    # The model takes no others.
    names = {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values_videos", "video_position_ids"}
    assert made.keys() == names | ({"num_frames_per_video"} if counts_frames(family.model) else set())
    assert family.prompt.reserved(tokenizer) == ("<|image|>", "<|audio|>")


def test_patches_are_in_raster_order_with_their_places_and_padded() -> None:
    family = Gemma4(Gemma4Twin().model)
    frames = torch.randint(0, 256, (2, 3, 2 * POOL * PATCH, 3 * POOL * PATCH), dtype=torch.uint8)
    pixels = family.prompt.pixels(frames, {"do_resize": False})
    torch.testing.assert_close(pixels[0], frames / 255)
    made = family.prompt.build_inputs(ByteTokenizer("<pad>", *Gemma4Twin.specials), ["<|video|>"], [_video(pixels)])
    patches, places = made["pixel_values_videos"].view(2, 70 * POOL**2, -1), made["video_position_ids"].view(2, -1, 2)
    count, columns = 2 * POOL * 3 * POOL, 3 * POOL
    for number in range(count):
        row, column = divmod(number, columns)
        assert places[1, number].tolist() == [column, row]
        square = frames[1, :, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)] / 255
        torch.testing.assert_close(patches[1, number].view(PATCH, PATCH, 3), square.permute(1, 2, 0))
    assert bool((places[:, count:] == -1).all())
    assert not bool(patches[:, count:].any())
    assert family.layout.grids(
        *(made[name] for name in made if name.endswith(("videos", "position_ids", "video")))
    ) == [Grid(2, 2, 3)]


def _video(pixels: Tensor) -> Any:
    from tangovlm.models.common.prompt_format import VideoInput

    return VideoInput(pixels)


def test_a_tokenizer_that_does_not_know_the_placeholder_is_told() -> None:
    """The stock processor adds it to the tokenizer too."""
    names = [name for name in Gemma4Twin.specials if name != "<|video|>"]
    tokenizer, family = ByteTokenizer("<pad>", names[0], "<|video|>", *names[1:]), Gemma4(Gemma4Twin().model)
    assert family.prompt.video_token(tokenizer) == "<|video|>"
    assert tokenizer("a<|video|>b")["input_ids"][1] == VIDEO


def test_inputs_of_another_layout_are_refused() -> None:
    host = Gemma4Twin()
    family, inputs = Gemma4(host.model), media(host)
    assert family.layout.grids(**inputs) == [Grid(4, 3, 3), Grid(4, 2, 5)]
    with pytest.raises(InputError, match="video_position_ids and num_frames_per_video must be what the processor"):
        family.layout.grids(**inputs | {"video_position_ids": None})
    places = inputs["video_position_ids"].clone()
    places.view(-1, MOST, 2)[1] = places.view(-1, MOST, 2)[-1]
    with pytest.raises(InputError, match="the frames of a video differ in their size"):
        family.layout.grids(**inputs | {"video_position_ids": places})
    places.view(-1, MOST, 2)[0, 0] = -1
    with pytest.raises(InputError, match=f"not those of pictures of whole tokens, {POOL} x {POOL} patches"):
        family.layout.grids(**inputs | {"video_position_ids": places})
    if counts_frames(host.model):
        with pytest.raises(InputError, match="num_frames_per_video must be what"):
            family.layout.grids(**inputs | {"num_frames_per_video": torch.tensor([4, 5])})
