"""What the language model reads, computes and stores of a prompt, by formula.

FLOPs are twice the multiply-accumulates of `tangovlm.machine.flops.prefill_macs`, which is FastV's formula (arXiv
2403.06764) with keys and values at their actual width: per layer, two for each weight and token, and 4n^2a of attention
over all pairs of n tokens, with a the width of all query heads. Of a mixture of experts, the weights of the chosen
experts count. The vision encoder, embeddings, the output head and the method itself are not included. The KV cache
holds two vectors for each token, layer and key-value head.

A recurrent layer (gated delta network) does not attend: for each token it decays, reads, writes and reads the state of
its heads, three products of the size of the state. Instead of keys and values it stores that state, in float32, and the
last inputs of its convolution. Implementations that read a prompt in chunks compute more.
"""

from dataclasses import dataclass
from typing import Any

from ..machine.flops import prefill_macs
from ..methods.build import Plan
from ..methods.in_llm.common.first_pass import FirstPassMethod
from ..models.common.family import Family
from ..models.common.layout import Grid
from ..session.lengths.kept import Kept, Range


@dataclass(frozen=True, eq=False)
class Cost:
    """What the language model reads of a prompt.

    Parameters
    ----------
    tokens: visual tokens that enter it. newlines: see `tangovlm.attach`. prompt_tokens: these and the text.
    tokens_per_layer: visual tokens in each layer, the most if the content decides.
    flops: of the prefill, the most; with those of a pass before it. kv_bytes: of the cache after it, the most.
    """

    tokens: Range
    newlines: Range
    prompt_tokens: Range
    tokens_per_layer: tuple[int, ...]
    flops: int
    kv_bytes: int


def cost_of(family: Family, planned: Plan, kept: Kept, grid: Grid, text: int, number_bytes: int) -> Cost:
    """What the language model reads of a prompt with `text` tokens beside the video."""
    decoder: Any = family.decoder
    config = decoder.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    layers = [_layer_cost(layer, config, heads * width, 2 * kv_heads * width, number_bytes) for layer in decoder.layers]
    weights, widths = [layer.weights for layer in layers], [layer.attention_width for layer in layers]
    visual = _tokens_per_layer(planned, kept, grid, len(layers))
    beside = text + kept.features.most - kept.tokens.most
    lengths = [beside + tokens for tokens in visual]
    macs = prefill_macs(lengths, weights, widths)
    for tokens in kept.groups:
        group = grid._replace(frames=tokens * grid.frames // grid.tokens)
        first = planned.cuts[0].layer
        read = [text + family.layout.feature_count(group)] * first
        macs += prefill_macs(read, weights[:first], widths[:first])
    return Cost(
        tokens=kept.tokens,
        newlines=kept.newlines,
        prompt_tokens=Range(text + kept.features.least, text + kept.features.most),
        tokens_per_layer=visual if planned.inside is not None else (),
        flops=2 * macs,
        kv_bytes=sum(
            layer.state_bytes + layer.token_bytes * length for layer, length in zip(layers, lengths, strict=True)
        ),
    )


def _tokens_per_layer(planned: Plan, kept: Kept, grid: Grid, layers: int) -> tuple[int, ...]:
    """Visual tokens in each layer, the most if the content decides."""
    entered, method = kept.tokens.most, planned.inside
    cuts = {cut.layer: cut.keep for cut in planned.cuts}
    if method is None or (isinstance(method, FirstPassMethod) and method.groups(grid.frames)):
        cuts = {}
    counts: list[int] = []
    present = entered
    for layer in range(layers):
        if layer in cuts and method is not None:
            remaining = method.kept_count(cuts[layer], entered, present)
            present = present if remaining is None else remaining
        counts.append(present)
    return tuple(counts)


@dataclass(frozen=True)
class _LayerCost:
    """Products of a layer for a token, channels of its attention (0 if it is recurrent), bytes of its cache."""

    weights: int
    attention_width: int
    token_bytes: int
    state_bytes: int


def _layer_cost(layer: Any, config: Any, query_width: int, kv_width: int, number_bytes: int) -> _LayerCost:
    delta = getattr(layer, "linear_attn", None)
    if delta is None:
        return _LayerCost(_weights_of(layer, config), query_width, kv_width * number_bytes, 0)
    state = delta.num_v_heads * delta.head_k_dim * delta.head_v_dim
    conv = delta.conv1d.weight.numel()
    return _LayerCost(_weights_of(layer, config) + conv + 3 * state, 0, 0, conv * number_bytes + 4 * state)


def _weights_of(layer: Any, config: Any) -> int:
    """Weights of the matrices by which a layer multiplies a token; of experts, those of the chosen ones."""
    total = 0
    for name, parameter in layer.named_parameters():
        if parameter.dim() == 2:
            total += parameter.numel()
        elif parameter.dim() == 3 and "experts" in name:
            total += parameter[0].numel() * config.num_experts_per_tok
    return total
