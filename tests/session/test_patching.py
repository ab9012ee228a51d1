"""Copies and pickles of an attached model are plain models; hooks and outputs never contain tags."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm.models.common.transformers_compat import encodes_first
from tangovlm.selfcheck.twins import twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, Video
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin
from tests.support.hosts import first_of_each_family

NEW = 4
ROW: PromptParts = (RandomWords(3, 1), Video(4, 2), RandomWords(5, 3))
PRUNER = Norms(0.4)


@pytest.fixture(params=first_of_each_family())
def host(request: pytest.FixtureRequest) -> Twin:
    return twins()[request.param]()


def answer(model: Any, host: Twin) -> list[int]:
    inputs = host.inputs([ROW])
    with torch.no_grad():
        return model.generate(**inputs, max_new_tokens=NEW, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()


def saved(model: Any) -> Any:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "torch.save": saved}


@pytest.mark.parametrize("method", [PRUNER, tangovlm.Tango(retention=0.4), tangovlm.Tango(retention=1.0)])
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_an_attached_model_is_a_plain_model(way: str, method: Any) -> None:
    host, other = LlavaOnevisionTwin(), LlavaOnevisionTwin(seed=7)
    with tangovlm.attach(host.model, method):
        # Before the first call: in some releases, a stock model cannot be pickled after it.
        copied = COPIES[way](host.model)
        pruned = answer(host.model, host)
    copied.load_state_dict(other.model.state_dict())
    plain = answer(other.model, host)
    assert answer(copied, host) == plain != pruned
    with torch.no_grad():
        assert torch.equal(copied(**host.inputs([ROW])).logits, other.model(**host.inputs([ROW])).logits)
    with tangovlm.attach(copied, PRUNER):
        assert answer(copied, host) == other.reference(ROW, PRUNER, NEW)[0]
    assert answer(copied, host) == plain


def test_a_copy_is_plain_for_every_family(host: Twin) -> None:
    plain = answer(host.model, host)
    with tangovlm.attach(host.model, PRUNER):
        copied = copy.deepcopy(host.model)
        assert answer(copied, host) == plain
        assert answer(host.model, host) == host.reference(ROW, PRUNER, NEW)[0]
    assert answer(copied, host) == plain


# --- tags ---------------------------------------------------------------------------------------------------------


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def test_hooks_and_outputs_have_no_tags(host: Twin) -> None:
    """A user's hooks on every module, registered before and within the context, get finite numbers only."""
    nan_at: list[str] = []
    modules = {"model": host.model, "base": host.model.model, "text": host.model.get_decoder()}
    modules |= {name: module for name, module in host.model.named_modules() if name.count(".") < 3}

    def watch(name: str) -> Any:
        def check(*arguments: Any) -> None:
            found = [tensor for tensor in tensors(arguments[1:]) if tensor.is_floating_point()]
            nan_at.extend(name for tensor in found if tensor.isnan().any())

        return check

    def register() -> list[Any]:
        handles = []
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(watch(f"before {name}"), with_kwargs=True))
            handles.append(module.register_forward_hook(watch(f"after {name}"), with_kwargs=True))
        return handles

    handles = register()
    inputs = host.inputs([ROW])
    options: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    with torch.no_grad(), tangovlm.attach(host.model, PRUNER):
        handles += register()
        for width in (1, 2) if "beams" not in host.broken_uses and host.family != "glm-4v" else (1,):
            output = host.model.generate(
                **inputs, **options, num_beams=width, return_dict_in_generate=True, output_hidden_states=True
            )
            assert all(bool(tensor.isfinite().all()) for tensor in tensors(output.hidden_states))
        # The stock GLM-4V searches for placeholders of videos, but its prompts have those of images.
        if encodes_first(host.model) and host.family != "glm-4v":
            host.model.generate(**inputs, **options, prefill_chunk_size=8)
        output = host.model(**inputs, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    assert nan_at == []
    assert all(bool(tensor.isfinite().all()) for tensor in tensors(dict(output)) if tensor.is_floating_point())


def test_features_of_dropped_tokens_are_zero(host: Twin) -> None:
    with torch.no_grad(), tangovlm.attach(host.model, PRUNER) as session:
        output = host.model(**host.inputs([ROW]))
    names = ("video_outputs", "image_outputs", "video_hidden_states", "image_hidden_states")
    found = next((output[name] for name in names if output.get(name) is not None), None)
    if found is None:
        pytest.skip("this release does not return features of videos")
    width = host.model.get_decoder().config.hidden_size
    rows = torch.cat([part.reshape(-1, width) for part in tensors(getattr(found, "pooler_output", found))])
    report = session.report
    assert int((rows == 0).all(dim=1).sum()) >= report.tokens_before - report.tokens_after > 0
