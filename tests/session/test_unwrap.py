"""A model inside the wrapper of another library is attached, or refused with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.machine.devices import weights_of
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin
from tangovlm.session.unwrap import unwrap
from tests.session.test_patching import NEW, PRUNER, ROW, answer
from tests.support.tiny_models import state_of


def test_a_wrapper_forwards_its_calls() -> None:
    host = LlavaOnevisionTwin()
    wanted, before = host.reference(ROW, PRUNER, NEW), state_of(host.model)
    wrapper = nn.DataParallel(host.model)
    assert unwrap(wrapper) is host.model
    with torch.no_grad(), tangovlm.attach(wrapper, PRUNER):
        logits = wrapper(**host.inputs([ROW])).logits
        assert answer(wrapper.module, host) == wanted[0]
    torch.testing.assert_close(logits[0, -1], wanted[1], atol=1e-4, rtol=0)
    assert state_of(host.model) == before


def test_data_parallel_on_several_devices_is_refused() -> None:
    wrapper = nn.DataParallel(LlavaOnevisionTwin().model)
    wrapper.device_ids = [0, 1]
    with pytest.raises(ModelError, match=r"DataParallel .*: attach the model inside \(model.module\)"):
        tangovlm.attach(wrapper, PRUNER).__enter__()


def test_adapters_are_used_in_the_pooling_head_too() -> None:
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
        assert answer(adapted, host) == answer(merged, host)
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
    with pytest.raises(ModelError, match="PROMPT_TUNING inserts tokens of its own into prompts"):
        tangovlm.attach(peft.get_peft_model(model, config), PRUNER).__enter__()
