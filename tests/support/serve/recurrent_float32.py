"""The recurrent layers of Qwen3.5 in float32, for which vLLM has no kernel on a CPU; `install` puts it in their place.

Plain loops over the prompts of a step, with the functions of transformers. What is tested is what surrounds them.
"""

from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch.nn import functional as F


def install() -> None:
    """Replace the operator in this process and those forked from it."""
    from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention

    # The operator is registered when the first model is made; its schema is read from the annotations.
    attention_core.__annotations__ = get_type_hints(gdn_attention.cpu_gdn_attention_core) | {"return": None}
    gdn_attention.cpu_gdn_attention_core = attention_core


def attention_core(mixed_qkv: Tensor, b: Tensor, a: Tensor, core_attn_out: Tensor, layer_name: Any) -> None:
    """Compute the core of a layer for all prompts of a step, from their states on."""
    from vllm.forward_context import get_forward_context
    from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
    from vllm.utils.torch_utils import _resolve_layer_name

    context = get_forward_context()
    layer = context.no_compile_layers[_resolve_layer_name(layer_name)]
    if context.attn_metadata is None:
        return
    step = context.attn_metadata[layer.prefix]
    conv, states = layer.kv_cache
    conv = conv if is_conv_state_dim_first() else conv.transpose(1, 2)
    states = states.view(*states.shape[:2], states.shape[3], states.shape[2])
    has_state = [True] * step.num_decodes
    if step.num_prefills:
        has_state += step.has_initial_state[step.num_decodes :].tolist()
    starts, slots = step.non_spec_query_start_loc.tolist(), step.non_spec_state_indices_tensor.tolist()
    for number, known in enumerate(has_state):
        slot, tokens = slots[number], slice(starts[number], starts[number + 1])
        if not known:
            conv[slot], states[slot] = 0, 0
        core_attn_out[tokens] = _prompt(layer, mixed_qkv[tokens], b[tokens], a[tokens], conv[slot], states[slot])


def _prompt(layer: Any, mixed: Tensor, b: Tensor, a: Tensor, conv: Tensor, state: Tensor) -> Tensor:
    """Outputs ``(n, heads, width)`` of n tokens of one prompt, whose states are updated."""
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

    inputs = torch.cat([conv, mixed.T], dim=1)
    conv.copy_(inputs[:, -conv.shape[1] :])
    weight = layer.conv1d.weight.view(len(inputs), 1, -1)
    convolved = F.silu(F.conv1d(inputs[None], weight, layer.conv1d.bias, groups=len(inputs)))[0].T
    query, key, value = layer.rearrange_mixed_qkv(convolved.contiguous())
    query, key = (each.repeat_interleave(value.shape[2] // each.shape[2], dim=2) for each in (query, key))
    decay = -layer.A_log.exp() * F.softplus(a + layer.dt_bias)
    result, last = torch_chunk_gated_delta_rule(
        query, key, value, g=decay[None], beta=b.sigmoid()[None], initial_state=state[None].clone(),
        output_final_state=True, use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    state.copy_(last[0])
    return result[0]
