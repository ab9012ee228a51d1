"""InternVL: signals against the eager tower, the map of patches to tokens, prompts, pixels, frames beside images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig
from transformers.models.internvl.processing_internvl import InternVLProcessor

import tangovlm
from tangovlm.errors import InputError
from tangovlm.models.common.image_tiles import NO_VIDEO_FOUND, VIDEO_GUESSED
from tangovlm.models.common.layout import Clip, Grid, Prompt
from tangovlm.models.internvl import InternVL
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import IMAGE, Image, RandomWords, Video
from tangovlm.selfcheck.twins.common.weights import loud, qwen2, random
from tangovlm.selfcheck.twins.internvl import PATCH, SIDE, InternVLTwin
from tests.support.prompts import ByteTokenizer

NEEDS = frozenset({"saliency", "frame_features", "keys"})
SPECIAL = ("<pad>", "<IMG_CONTEXT>", "<img>", "</img>", "<video>", "<end>")
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c.type == 'video' %}<video>\n{% else %}{{ c.text }}"
    "{% endif %}{% endfor %}{% endfor %}"
)


def model(text: Any = None, **vision: Any) -> Any:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": (PATCH * SIDE,) * 2, "patch_size": (PATCH,) * 2, "layer_scale_init_value": 1.0,
    }  # fmt: skip
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**sizes | vision), text_config=text or qwen2(), image_token_id=IMAGE,
        image_seq_length=9, tie_word_embeddings=False, vision_feature_layer=vision.pop("layer", -1),
        attn_implementation="eager",
    )  # fmt: skip
    made = InternVLForConditionalGeneration(config).eval()
    loud(made)
    return made


def token_means(values: torch.Tensor) -> torch.Tensor:
    """Patches ``(F, 36, C)`` to tokens ``(F, 3, 3, C)``, written out."""
    square = values.view(len(values), SIDE, SIDE, -1)
    return (square[:, ::2, ::2] + square[:, 1::2, ::2] + square[:, ::2, 1::2] + square[:, 1::2, 1::2]) / 4


@pytest.mark.parametrize("variant", [{}, {"use_qk_norm": True, "norm_type": "rms_norm"}, {"use_mean_pooling": False}])
@torch.no_grad()
def test_signals_against_the_eager_tower(variant: dict[str, Any]) -> None:
    under, frames = model(**variant), random((5, 3, PATCH * SIDE, PATCH * SIDE), 1)
    with InternVL(under).signals.observe(NEEDS) as signals:
        under.model.get_image_features(frames[:2], return_dict=True)
        under.model.get_image_features(frames[2:], return_dict=True)
    tower = under.model.vision_tower
    output = tower(frames, output_attentions=True, output_hidden_states=True)
    received = output.attentions[-1].mean(dim=(1, 2))[:, 1:]
    wanted = token_means((received / received.sum(dim=1, keepdim=True))[..., None])[..., 0]
    torch.testing.assert_close(signals.saliency, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(signals.saliency.sum(dim=(1, 2)), torch.full((5,), 0.25))
    torch.testing.assert_close(signals.frame_features, output.last_hidden_state[:, 0], atol=1e-5, rtol=1e-5)
    layer = tower.encoder.layer[-1]
    keys = layer.attention.k_norm(layer.attention.k_proj(layer.layernorm_before(output.hidden_states[-2])))
    wanted = token_means(keys[:, 1:].unflatten(-1, (4, 8)).mean(2))
    torch.testing.assert_close(signals.keys, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_saliency_is_that_of_the_layer_that_the_features_use() -> None:
    under, frames = model(), random((2, 3, PATCH * SIDE, PATCH * SIDE), 1)
    under.config.vision_feature_layer = -2
    with InternVL(under).signals.observe(frozenset({"saliency"})) as signals:
        under.model.get_image_features(frames, return_dict=True)
    received = under.model.vision_tower(frames, output_attentions=True).attentions[1].mean(dim=(1, 2))[:, 1:]
    wanted = token_means((received / received.sum(dim=1, keepdim=True))[..., None])[..., 0]
    torch.testing.assert_close(signals.saliency, wanted, atol=1e-6, rtol=0)


def test_each_token_is_made_of_the_patches_that_are_averaged() -> None:
    """A patch of which only the projector's input changes moves one token: the one that averaging gives it."""
    under = model()
    inner, family = under.model, InternVL(under)
    base = torch.zeros(1, SIDE, SIDE, 32)
    with torch.no_grad():
        still = inner.pixel_shuffle(base, 0.5).reshape(9, -1)
        for patch in range(SIDE * SIDE):
            one = base.clone().view(1, -1, 32)
            one[0, patch] = 1
            moved = (inner.pixel_shuffle(one.view_as(base), 0.5).reshape(9, -1) != still).any(dim=1)
            mine = family.signals.pool(one)[0, ..., 0].flatten() != 0
            assert torch.equal(moved, mine)
            assert int(moved.sum()) == 1


# --- frames beside images ---------------------------------------------------------------------------------------------


def observed(host: InternVLTwin, row: tuple[Any, ...], **attached: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Session, and the features of the stock model and of ours."""
    inputs = host.inputs([row])
    with torch.no_grad():
        stock = host.model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
    kept: list[torch.Tensor] = []
    with tangovlm.attach(host.model, Norms(0.3), **attached) as session:
        inner = host.model.model.get_image_features

        def listen(*args: Any, **kwargs: Any) -> Any:
            output = inner(*args, **kwargs)
            kept.append(output.pooler_output)
            return output

        listen.__signature__ = __import__("inspect").signature(inner)
        host.model.model.get_image_features = listen
        host.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        host.model.model.get_image_features = inner
    return session, stock, kept[0]


@pytest.mark.filterwarnings("ignore:neither timestamps")
def test_images_beside_a_video_stay_bit_identical() -> None:
    host = InternVLTwin()
    row = (RandomWords(3, 1), Image(2), Video(4, 3), RandomWords(2, 4), Image(5), RandomWords(3, 6))
    session, stock, ours = observed(host, row)
    assert torch.equal(ours[[0, 5]], stock[[0, 5]])
    assert int(ours[1:5].isnan().any(dim=-1).sum()) == 36 - tangovlm.budget.count(0.3, 36)
    assert session.report.notes == (VIDEO_GUESSED.format(frames=4),)


@pytest.mark.parametrize("pruner", [Norms(0.3), tangovlm.method("fastv", retention=0.5)])
def test_pictures_of_which_none_is_taken_for_a_frame(pruner: Any) -> None:
    """Images, or frames without the text of the processor: only the user knows, and is told once."""
    host, pictures = InternVLTwin(), [part for seed in range(4) for part in (Image(seed), RandomWords(1, seed))]
    inputs = host.inputs([(RandomWords(3, 1), *pictures, RandomWords(3, 6))])
    with tangovlm.attach(host.model, pruner) as session:
        with pytest.warns(UserWarning, match="nothing is pruned: .* timestamps= or video_metadata"):
            host.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        host.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert session.report.notes.count(NO_VIDEO_FOUND) == 1
    assert session.report.videos == ()


@pytest.mark.filterwarnings("error::UserWarning")
def test_no_word_about_images_where_times_are_known_or_nothing_is_pruned() -> None:
    host = InternVLTwin()
    inputs = host.inputs([(RandomWords(3, 1), Image(1), RandomWords(3, 6))])
    for pruner, times in ((Norms(0.3), torch.arange(4.0)), (tangovlm.Tango(retention=1.0), None)):
        with tangovlm.attach(host.model, pruner, timestamps=times) as session:
            host.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        assert session.report.notes == ()


def test_known_times_need_no_guess() -> None:
    host = InternVLTwin()
    row = (RandomWords(3, 1), Image(2), Video(4, 3), RandomWords(2, 4))
    metadata, inputs = [{"fps": 2.0, "frames_indices": [0, 4, 8, 12]}], host.inputs([row])
    with tangovlm.attach(host.model, Norms(0.3)) as session:
        host.model.generate(**inputs, video_metadata=metadata, max_new_tokens=1)
    assert session.report.notes == ()
    assert [video.tokens_before for video in session.report.videos] == [36]


def test_times_of_the_wrong_length_are_refused() -> None:
    host = InternVLTwin()
    inputs = host.inputs([(RandomWords(3, 1), Image(2), Video(4, 3), RandomWords(2, 4))])
    attached = tangovlm.attach(host.model, Norms(0.3), timestamps=torch.arange(5.0))
    with pytest.raises(InputError, match="videos of 5 frames, but the prompt has series of 1, 4 pictures"), attached:
        host.model.generate(**inputs, max_new_tokens=1)


def test_another_number_of_pictures_is_refused() -> None:
    host = InternVLTwin()
    inputs = host.inputs([(RandomWords(3, 1), Video(4, 3)), (RandomWords(3, 1), Video(4, 3))])
    inputs["pixel_values"] = inputs["pixel_values"][:-1]
    with pytest.raises(InputError, match="for 8 pictures.*but 7 are given"), tangovlm.attach(host.model, Norms(0.3)):
        host.model.generate(**inputs, max_new_tokens=1)


@pytest.mark.filterwarnings("ignore:neither timestamps")
def test_second_video_on_one_cache_with_full_ids() -> None:
    host, pruner = InternVLTwin(), Norms(0.3)
    one, two = (RandomWords(3, 1), Video(4, 2), RandomWords(3, 3)), (RandomWords(2, 4), Video(3, 5), RandomWords(3, 6))
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    with tangovlm.attach(host.model, pruner):
        first = host.model.generate(**host.inputs([one]), **options)
        ids = torch.cat([first.sequences, host.inputs([two])["input_ids"]], dim=1)
        second = host.model.generate(
            input_ids=ids, past_key_values=first.past_key_values, pixel_values=host.tiles(two[1]), **options
        )
    said = first.sequences[0, len(host.ids(one)) :].tolist()
    from tangovlm.selfcheck.twins.common.parts import TokenIds

    wanted, _ = host.reference((*one, TokenIds(tuple(said)), *two), pruner, 4)
    assert second.sequences[0, ids.shape[1] :].tolist() == wanted


def test_clips_without_a_prompt() -> None:
    family, pixels = InternVL(model()), torch.zeros(5, 3, PATCH * SIDE, PATCH * SIDE)
    assert family.layout.clips(Prompt(), pixels) == []
    assert family.layout.clips(Prompt(frames=(4,)), pixels) == []
    assert family.layout.clips(Prompt(frames=(2, 3)), pixels) == [Clip(Grid(2, 3, 3), 0), Clip(Grid(3, 3, 3), 2)]


def test_which_video_each_placeholder_is_of() -> None:
    host = InternVLTwin()
    rows = [
        (Image(1), Video(2, 2), RandomWords(2, 3), Video(3, 4)),
        (RandomWords(1, 5), Video(2, 6), RandomWords(1, 7), Video(3, 8)),
    ]
    ids = host.inputs(rows)["input_ids"].repeat_interleave(2, dim=0)
    numbers = InternVL(host.model).layout.video_numbers(ids, [Grid(count, 3, 3) for count in (2, 3, 2, 3)])
    for row, images in enumerate((1, 1, 0, 0)):
        wanted = [-1] * 9 * images + [0] * 18 + [1] * 27
        assert numbers[row][ids[row] == IMAGE].tolist() == wanted
        assert (numbers[row][ids[row] != IMAGE] == -1).all()


# --- from a file to inputs --------------------------------------------------------------------------------------------


def stock_text(frames: int, tokens: int) -> str:
    stub = SimpleNamespace(
        start_image_token="<img>", end_image_token="</img>", image_token="<IMG_CONTEXT>", image_seq_length=tokens
    )
    return InternVLProcessor.replace_video_token(stub, {"pixel_values_videos": [torch.zeros(frames, 3, 2, 2)]}, 0)


@pytest.mark.parametrize("frames", [1, 2, 11])
def test_prompt_is_that_of_the_stock_processor(frames: int) -> None:
    family, tokenizer = InternVL(InternVLTwin().model), ByteTokenizer(*SPECIAL)
    pixels = torch.zeros(frames, 3, PATCH * SIDE, PATCH * SIDE)
    inputs = family.prompt.inputs(tokenizer, TEMPLATE, pixels, "Why?")
    assert tokenizer.whole_text(inputs["input_ids"]) == stock_text(frames, 9) + "\nWhy?"
    assert inputs["pixel_values"] is pixels
    assert int((inputs["input_ids"] == IMAGE).sum()) == 9 * frames
    if frames > 1:
        guessed = (VIDEO_GUESSED.format(frames=frames),)
        assert family.layout.clips(Prompt(inputs["input_ids"]), pixels) == [Clip(Grid(frames, 3, 3), 0, guessed)]
    known = Prompt(inputs["input_ids"], (frames,))
    assert family.layout.clips(known, pixels) == [Clip(Grid(frames, 3, 3), 0)]


@pytest.mark.parametrize("word", ["<video>", "<img>", "<IMG_CONTEXT>"])
def test_marks_in_a_question_are_refused(word: str) -> None:
    with pytest.raises(InputError, match="stands for visual tokens"):
        InternVL(InternVLTwin().model).prompt.inputs(
            ByteTokenizer(*SPECIAL), TEMPLATE, torch.zeros(2, 3, 42, 42), f"a {word}?"
        )


def test_pixels() -> None:
    family = InternVL(InternVLTwin().model)
    frames = torch.full((2, 3, 50, 70), 255, dtype=torch.uint8)
    wanted = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    pixels = family.prompt.pixels(frames, {})
    torch.testing.assert_close(pixels, wanted.view(3, 1, 1).expand(2, 3, 42, 42))
    assert family.prompt.frame_size({}, 100, 700) == (42, 42)
    # Whatever the processor is set to: the tower takes one size only.
    assert family.prompt.pixels(frames, {"size": {"height": 384, "width": 384}, "resample": 2}).shape == (2, 3, 42, 42)
    with pytest.raises(InputError, match="do_resize false, but the model takes 42 x 42 pixels"):
        family.prompt.pixels(frames, {"do_resize": False})


def test_tiles_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="pixel_values are 42 x 49, but a tile of this model is 42 x 42"):
        InternVL(InternVLTwin().model).layout.tiles(torch.zeros(1, 3, 42, 49))
