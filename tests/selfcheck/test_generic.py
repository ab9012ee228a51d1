"""Models of no known family: whatever passes the check answers as the reference of its twin, the others are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError, ModelError
from tangovlm.models.generic import Generic
from tangovlm.selfcheck.generic import check_generic
from tangovlm.selfcheck.twins import load, twins
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, Video
from tangovlm.session.attach import attach_family

FRAMES, NEW = 4, 5
ONE: PromptParts = (RandomWords(3, 1), Video(FRAMES, 2), RandomWords(5, 3))
OTHER: PromptParts = (RandomWords(7, 4), Video(FRAMES, 5), RandomWords(4, 6))
TIMES = torch.arange(FRAMES, dtype=torch.float64)
PASS = {"llava_next_video", "qwen2_vl", "qwen2_5_omni", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe"}
REASONS = {
    "qwen3_vl": "does more with a video than its features",
    "llava_onevision": "10 tokens for a frame, which are no square",
    "internvl": "lacks get_video_features with pixel_values_videos; a placeholder",
    "glm4v": "stock code fails",
}


def attached(model: Any, method: Any = None, **options: Any) -> Any:
    """As `attach(family="generic")`, which refuses models of known families."""
    bound = Generic.of(model)
    check_generic(bound, attach_family)
    return attach_family(bound, method or Norms(0.3), timestamps=TIMES, **options)


def refusal(model: Any) -> str | None:
    try:
        with attached(model):
            return None
    except ModelError as error:
        return str(error)


@pytest.mark.parametrize("name", twins())
def test_right_or_refused(name: str) -> None:
    twin = load(name)()
    refused = refusal(twin.model)
    assert (refused is None) == (name in PASS)
    if refused is not None:
        assert re.search(REASONS.get(name, ""), refused)
        return
    inputs = twin.inputs([ONE, OTHER])
    with attached(twin.model) as session:
        output = twin.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    said = output[:, inputs["input_ids"].shape[1] :].tolist()
    assert said == [twin.reference(row, Norms(0.3), NEW)[0] for row in (ONE, OTHER)]
    assert session.report.tokens_after < session.report.tokens_before


def test_a_model_that_uses_more_than_features_is_refused() -> None:
    """Here, a video also changes the embeddings of the words."""
    twin = load("qwen2_vl")()
    stock = twin.model.model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = stock(*args, **kwargs)
        if kwargs.get("pixel_values_videos") is not None:
            output.last_hidden_state = output.last_hidden_state + kwargs["pixel_values_videos"].mean() + 1
        return output

    twin.model.model.forward = forward
    with pytest.raises(ModelError, match="does more with a video than its features"), attached(twin.model):
        pass


def test_what_is_not_known_is_refused_by_name() -> None:
    twin = load("llava_next_video")()
    words = "'topk' needs saliency, which the family generic does not provide"
    with pytest.raises(ModelError, match=words), attached(twin.model, tangovlm.method("topk", retention=0.5)):
        pass
    words = "pruning inside the model is not tested with the family generic"
    with (
        pytest.raises(ModelError, match=words),
        attached(twin.model, tangovlm.method("fastv", layer=1, keep_ratio=0.5)),
    ):
        pass
    with attached(twin.model, chunk_frames=1), pytest.raises(InputError, match="chunk_frames does not work"):
        twin.model.generate(**twin.inputs([ONE]), max_new_tokens=1)
    words = "family is 'llava': leave it out, or choose 'generic'"
    with pytest.raises(InputError, match=words), tangovlm.attach(twin.model, Norms(), family="llava"):
        pass
    words = "is supported by the family llava-next-video: leave family='generic' out"
    with pytest.raises(InputError, match=words), tangovlm.attach(twin.model, Norms(), family="generic"):
        pass


def test_a_class_that_no_family_has(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = load("qwen2_vl")()
    inputs = twin.inputs([ONE])
    monkeypatch.delitem(registry._families, "Qwen2VLForConditionalGeneration")
    with tangovlm.attach(twin.model, Norms(0.3), family="generic", timestamps=TIMES):
        output = twin.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert output[0, inputs["input_ids"].shape[1] :].tolist() == twin.reference(ONE, Norms(0.3), NEW)[0]
    words = "provides no saliency: leave saliency and head_weights out"
    with (
        pytest.raises(InputError, match=words),
        tangovlm.attach(twin.model, Norms(), family="generic", saliency="attn"),
    ):
        pass


def test_the_model_is_left_as_it_was() -> None:
    twin = load("qwen2_vl")()
    inputs = twin.inputs([ONE])
    before = twin.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    with attached(twin.model, tangovlm.method("divprune", retention=1.0)):
        whole = twin.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert torch.equal(before, whole)
    assert torch.equal(before, twin.model.generate(**inputs, max_new_tokens=NEW, do_sample=False))
