"""What the GLM family reads of its tower and writes in its prompts, and the other classes that share it."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
)
from transformers.models.glm4v.processing_glm4v import Glm4vProcessor
from transformers.models.glm46v.processing_glm46v import Glm46VProcessor
from transformers.video_utils import VideoMetadata

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.models.common.transformers_compat import encodes_first
from tangovlm.models.glm4v import Glm4V
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import Image, RandomWords, Video
from tangovlm.selfcheck.twins.common.weights import text_config
from tangovlm.selfcheck.twins.glm4v import IDS, PATCH, ROPE, STEP, VISION, Glm4vMoeTwin, Glm4vTwin, Glm46VTwin
from tests.models.common.test_patch_sequence import UNEVEN, by_hand, observed
from tests.session.test_generate_families import NEW, ONE, beams, check, generate
from tests.support.prompts import ByteTokenizer
from tests.support.stock import skip_if_broken
from tests.support.turns import second_turn

SECONDS, FPS = [0, 9, 21, 30, 47], 10.0
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] if c.type == 'video' %}" + Glm4vTwin.template + "{% endfor %}"
    "{% for c in m['content'] if c.type == 'text' %}{{ c.text }}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("kind", ["mean-query", "attn"])
def test_signals_of_uneven_videos(kind: str) -> None:
    host = Glm4vTwin()
    signals, output = observed(host, kind)
    with torch.no_grad():
        wanted = by_hand(host, kind)
    assert len(signals.saliency) == len(wanted) == 5
    for got, keys, (scores, wanted_keys) in zip(signals.saliency, signals.keys, wanted, strict=True):
        torch.testing.assert_close(got.double(), scores, atol=1e-6, rtol=0)
        torch.testing.assert_close(keys.double(), wanted_keys, atol=1e-5, rtol=0)
    means = [rows.view(-1, size, 48).mean(1) for rows, size in zip(output.pooler_output, (9, 10), strict=True)]
    torch.testing.assert_close(torch.stack(signals.frame_features), torch.cat(means))


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_chunks_across_videos(chunk: int) -> None:
    host = Glm4vTwin()
    whole, output = observed(host, "mean-query")
    parts, joined = observed(host, "mean-query", chunk)
    for name in ("saliency", "keys", "frame_features"):
        for one, other in zip(getattr(whole, name), getattr(parts, name), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for one, other in zip(output.pooler_output, joined.pooler_output, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [Glm4vMoeTwin, Glm46VTwin])
def test_other_classes(variant: type[Glm4vTwin]) -> None:
    check(variant(), [(RandomWords(3, 1), UNEVEN[0], RandomWords(5, 3), UNEVEN[1], RandomWords(2, 7))], Norms())


class AllRotated(Glm4vTwin):
    """Neighbouring channels are paired, all of them."""

    def make(self, _attention: str, layers: int) -> Any:
        rope = ROPE | {"partial_rotary_factor": 1.0, "mrope_section": [2, 2, 2]}
        text = text_config(layers) | {"rope_parameters": rope}
        return Glm4vForConditionalGeneration(Glm4vConfig(vision_config=VISION, text_config=text, **IDS))


@pytest.mark.parametrize("variant", [Glm4vTwin, Glm4vMoeTwin, Glm46VTwin, AllRotated])
def test_pruning_inside_is_refused(variant: type[Glm4vTwin]) -> None:
    with pytest.raises(ModelError, match=r"inside the model does not support Glm4v\w+, which rotates other channels"):
        tangovlm.attach(variant().model, tangovlm.method("fastv", retention=0.5)).__enter__()


def test_image_alone_is_untouched() -> None:
    host = Glm4vTwin()
    inputs = host.inputs([(RandomWords(3, 22), Image(20), RandomWords(4, 23))])
    stock = host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    output = generate(host, inputs, Norms())
    assert torch.equal(output.sequences, stock)
    assert output.session.report.videos == ()


@pytest.mark.parametrize("turns", [(Image(20), Video(4, 21)), (Video(4, 20), Image(21))])
def test_images_in_another_turn_are_untouched(turns: Any) -> None:
    host, pruner = Glm4vTwin(), Norms()
    first, second = (
        (RandomWords(3, 1 + 2 * turn), part, RandomWords(4, 2 + 2 * turn)) for turn, part in enumerate(turns)
    )
    row, said = second_turn(host, first, second)
    skip_if_broken("another turn with pixels", lambda: said, host.reference(row, None, NEW)[0])
    with tangovlm.attach(host.model, pruner):
        row, said = second_turn(host, first, second)
    assert said == host.reference(row, pruner, NEW)[0]


# --- what the family does not claim, since stock models cannot do it ------------------------------------------------


def test_stock_models_take_no_image_beside_a_video() -> None:
    host = Glm4vTwin()
    inputs = host.inputs([(RandomWords(3, 22), Image(20), RandomWords(4, 23), Video(4, 21))])
    with pytest.raises(ValueError, match="do not match"):
        host.model.generate(**inputs, max_new_tokens=1)


def test_beams_where_stock_models_have_them() -> None:
    host = Glm4vTwin()
    inputs = host.inputs([ONE])
    if encodes_first(host.model):
        with pytest.raises(ValueError, match="non-empty list"):
            host.model.generate(**inputs, max_new_tokens=1, num_beams=2, do_sample=False)
        return
    output = generate(host, inputs, Norms(), num_beams=2, max_new_tokens=3)
    assert output.sequences[0, inputs["input_ids"].shape[1] :].tolist() == beams(host, ONE, Norms(), 2, 3)


# --- prompts --------------------------------------------------------------------------------------------------------


def stock_text(processor: Any, frames: int, thw: list[int]) -> str:
    """What the stock processor writes for a video, without its constructor, which asks for torchvision."""
    stub = SimpleNamespace(video_processor=SimpleNamespace(merge_size=2), image_token="<|image|>")
    stub.replace_frame_token_id = partial(processor.replace_frame_token_id, stub)
    metadata = VideoMetadata(total_num_frames=60, fps=FPS, frames_indices=SECONDS[:frames])
    inputs = {"video_grid_thw": torch.tensor([thw]), "video_metadata": [metadata]}
    return str(processor.replace_video_token(stub, inputs, 0))


NEWER_CONFIG = {"video_processor_type": "Glm46VVideoProcessor", "processor_class": "Glm46VProcessor"}
OLDER_CONFIG = {"image_processor_type": "Glm4vImageProcessor", "processor_class": "Glm4vProcessor"}


@pytest.mark.parametrize("frames", [1, 4, 5])
@pytest.mark.parametrize(
    ("variant", "config", "processor"),
    [
        (Glm4vTwin, None, Glm4vProcessor),
        (Glm4vMoeTwin, OLDER_CONFIG, Glm4vProcessor),
        (Glm4vTwin, NEWER_CONFIG, Glm46VProcessor),
        (Glm46VTwin, None, Glm46VProcessor),
    ],
)
def test_prompts_are_those_of_the_stock_processor(variant: Any, config: Any, processor: Any, frames: int) -> None:
    family = Glm4V(variant().model, config=config)
    tokenizer = ByteTokenizer("<pad>", *Glm4vTwin.specials)
    pixels = torch.zeros(1, frames, 3, 2 * PATCH * 2, 2 * PATCH * 3)
    seconds = torch.tensor(SECONDS[:frames], dtype=torch.float64) / FPS
    made = family.prompt.inputs(tokenizer, TEMPLATE, pixels, "Why?", seconds)
    steps = -(-frames // STEP)
    assert made["video_grid_thw"].tolist() == [[steps, 4, 6]]
    text = stock_text(processor, frames, [steps, 4, 6])
    assert tokenizer.whole_text(made["input_ids"]) == "<|begin_of_video|>" + text + "<|end_of_video|>Why?"
    stub = SimpleNamespace(video_start_id=5, video_end_id=6, image_token_id=1)
    kinds = processor.create_mm_token_type_ids(stub, made["input_ids"].tolist())
    assert made["mm_token_type_ids"].tolist() == kinds
    assert sum(kinds[0]) == 2 * steps * 6
