"""What the language model reads, computes and stores of a prompt, by formula.

FLOPs are twice the multiply-accumulates of `tangovlm.machine.flops.prefill_macs`, which is FastV's formula (arXiv
2403.06764) with keys and values at their actual width: per layer, two for each weight and token, and 4n^2a of attention
over all pairs of n tokens, with a the width of all query heads. Of a mixture of experts, the weights of the chosen
experts count. The vision encoder, embeddings, the output head and the method itself are not included. The KV cache
holds two vectors for each token, layer and key-value head, of a layer with a sliding window only for its last tokens.
Layers count in full for all tokens also where newer releases compute some of them for the last token only (Gemma 4).

A recurrent layer (gated delta network) does not attend: for each token it decays, reads, writes and reads the state of
its heads, three products of the size of the state. Instead of keys and values it stores that state, in float32, and the
last inputs of its convolution. Implementations that read a prompt in chunks compute more.
"""

from collections.abc import Sequence
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
    # Gemma 4 projects the embeddings once for all layers.
    weights[0] += sum(each.numel() for each in _parameters(decoder, "per_layer_model_projection"))
    shapes = [_layer_shape(layer, config) for layer in layers]
    visual = _tokens_per_layer(planned, kept, grid, len(layers))
    beside = text + kept.features.most - kept.tokens.most
    lengths = [beside + tokens for tokens in visual]
    macs = _macs(lengths, weights, shapes)
    for tokens in kept.groups:
        group = grid._replace(frames=tokens * grid.frames // grid.tokens)
        first = planned.cuts[0].layer
        macs += _macs([text + family.layout.feature_count(group)] * first, weights[:first], shapes[:first])
    return Cost(
        tokens=kept.tokens,
        newlines=kept.newlines,
        prompt_tokens=Range(text + kept.features.least, text + kept.features.most),
        tokens_per_layer=visual if planned.inside is not None else (),
        flops=2 * macs,
        kv_bytes=sum(shape.cached(length, number_bytes) for shape, length in zip(shapes, lengths, strict=True)),
    )


@dataclass(frozen=True)
class _AttentionShape:
    """Of one layer: heads of queries and of keys, which are 0 if another layer's are used, their width, its window."""

    heads: int
    kv_heads: int
    width: int
    window: int | None

    @classmethod
    def of(cls, layer: Any, config: Any) -> "_AttentionShape":
        attention: Any = getattr(layer, "self_attn", None)
        heads: int = config.num_attention_heads
        if getattr(attention, "is_kv_shared_layer", None) is None:
            width = getattr(config, "head_dim", None) or config.hidden_size // heads
            return cls(heads, getattr(config, "num_key_value_heads", None) or heads, width, None)
        # Layers of Gemma 4 differ.
        kv_heads = sum(len(each) for each in _parameters(attention, "k_proj")) // attention.head_dim
        return cls(heads, kv_heads, attention.head_dim, attention.sliding_window)

    @property
    def attention_width(self) -> int:
        """Channels of all queries."""
        return self.heads * self.width

    @property
    def products(self) -> int:
        """Products for each token beside those with weights."""
        return 0

    def cached(self, length: int, number_bytes: int) -> int:
        """Bytes in the cache after a prompt of this length."""
        held = length if self.window is None else min(length, self.window - 1)
        return 2 * self.kv_heads * self.width * held * number_bytes


@dataclass(frozen=True)
class _RecurrentShape:
    """Of one gated delta network: weights of its convolution, and numbers in its state."""

    convolution: int
    state: int
    attention_width: int = 0

    @property
    def products(self) -> int:
        """Products for each token beside those with matrices."""
        return self.convolution + 3 * self.state

    def cached(self, _length: int, number_bytes: int) -> int:
        """Bytes in the cache, whatever the length of the prompt."""
        return self.convolution * number_bytes + 4 * self.state


_Shape = _AttentionShape | _RecurrentShape


def _layer_shape(layer: Any, config: Any) -> _Shape:
    delta = getattr(layer, "linear_attn", None)
    if delta is None:
        return _AttentionShape.of(layer, config)
    return _RecurrentShape(delta.conv1d.weight.numel(), delta.num_v_heads * delta.head_k_dim * delta.head_v_dim)


def _parameters(module: Any, name: str) -> list[Any]:
    """Parameters of a part of a module, none if it lacks the part."""
    part = getattr(module, name, None)
    return [] if part is None else list(part.parameters())


def _macs(lengths: Sequence[int], weights: Sequence[int], shapes: Sequence[_Shape]) -> int:
    """See `prefill_macs`."""
    products = [own + shape.products for own, shape in zip(weights, shapes, strict=True)]
    return prefill_macs(lengths, products, [shape.attention_width for shape in shapes])


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
    for name, parameter in layer.named_parameters():
        if parameter.dim() == 2:
            total += parameter.numel()
        elif parameter.dim() == 3 and "experts" in name:
            chosen = getattr(config, "num_experts_per_tok", None) or config.top_k_experts
            total += parameter[0].numel() * chosen
    return total
