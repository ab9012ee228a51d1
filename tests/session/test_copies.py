"""Copies, pickles and wrappers of an attached model, and what a caller sees of features: never a marker."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.machine.devices import weights_of
from tangovlm.models.common.transformers_compat import encodes_first
from tangovlm.selfcheck.twins import twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import Row, Video, Words
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin
from tangovlm.session.wrappers import unwrapped
from tests.support.tiny_models import state_of

NEW = 4
ROW: Row = (Words(3, 1), Video(4, 2), Words(5, 3))
PRUNER = Norms(0.4)


@pytest.fixture(params=twins())
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
        # Before it has run: stock models of some releases that have cannot be pickled.
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


def test_every_family_is_copied_plain(host: Twin) -> None:
    plain = answer(host.model, host)
    with tangovlm.attach(host.model, PRUNER):
        copied = copy.deepcopy(host.model)
        assert answer(copied, host) == plain
        assert answer(host.model, host) == host.reference(ROW, PRUNER, NEW)[0]
    assert answer(copied, host) == plain


# --- what a caller sees -----------------------------------------------------------------------------------------------


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def test_no_marker_is_seen(host: Twin) -> None:
    """Hooks of the caller's on every module, put on before and within the context, see finite numbers only."""
    seen: list[str] = []
    modules = {"model": host.model, "base": host.model.model, "text": host.model.get_decoder()}
    modules |= {name: module for name, module in host.model.named_modules() if name.count(".") < 3}

    def watch(name: str) -> Any:
        def check(*arguments: Any) -> None:
            found = [tensor for tensor in tensors(arguments[1:]) if tensor.is_floating_point()]
            seen.extend(name for tensor in found if tensor.isnan().any())

        return check

    def put_on() -> list[Any]:
        handles = []
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(watch(f"before {name}"), with_kwargs=True))
            handles.append(module.register_forward_hook(watch(f"behind {name}"), with_kwargs=True))
        return handles

    handles = put_on()
    inputs = host.inputs([ROW])
    options: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    with torch.no_grad(), tangovlm.attach(host.model, PRUNER):
        handles += put_on()
        for width in (1, 2) if "beams" not in host.broken and host.family != "glm-4v" else (1,):
            output = host.model.generate(
                **inputs, **options, num_beams=width, return_dict_in_generate=True, output_hidden_states=True
            )
            assert all(bool(tensor.isfinite().all()) for tensor in tensors(output.hidden_states))
        # The stock GLM-4V looks for placeholders of videos, where it has those of images.
        if encodes_first(host.model) and host.family != "glm-4v":
            host.model.generate(**inputs, **options, prefill_chunk_size=8)
        output = host.model(**inputs, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    assert seen == []
    assert all(bool(tensor.isfinite().all()) for tensor in tensors(dict(output)) if tensor.is_floating_point())


def test_rows_of_dropped_tokens_are_zero(host: Twin) -> None:
    with torch.no_grad(), tangovlm.attach(host.model, PRUNER) as session:
        output = host.model(**host.inputs([ROW]))
    names = ("video_outputs", "image_outputs", "video_hidden_states", "image_hidden_states")
    found = next((output[name] for name in names if output.get(name) is not None), None)
    if found is None:
        pytest.skip("this release gives no features of videos back")
    width = host.model.get_decoder().config.hidden_size
    rows = torch.cat([part.reshape(-1, width) for part in tensors(getattr(found, "pooler_output", found))])
    report = session.report
    assert int((rows == 0).all(dim=1).sum()) >= report.tokens_before - report.tokens_after > 0


# --- wrappers ---------------------------------------------------------------------------------------------------------


def test_wrappers_hand_their_calls_on() -> None:
    host = LlavaOnevisionTwin()
    wanted, before = host.reference(ROW, PRUNER, NEW), state_of(host.model)
    wrapper = nn.DataParallel(host.model)
    assert unwrapped(wrapper) is host.model
    with torch.no_grad(), tangovlm.attach(wrapper, PRUNER):
        logits = wrapper(**host.inputs([ROW])).logits
        assert answer(wrapper.module, host) == wanted[0]
    torch.testing.assert_close(logits[0, -1], wanted[1], atol=1e-4, rtol=0)
    assert state_of(host.model) == before


def test_copies_on_several_devices_are_refused() -> None:
    wrapper = nn.DataParallel(LlavaOnevisionTwin().model)
    wrapper.device_ids = [0, 1]
    with pytest.raises(ModelError, match=r"DataParallel .*: attach the model inside \(model.module\)"):
        tangovlm.attach(wrapper, PRUNER).__enter__()


def test_adapters_also_on_the_pooling_head() -> None:
    peft = pytest.importorskip("peft")
    host = LlavaOnevisionTwin()
    plain = copy.deepcopy(host.model.model.vision_tower.head)
    config = peft.LoraConfig(
        target_modules=["head.attention", "head.mlp.fc1", "q_proj"], init_lora_weights=False, lora_alpha=16
    )
    torch.manual_seed(0)
    adapted = peft.get_peft_model(host.model, config).eval()
    merged = copy.deepcopy(adapted).merge_and_unload()
    head = adapted.base_model.model.model.vision_tower.head
    found, wanted = weights_of(head), dict(merged.model.vision_tower.head.named_parameters())
    assert set(found) == set(wanted)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in found)
    assert not torch.allclose(found["mlp.fc1.weight"], plain.mlp.fc1.weight)
    method = tangovlm.Tango(retention=0.3)
    with tangovlm.attach(adapted, method), tangovlm.attach(merged, method):
        said = answer(adapted, host)
        assert said == answer(merged, host)
    with adapted.disable_adapter():
        off, own = weights_of(head), dict(plain.named_parameters())
        assert all(torch.allclose(off[name], own[name], atol=1e-6) for name in own)


def test_prompt_tuning_is_refused() -> None:
    peft = pytest.importorskip("peft")
    model = LlavaOnevisionTwin().model
    model.config.num_hidden_layers = 2
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=2, token_dim=48, num_attention_heads=4
    )
    with pytest.raises(ModelError, match="PROMPT_TUNING puts tokens of its own into prompts"):
        tangovlm.attach(peft.get_peft_model(model, config), PRUNER).__enter__()
