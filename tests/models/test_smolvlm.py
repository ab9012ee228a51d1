"""SmolVLM2: signals against the eager tower, the map of patches to tokens, rows that are filled up, prompts, pixels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMVisionConfig
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.video_processing_smolvlm import get_resize_output_image_size
from transformers.video_utils import VideoMetadata

import tangovlm
from tangovlm import budget
from tangovlm.errors import InputError, ModelError
from tangovlm.inputs.pixels import _has_lanczos
from tangovlm.methods.unicomp import NO_FRAME_FEATURES
from tangovlm.models.common.image_tiles import VIDEO_GUESSED
from tangovlm.models.common.layout import Clip, Grid, Prompt
from tangovlm.models.common.prompt_format import VideoInput
from tangovlm.models.common.transformers_compat import encodes_first
from tangovlm.models.smolvlm import SmolVLM
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import IMAGE, Image, PromptParts, RandomWords, Video
from tangovlm.selfcheck.twins.common.weights import loud, qwen2, random
from tangovlm.selfcheck.twins.smolvlm import PATCH, SIDE, SmolVLMTwin
from tests.support.prompts import ByteTokenizer

SPECIAL = ("<pad>", "<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")


def model(factor: int = 2) -> Any:
    torch.manual_seed(0)
    vision = SmolVLMVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=PATCH * SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    config = SmolVLMConfig(
        vision_config=vision, text_config=qwen2(), image_token_id=IMAGE, scale_factor=factor,
        attn_implementation="eager",
    )  # fmt: skip
    made = SmolVLMForConditionalGeneration(config).eval()
    loud(made)
    return made


def token_means(values: torch.Tensor, factor: int) -> torch.Tensor:
    """Patches ``(F, 36, C)`` to tokens ``(F, H, W, C)``, written out."""
    square = values.view(len(values), SIDE, SIDE, -1)
    parts = [square[:, row::factor, column::factor] for row in range(factor) for column in range(factor)]
    return torch.stack(parts).mean(dim=0)


@pytest.mark.parametrize("factor", [2, 3])
@torch.no_grad()
def test_signals_against_the_eager_tower(factor: int) -> None:
    under, frames = model(factor), random((2, 3, 3, PATCH * SIDE, PATCH * SIDE), 1)
    frames[0, 2] = 0
    with SmolVLM(under).signals.observe(frozenset({"saliency", "keys"})) as signals:
        under.model.get_image_features(frames, return_dict=True)
    real = frames.flatten(0, 1)[[0, 1, 3, 4, 5]]
    output = under.model.vision_model(real, output_attentions=True, output_hidden_states=True)
    wanted = token_means(output.attentions[-1].mean(dim=(1, 2))[..., None], factor)[..., 0]
    torch.testing.assert_close(signals.saliency, wanted, atol=1e-6, rtol=0)
    layer = under.model.vision_model.encoder.layers[-1]
    keys = layer.self_attn.k_proj(layer.layer_norm1(output.hidden_states[-2])).unflatten(-1, (4, 8)).mean(2)
    torch.testing.assert_close(signals.keys, token_means(keys, factor), atol=1e-5, rtol=1e-5)
    assert signals.frame_features is None


@pytest.mark.parametrize("factor", [2, 3])
def test_each_token_is_made_of_the_patches_that_are_averaged(factor: int) -> None:
    under = model(factor)
    family = SmolVLM(under)
    for patch in range(SIDE * SIDE):
        one = torch.zeros(1, SIDE * SIDE, 32)
        one[0, patch] = 1
        moved = under.model.connector.pixel_shuffle(one, factor)[0].any(dim=1)
        assert torch.equal(moved, family.signals.pool(one)[0, ..., 0].flatten() != 0)
        assert int(moved.sum()) == 1


def test_frame_features_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="'fastvid' needs frame_features, which the family smolvlm2 does not provide"):
        tangovlm.attach(model(), tangovlm.method("fastvid", retention=0.5)).__enter__()


def test_frame_features_that_a_method_can_substitute_are_not_read() -> None:
    host = SmolVLMTwin()
    inputs = host.inputs([(RandomWords(2, 1), Video(3, 2), RandomWords(1, 3))])
    with tangovlm.attach(host.model, tangovlm.method("unicomp", retention=0.5), **host.attach_options(3)) as session:
        host.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert session.needs == {"keys"}
    assert NO_FRAME_FEATURES in session.report.notes
    assert session.report.tokens_after == budget.count(0.5, session.report.tokens_before)


# --- rows that are filled up ------------------------------------------------------------------------------------------


def test_filled_up_rows_are_counted_without_what_fills_them() -> None:
    host = SmolVLMTwin()
    rows = [
        (RandomWords(3, 1), Video(2, 2)),
        (RandomWords(1, 3), Image(4), RandomWords(1, 5), Video(4, 6)),
        (RandomWords(2, 7),),
    ]
    inputs = host.inputs(rows)
    family, pixels = SmolVLM(host.model), inputs["pixel_values"]
    assert pixels.shape[:2] == (3, 5)
    assert family.layout.tiles(pixels) == [2, 5, 0]
    assert family.layout.grids(pixels) == [Grid(7, 3, 3)]
    clips = family.layout.clips(Prompt(inputs["input_ids"]), pixels)
    assert [(clip.grid.frames, clip.start) for clip in clips] == [(2, 0), (4, 3)]
    assert family.layout.tiles(torch.zeros(2, 3, 3, 54, 54)) == [1, 0]
    dark = torch.zeros(1, 3, 3, 54, 54)
    dark[0, 1, 2, 41, 41] = 1
    assert family.layout.tiles(dark) == [1]


@pytest.mark.filterwarnings("ignore:neither timestamps")
def test_ragged_batch_with_images_and_chunks() -> None:
    host, pruner = SmolVLMTwin(), Norms(0.3)
    rows = [
        (RandomWords(3, 1), Video(2, 2)),
        (RandomWords(1, 3), Image(4), RandomWords(1, 5), Video(4, 6)),
        (RandomWords(2, 7),),
    ]
    inputs = host.inputs(rows)
    wanted = [host.reference(row, pruner, 4)[0] for row in rows]
    for frames in (None, 3, 1):
        with tangovlm.attach(host.model, pruner, chunk_frames=frames) as session:
            said = host.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert said[:, inputs["input_ids"].shape[1] :].tolist() == wanted
        assert [video.tokens_before for video in session.report.videos] == [18, 36]


ROWS: list[list[PromptParts]] = [
    [(RandomWords(3, 1), Video(4, 2), RandomWords(2, 3), Video(4, 4), RandomWords(3, 5))],
    [(RandomWords(3, 1), Video(2, 2), RandomWords(2, 3), Video(4, 4), RandomWords(3, 5))],
    [(RandomWords(3, 1), Video(4, 2), RandomWords(2, 3), Image(6), RandomWords(2, 7), Video(8, 4), RandomWords(3, 5))],
    [
        (RandomWords(3, 1), Video(4, 2), RandomWords(2, 3), Video(3, 4), RandomWords(3, 5)),
        (RandomWords(1, 8), Video(4, 6), RandomWords(3, 5)),
    ],
]


def a_row_each(host: SmolVLMTwin, rows: list[PromptParts]) -> dict[str, Any]:
    """Pixels as the stock processors make them, a row for each video or image."""
    inputs = host.inputs(rows)
    tiles = [host.tiles(part) for row in rows for part in row if isinstance(part, (Video, Image))]
    return inputs | {"pixel_values": torch.nn.utils.rnn.pad_sequence(tiles, batch_first=True)}


@pytest.mark.filterwarnings("ignore:neither timestamps")
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("retention", [1.0, 0.25])
@pytest.mark.parametrize("rows", ROWS)
def test_a_row_of_pixels_for_each_video(rows: list[PromptParts], retention: float, told: bool) -> None:
    host = SmolVLMTwin()
    frames = [part.frames for row in rows for part in row if isinstance(part, Video)]
    options = {"timestamps": [torch.arange(count) / 2.0 for count in frames]} if told else {}
    pruner = tangovlm.method("uniform", retention=1.0) if retention == 1 else Norms(retention)
    for inputs in (a_row_each(host, rows), host.inputs(rows)):
        with tangovlm.attach(host.model, pruner, **options) as session:
            said = host.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        wanted = [host.reference(row, None if retention == 1 else pruner, 4)[0] for row in rows]
        assert said[:, inputs["input_ids"].shape[1] :].tolist() == wanted
        kept = [(9 * count, budget.count(retention, 9 * count)) for count in frames]
        assert [(video.tokens_before, video.tokens_after) for video in session.report.videos] == kept


@pytest.mark.filterwarnings("ignore:neither timestamps")
def test_rows_of_videos_copied_for_beams() -> None:
    """Releases that copy pixels repeat each row by itself, so that two videos of a prompt are torn apart."""
    host, options = SmolVLMTwin(), {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}
    one, two = (
        [(RandomWords(3, 1), Video(4, 2), RandomWords(3, 5)), (RandomWords(2, 3), Video(4, 4), RandomWords(4, 6))],
        ROWS[0],
    )
    alone = []
    for rows in (one[:1], one[1:], one):
        inputs = a_row_each(host, rows)
        with tangovlm.attach(host.model, Norms(0.25)):
            said = host.model.generate(**inputs, **options)
        alone.append(said[:, inputs["input_ids"].shape[1] :].tolist())
    assert alone[2] == alone[0] + alone[1]
    inputs = a_row_each(host, two)
    if not encodes_first(host.model):
        with pytest.raises(InputError, match="for several beams or answers, ask for one"), \
                tangovlm.attach(host.model, Norms(0.25)):  # fmt: skip
            host.model.generate(**inputs, **options)
        return
    said = []
    for made in (inputs, host.inputs(two)):
        with tangovlm.attach(host.model, Norms(0.25)):
            said.append(host.model.generate(**made, **options).tolist())
    assert said[0] == said[1]


@pytest.mark.filterwarnings("ignore:neither timestamps")
def test_masked_edges_go_along_with_their_chunks() -> None:
    """Chunks take their part of `pixel_attention_mask`."""
    host = SmolVLMTwin()
    inputs = host.inputs([(RandomWords(3, 1), Video(4, 2))])
    mask = torch.ones(1, 4, PATCH * SIDE, PATCH * SIDE, dtype=torch.long)
    mask[0, 1, :, PATCH * 4 :] = 0
    mask[0, 3, PATCH * 3 :] = 0
    logits = []
    for frames in (None, 1):
        with torch.no_grad(), tangovlm.attach(host.model, Norms(0.3), chunk_frames=frames):
            logits.append(host.model(**inputs, pixel_attention_mask=mask).logits)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)


# --- from a file to inputs --------------------------------------------------------------------------------------------


def stock_text(seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(processing_smolvlm, "num2words", {1: "one", 3: "three", 21: "twenty-one"}.get)
    metadata = VideoMetadata(total_num_frames=9, fps=100.0, frames_indices=[round(100 * time) for time in seconds])
    stub = SimpleNamespace(
        image_seq_len=9, image_token="<image>", fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    )  # fmt: skip
    given = {"pixel_values": torch.zeros(1, len(seconds), 3, 2, 2), "video_metadata": [metadata]}
    text: str = processing_smolvlm.SmolVLMProcessor.replace_video_token(stub, given, 0)
    return text


@pytest.mark.parametrize("seconds", [[0.0], [0.0, 61.25, 3725.5], [0.25 * number for number in range(21)]])
def test_prompt_is_that_of_the_stock_processor(seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    family, tokenizer = SmolVLM(SmolVLMTwin().model), ByteTokenizer(*SPECIAL)
    pixels = torch.zeros(1, len(seconds), 3, PATCH * SIDE, PATCH * SIDE) + 1
    inputs = family.prompt.inputs(tokenizer, None, pixels, "Why?", torch.tensor(seconds))
    video = stock_text(seconds, monkeypatch)
    said = f"<|im_start|>User: {video}Why?<end_of_utterance>\nAssistant:"
    assert tokenizer.whole_text(inputs["input_ids"]) == said
    assert inputs["pixel_values"] is pixels
    frames = len(seconds)
    if frames > 1:
        guessed = (VIDEO_GUESSED.format(frames=frames),)
        assert family.layout.clips(Prompt(inputs["input_ids"]), pixels) == [Clip(Grid(frames, 3, 3), 0, guessed)]
    known = Prompt(inputs["input_ids"], (frames,))
    assert family.layout.clips(known, pixels) == [Clip(Grid(frames, 3, 3), 0)]


def test_length_is_that_of_the_whole_video() -> None:
    tokenizer, family = ByteTokenizer(*SPECIAL), SmolVLM(SmolVLMTwin().model)
    pixels, seconds = torch.zeros(1, 3, 3, 54, 54), torch.tensor([0.0, 30.0, 60.0])
    for duration, said in ((None, "0:01:00"), (92.5, "0:01:32"), (3725.0, "1:02:05")):
        inputs = family.prompt.inputs(tokenizer, None, pixels, "Why?", seconds, duration)
        assert f"three frames from a {said} [H:MM:SS] video" in tokenizer.whole_text(inputs["input_ids"])


def test_videos_of_a_call_have_a_row_each() -> None:
    """Filled up to the longest; whose number of frames the stock processor says of all."""
    tokenizer, family = ByteTokenizer(*SPECIAL), SmolVLM(SmolVLMTwin().model)
    videos = [VideoInput(torch.ones(1, frames, 3, 54, 54)) for frames in (2, 4)]
    made = family.prompt.build_inputs(tokenizer, ["<video><video>Why?"], videos)
    assert made["pixel_values"].shape == (2, 4, 3, 54, 54)
    assert made["pixel_values"].sum(dim=(2, 3, 4)).bool().tolist() == [[True, True, False, False], [True] * 4]
    text = tokenizer.whole_text(made["input_ids"])
    assert (text.count("series of four frames"), text.count("Frame from")) == (2, 6)


def test_without_times_frames_are_a_second_apart() -> None:
    tokenizer = ByteTokenizer(*SPECIAL)
    prompt = SmolVLM(SmolVLMTwin().model).prompt
    text = tokenizer.whole_text(prompt.inputs(tokenizer, None, torch.zeros(1, 3, 3, 54, 54), "Why?")["input_ids"])
    assert [f"Frame from 00:0{second}:" in text for second in range(4)] == [True, True, True, False]
    with pytest.raises(InputError, match="stands for visual tokens"):
        SmolVLM(SmolVLMTwin().model).prompt.inputs(tokenizer, None, torch.zeros(1, 3, 3, 54, 54), "an <image>?")


CONFIG = {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 54}, "resample": 1}


def test_frame_size_is_the_processors_first_step() -> None:
    family = SmolVLM(SmolVLMTwin().model)
    for longest in (64, 384, 512, 5000):
        # The size of videos holds where there is none of pictures.
        sampling = {"video_sampling": {"video_size": {"longest_edge": longest}}}
        config = sampling | {"size": None} if longest == 64 else {"size": {"longest_edge": longest}}
        for height, width in [
            (100, 200),
            (50, 121),
            (200, 100),
            (9, 9),
            (1080, 1920),
            (3, 2000),
            (720, 1281),
            (999, 7),
        ]:
            wanted = get_resize_output_image_size(torch.zeros(1, 1, height, width), longest)
            assert family.prompt.frame_size(config, height, width) == wanted
    assert family.prompt.frame_size({}, 10, 20) == (28, 54)
    both = CONFIG | {"video_sampling": {"video_size": {"longest_edge": 64}}}
    assert family.prompt.frame_size(both, 100, 200) == (768, 1536)
    assert family.prompt.frame_size({"size": {"height": 30, "width": 40}}, 100, 200) == (30, 40)
    assert family.prompt.frame_size({"do_resize": False}, 54, 54) == (54, 54)
    with pytest.raises(InputError, match="do_resize false, but the model takes 54 x 54 pixels"):
        family.prompt.frame_size({"do_resize": False}, 54, 56)


FILTERS = [(1, Pictures.LANCZOS), (3, Pictures.BICUBIC), (None, Pictures.LANCZOS)]


@pytest.mark.parametrize(("resample", "pil"), FILTERS)
def test_pixels_follow_pil(resample: int | None, pil: Any) -> None:
    """Shrunk with their aspect ratio first, then made square; decoded frames may have the first step behind them."""
    if pil == Pictures.LANCZOS and not _has_lanczos():
        pytest.skip("this torch has no Lanczos filter, so that stock processors take the bicubic one too")
    config = CONFIG | {"size": {"longest_edge": 64}, "resample": resample}
    rows, columns = torch.meshgrid(torch.linspace(0, 3, 100), torch.linspace(0, 4, 200), indexing="ij")
    wave = torch.stack([(torch.sin(rows * k) * torch.cos(columns) + 1) * 110 for k in (1, 2, 3)]).to(torch.uint8)
    family = SmolVLM(SmolVLMTwin().model)
    pixels = family.prompt.pixels(torch.stack([wave, 255 - wave]), config)
    assert pixels.shape == (1, 2, 3, 54, 54)
    for frame, source in zip(pixels[0], (wave, 255 - wave), strict=True):
        picture = Pictures.fromarray(source.permute(1, 2, 0).numpy()).resize((64, 32), pil)
        picture = picture.resize((54, 54), pil)
        wanted = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert ((frame * 0.5 + 0.5) * 255 - wanted).abs().max() <= 2.001
    small = torch.stack([wave[:, :32, :64]])
    assert torch.equal(family.prompt.pixels(small, config), family.prompt.pixels(small, config, resized=True))
    square = torch.zeros(1, 3, 54, 54, dtype=torch.uint8)
    assert torch.equal(family.prompt.pixels(square, {}), torch.full((1, 1, 3, 54, 54), -1.0))
