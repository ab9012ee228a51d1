"""Video-LLaVA: signals against the eager tower for videos, class tokens, the prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tangovlm
from tangovlm import budget
from tangovlm.errors import InputError, ModelError
from tangovlm.models.common.layout import OFF_GRID, TEXT, Clip, Grid, Prompt
from tangovlm.models.video_llava import VideoLlava
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import IMAGE, VIDEO, Image, RandomWords, Video
from tangovlm.selfcheck.twins.common.weights import random
from tangovlm.selfcheck.twins.video_llava import PATCH, SIDE, VideoLlavaTwin
from tests.support.prompts import ByteTokenizer

NEEDS = frozenset({"saliency", "frame_features", "keys"})
PIXELS = PATCH * SIDE


@pytest.mark.parametrize(("entries", "last"), [(-2, 1), (-1, 2), ([-2, 1], 1)])
@torch.no_grad()
def test_signals_against_the_eager_tower(entries: Any, last: int) -> None:
    """Those of the tower for videos, although the tower for images has the same modules."""
    model, frames = VideoLlavaTwin(attention="eager").model, random((4, 3, PIXELS, PIXELS), 1)
    model.config.vision_feature_layer = entries
    family = VideoLlava(model)
    with family.signals.observe(NEEDS) as signals:
        model.model.image_tower(frames)
        output = model.model.video_tower(frames, output_attentions=True, output_hidden_states=True)
    received = output.attentions[last].mean(dim=(1, 2))[:, 1:]
    wanted = (received / received.sum(dim=1, keepdim=True)).view(4, SIDE, SIDE)
    torch.testing.assert_close(signals.saliency, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(signals.frame_features, output.pooler_output, atol=1e-5, rtol=1e-5)
    layer = family.tower.encoder.layers[last]
    keys = layer.self_attn.k_proj(layer.layer_norm1(output.hidden_states[last]))[:, 1:].unflatten(-1, (4, 8)).mean(2)
    torch.testing.assert_close(signals.keys, keys.view(4, SIDE, SIDE, -1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_where_class_tokens_are() -> None:
    model, videos = VideoLlavaTwin().model, random((2, 3, 3, PIXELS, PIXELS), 1)
    layout = VideoLlava(model).layout
    clips = layout.clips(Prompt(), videos)
    assert clips == [Clip(Grid(3, SIDE, SIDE), 0), Clip(Grid(3, SIDE, SIDE), 3)]
    output = model.model.get_video_features(videos, return_dict=True)
    states = model.model.video_tower(videos.flatten(0, 1), output_hidden_states=True).hidden_states[-2]
    projected = model.model.multi_modal_projector(states)
    features = layout.features(output, clips)
    for number, clip in enumerate(clips):
        own = projected[3 * number : 3 * number + 3]
        assert features[number].shape == (layout.feature_count(clip.grid), 48) == (30, 48)
        torch.testing.assert_close(features[number][layout.grid_indices(clip.grid)], own[:, 1:].flatten(0, 1))
    layout.replace_video_features(output, clips, [features[0] + 1, features[1] + 2])
    torch.testing.assert_close(output.pooler_output[:3], projected[:3] + 1)
    torch.testing.assert_close(output.pooler_output[3:], projected[3:] + 2)


def test_class_tokens_are_kept_and_can_be_counted() -> None:
    host, row = VideoLlavaTwin(), (RandomWords(2, 1), Video(8, 5), RandomWords(4, 2))
    inputs, whole = host.inputs([row]), 8 * 10
    for newlines, kept in (("kept", budget.count(0.25, 72)), ("counted", budget.count(0.25, whole) - 8)):
        pruner = tangovlm.Tango(retention=0.25)
        with tangovlm.attach(host.model, pruner, timestamps=torch.arange(8), newlines=newlines) as session:
            output = host.model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True, do_sample=False)
        (video,) = session.report.videos
        assert (video.tokens_before, video.tokens_after) == (72, kept)
        assert (video.newlines_before, video.newlines_after) == (8, 8)
        assert output.past_key_values.get_seq_length() == 6 + kept + 8


def test_numbers_of_videos_in_a_prompt() -> None:
    host = VideoLlavaTwin()
    inputs = host.inputs([(RandomWords(2, 1), Video(1, 5), Image(3), Video(1, 6))])
    numbers = VideoLlava(host.model).layout.video_numbers(inputs["input_ids"], [Grid(1, SIDE, SIDE)] * 2)
    assert numbers[0].tolist() == [TEXT] * 2 + [OFF_GRID] + [0] * 9 + [TEXT] * 9 + [OFF_GRID] + [1] * 9


def test_images_under_the_name_of_the_stock_processor() -> None:
    """It still writes `pixel_values_images`, which the model renames."""
    host, row = VideoLlavaTwin(), (RandomWords(2, 1), Image(3), RandomWords(2, 4), Video(4, 5), RandomWords(4, 2))
    inputs, options = host.inputs([row]), {"max_new_tokens": 4, "do_sample": False}
    image = inputs.pop("pixel_values", None)
    image = inputs.pop("pixel_values_images", None) if image is None else image
    pruner = tangovlm.method("uniform", retention=0.5)
    with tangovlm.attach(host.model, pruner):
        said = host.model.generate(**inputs, pixel_values_images=image, **options)
    assert said[0, inputs["input_ids"].shape[1] :].tolist() == host.reference(row, pruner, 4)[0]


def test_other_towers_are_refused() -> None:
    model = VideoLlavaTwin().model
    del VideoLlava(model).tower.pre_layrnorm
    with pytest.raises(ModelError, match="only CLIP towers are supported"):
        VideoLlava(model).signals.observe(NEEDS).__enter__()


def test_prompt_and_pixels() -> None:
    """Placeholders for class tokens too, as the stock processor has them; the middle of a frame."""
    tokenizer, family = ByteTokenizer("<pad>", "<image>", "<video>"), VideoLlava(VideoLlavaTwin().model)
    family.model.config.image_token_index, family.model.config.video_token_index = 1, 2
    template = "USER: {% for c in messages[0].content %}{{ '<video>\n' if c.type == 'video' else c.text }}{% endfor %}"
    config = {"size": {"shortest_edge": PIXELS}, "crop_size": {"height": PIXELS, "width": PIXELS}}
    pixels = family.prompt.pixels(torch.zeros(2, 3, 60, 90, dtype=torch.uint8), config)
    assert pixels.shape == (1, 2, 3, PIXELS, PIXELS)
    inputs = family.prompt.inputs(tokenizer, template, pixels, "Why?")
    assert tokenizer.whole_text(inputs["input_ids"]) == "USER: " + "<video>" * 20 + "\nWhy?"
    with pytest.raises(InputError, match="'<image>', which stands for visual tokens"):
        family.prompt.inputs(tokenizer, template, pixels, "an <image>?")


def test_placeholders() -> None:
    family = VideoLlava(VideoLlavaTwin().model)
    assert family.layout.placeholder == VIDEO
    assert family.model.config.image_token_index == IMAGE


@torch.no_grad()
def test_images_with_a_class_token_are_refused_if_they_are_to_be_pruned() -> None:
    host = VideoLlavaTwin()
    inputs = host.inputs([(Image(20), RandomWords(4, 2))])
    stock = host.model(**inputs).logits
    with tangovlm.attach(host.model, tangovlm.Tango(retention=1.0), images=True):
        assert torch.equal(host.model(**inputs).logits, stock)
    host.model.config.vision_feature_select_strategy = "full"
    with (
        tangovlm.attach(host.model, Norms(0.5), images=True),
        pytest.raises(InputError, match="vision_feature_select_strategy is .full., with which images"),
    ):
        host.model(**inputs)
