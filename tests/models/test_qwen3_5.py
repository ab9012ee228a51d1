"""Qwen3.5: what its recurrent layers change."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm.errors import InputError, ModelError, TangoError
from tangovlm.models.common.transformers_compat import Arg, Signature, cache_in
from tangovlm.registry import family_for
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, Video
from tangovlm.selfcheck.twins.qwen2_5_vl import Qwen25VLTwin
from tangovlm.selfcheck.twins.qwen3_5 import Qwen35MoeTwin, Qwen35Twin

ROWS: list[PromptParts] = [
    (RandomWords(3, 1), Video(4, 2), RandomWords(5, 3)),
    (RandomWords(7, 4), Video(4, 5), RandomWords(4, 6)),
]


@pytest.fixture(params=[Qwen35Twin, Qwen35MoeTwin])
def host(request: pytest.FixtureRequest) -> Twin:
    twin: Twin = request.param()
    return twin


def test_a_state_is_kept_of_what_was_read() -> None:
    assert family_for(Qwen35Twin().model)(Qwen35Twin().model).recurrent
    assert not family_for(Qwen25VLTwin().model)(Qwen25VLTwin().model).recurrent


@torch.no_grad()
def test_a_shorter_turn_of_a_batch_is_refused(host: Twin) -> None:
    """The stock model lets padding decay the state without a word; alone, each conversation goes on."""
    inputs = host.inputs(ROWS)
    ids, mask = torch.tensor([[9, 9, 20, 21], [22, 23, 24, 25]]), inputs["attention_mask"]
    padded = torch.cat([mask, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])], dim=1)

    def next_turn(cache: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        given = Signature(host.model.forward, "the model", ()).values({Arg.CACHE: copy.deepcopy(cache)})
        logits: torch.Tensor = host.model(input_ids=ids, attention_mask=mask, **given).logits
        return logits[:, -1]

    with tangovlm.attach(host.model, Norms()):
        cache = cache_in(host.model(**inputs, use_cache=True))
        with pytest.raises(InputError, match="recurrent layers"):
            next_turn(cache, ids, padded)
        both = next_turn(cache, ids, torch.cat([mask, torch.ones_like(ids)], dim=1))
        alone = cache_in(host.model(**host.inputs(ROWS[1:]), use_cache=True))
        one = next_turn(alone, ids[1:], torch.ones(1, alone.get_seq_length() + 4, dtype=torch.long))
    torch.testing.assert_close(both[1:], one, atol=1e-4, rtol=0)


def test_methods_inside_the_model_are_refused(host: Twin) -> None:
    with (
        pytest.raises(ModelError, match="needs layers built like Qwen2's, not Qwen3_5.*before the language model"),
        tangovlm.attach(host.model, tangovlm.method("fastv", retention=0.5)),
    ):
        pass


def test_a_chunk_of_the_prompt_of_which_nothing_is_kept_is_refused(host: Twin) -> None:
    """The text model would read a position of padding, which stock code does not mask."""
    inputs = host.inputs(ROWS[:1])
    # In 5.17, chunks of a prompt do not reach the encoder, which is refused too.
    words = "recurrent layers, .*prefill_chunk_size|did not call get_video_features"
    with tangovlm.attach(host.model, Norms(0.1)), pytest.raises(TangoError, match=words):
        host.model.generate(**inputs, max_new_tokens=1, prefill_chunk_size=3)
