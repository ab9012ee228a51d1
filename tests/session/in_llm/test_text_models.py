"""The runner on bare text models, without a family.

Qwen2; Qwen2.5-VL, whose positions have three rows; Qwen3, which norms the queries and keys of every head.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    OlmoeConfig,
    OlmoeModel,
    Qwen2_5_VLTextConfig,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLTextConfig,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.models.common.transformers_compat import Signature
from tangovlm.selfcheck.twins.common.inside import Prompt, Reference
from tangovlm.session.cache_state import CacheState, get_state, set_state
from tangovlm.session.in_llm.runner import Runner

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
}
CUTS: dict[str, Any] = {
    "fastv": {"layer": 1, "keep_ratio": 0.5},
    "tango-fastv": {"layer": 4, "keep_ratio": 0.5},
    "holitom-merge": {"layer": 3, "keep_ratio": 0.5},
    "dart": {"layer": 2, "keep_ratio": 0.6},
    "pyramiddrop": {"layers": (1, 3), "ratios": (0.5, 0.2)},
    "sparsevlm": {"layers": (2, 4), "ratios": (0.8, 0.4)},
    "flexselect": {"layer": 3, "retention": 0.4},
}


def make(kind: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    if kind == "qwen2":
        lm: Any = Qwen2Model(Qwen2Config(**SIZES, attn_implementation=attention))
    elif kind == "qwen3":
        lm = Qwen3Model(Qwen3Config(**SIZES, head_dim=16, attn_implementation=attention))
    else:
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
        lm = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**SIZES, rope_parameters=rope, attn_implementation=attention))
    for name, parameter in lm.named_parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    return lm.eval()


def places(kind: str, before: int, grid: tuple[int, int, int], after: int) -> Tensor:
    """Position ids (N,) or (3, N) of text, a grid of visual tokens, and text."""
    if kind != "qwen2.5":
        return torch.arange(before + grid[0] * grid[1] * grid[2] + after)
    visual = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij")).flatten(1) + before
    text = torch.arange(after) + int(visual.max()) + 1
    return torch.cat([torch.arange(before).expand(3, -1), visual, text.expand(3, -1)], dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen2.5", "qwen3"])
@pytest.mark.parametrize("name", CUTS)
@torch.no_grad()
def test_prompt_and_two_steps(kind: str, name: str, attention: str) -> None:
    lm, pruner = make(kind, attention), tangovlm.method(name, **CUTS[name])
    grid = (2, 4, 5)
    visual = list(range(3, 43))
    positions = places(kind, 3, grid, 6)
    embeds = torch.randn(51, 48, generator=torch.Generator().manual_seed(1))
    last = positions[..., -1:].max() + 1 + torch.arange(2).expand(*positions.shape[:-1], 2)
    positions = torch.cat([positions, last], dim=-1)
    cuts = pruner.cuts(5)
    reference = Reference(lm, name, {cut.layer: cut.keep for cut in cuts})
    (runner, running), cache, video = make_runner(lm, pruner), DynamicCache(), torch.full((1, 49), -1)
    video[0, visual] = 0
    hooks = runner.register_hooks()
    for start, end in ((0, 49), (49, 50), (50, 51)):
        part = embeds[None, start:end]
        running.append(runner.begin(part, None, cache, get_state(cache), video if start == 0 else None))
        own = positions[..., None, start:end]
        output = lm(inputs_embeds=part, position_ids=own, past_key_values=cache, use_cache=True)
        if running[-1] is not None:
            groups, _ = runner.end(running[-1])
            set_state(cache, CacheState((running[-1].first, *groups), None))
        wanted = reference.states(embeds[:end], positions[..., :end], [Prompt(49, visual, 6)])
        torch.testing.assert_close(output.last_hidden_state[0, -1], wanted[-1], atol=1e-4, rtol=0)
        assert [layer.get_seq_length() for layer in cache.layers] == reference.lengths
    for hook in hooks:
        hook.remove()


def make_runner(lm: Any, pruner: Any) -> tuple[Runner, list[Any]]:
    """A runner and a list of forwards; the last one is running."""
    running: list[Any] = []
    layer = Signature(lm.layers[0].forward, "a layer", ())
    return Runner(lm, pruner, pruner.cuts(5), layer, lambda: running[-1]), running


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CUTS)
@torch.no_grad()
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    lm, pruner = make("qwen2").to(dtype), tangovlm.method(name, **CUTS[name])
    runner, running = make_runner(lm, pruner)
    hooks = runner.register_hooks()
    embeds = torch.randn(2, 49, 48, dtype=dtype)
    video = torch.full((2, 49), -1)
    video[0, 3:43] = video[1, 10:30] = 0
    running.append(runner.begin(embeds, None, None, None, video))
    output = lm(inputs_embeds=embeds, use_cache=False).last_hidden_state
    _, (first, second) = runner.end(running[-1])
    for hook in hooks:
        hook.remove()
    assert output.dtype == dtype
    assert bool(output.isfinite().all())
    assert output.shape[1] == max(9 + first[0][-1], 29 + second[0][-1])


def test_models_that_are_refused() -> None:
    fastv = tangovlm.method("fastv")
    deep = Qwen3VLTextModel(Qwen3VLTextConfig(**SIZES))
    with pytest.raises(ModelError, match="support Qwen3VLTextModel, .*: choose a method .* before the language model"):
        make_runner(deep, fastv)
    with pytest.raises(ModelError, match="not support OlmoeDecoderLayer, which does not norm the queries of each head"):
        make_runner(OlmoeModel(OlmoeConfig(**SIZES, num_experts=2)), fastv)
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    with pytest.raises(ModelError, match="sliding window"):
        make_runner(Qwen2Model(Qwen2Config(**SIZES, **window)), fastv)
    odd = torch.nn.Module()
    odd.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(ModelError, match="built like Qwen2's, not Linear"):
        make_runner(odd, fastv)
