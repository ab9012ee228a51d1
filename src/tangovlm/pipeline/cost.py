"""What the language model reads, computes and stores of a prompt, by formula.

FLOPs are twice the multiply-accumulates of `tangovlm.machine.flops.prefill_macs`, which is FastV's formula (arXiv
2403.06764) with keys and values at their actual width: per layer, two for each weight and token, and 4n^2a of attention
over all pairs of n tokens, with a the width of all query heads. Of a mixture of experts, the weights of the chosen
experts count. The vision encoder, embeddings, the output head and the method itself are not included. The KV cache
holds two vectors for each token, layer and key-value head.
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
    config, layers = decoder.config, list(decoder.layers)
    weights = [_weights_of(layer, config) for layer in layers]
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    visual = _tokens_per_layer(planned, kept, grid, len(layers))
    beside = text + kept.features.most - kept.tokens.most
    lengths = [beside + tokens for tokens in visual]
    macs = prefill_macs(lengths, weights, heads * width)
    for tokens in kept.groups:
        group = grid._replace(frames=tokens * grid.frames // grid.tokens)
        first = weights[: planned.cuts[0].layer]
        macs += prefill_macs([text + family.layout.feature_count(group)] * len(first), first, heads * width)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return Cost(
        tokens=kept.tokens,
        newlines=kept.newlines,
        prompt_tokens=Range(text + kept.features.least, text + kept.features.most),
        tokens_per_layer=visual if planned.inside is not None else (),
        flops=2 * macs,
        kv_bytes=2 * kv_heads * width * number_bytes * sum(lengths),
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


def _weights_of(layer: Any, config: Any) -> int:
    """Weights of the matrices by which a layer multiplies a token; of experts, those of the chosen ones."""
    total = 0
    for parameter in layer.parameters():
        if parameter.dim() == 2:
            total += parameter.numel()
        elif parameter.dim() == 3:
            # The matrices of all experts.
            total += parameter[0].numel() * config.num_experts_per_tok
    return total
