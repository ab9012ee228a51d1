"""Saliency: how much a vision encoder attends to each patch, from the tensors of one layer, in float32.

Two signals (Tango paper, arXiv 2604.09547, section on saliency):

* p-attn: the attention of the encoder's pooling head, whose one learned probe is the only query. The probe is folded
  into the key projection once, so that neither an attention map nor a key tensor is computed.
* attn: the attention of one encoder layer, averaged over its heads and queries, from that layer's queries and keys.

Shape letters: F frames, P patches of a frame, C channels of the encoder, A attention heads.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

# Largest attention map or float32 copy of hidden states held at once, in elements (16 MiB).
CHUNK_ELEMENTS = 2**22


def fold_probe(probe: Tensor, in_proj_weight: Tensor, in_proj_bias: Tensor, heads: int) -> Tensor:
    """Query of an attention-pooling head, folded into its key projection.

    With ``q_a = (W_q probe + b_q)_a`` the score of a token x is ``q_a (W_k x + b_k)_a / sqrt(d)``; the term of ``b_k``
    is the same for all tokens and cancels in the softmax, so ``U_a = W_k,a^T q_a / sqrt(d)`` is sufficient.

    Parameters
    ----------
    probe: C values; in_proj_weight: ``(3C, C)`` and in_proj_bias: ``(3C,)``, in the order query, key, value.

    Returns
    -------
    ``(A, C)`` float32.
    """
    channels = in_proj_weight.shape[1]
    query_weight, key_weight, _ = in_proj_weight.float().chunk(3)
    query_C = query_weight @ probe.float().flatten() + in_proj_bias.float()[:channels]
    query_AD = query_C.view(heads, -1)
    folded: Tensor = torch.einsum("ad,adc->ac", query_AD, key_weight.view(heads, -1, channels))
    return folded / math.sqrt(query_AD.shape[1])


def probe_attention(hidden_FPC: Tensor, folded_AC: Tensor) -> Tensor:
    """Attention of a folded probe over the patches of each frame: ``(F, A, P)`` float32, rows sum to one."""
    return torch.softmax((hidden_FPC.float() @ folded_AC.T).transpose(1, 2), dim=-1)


def mean_attention(query_FPC: Tensor, key_FPC: Tensor, heads: int) -> Tensor:
    """Attention of one layer averaged over heads and queries: ``(F, P)`` float32, rows sum to one.

    A few frames are processed at a time, so that the full map of the video is never in memory.
    """
    _, patches, channels = query_FPC.shape
    step = max(1, CHUNK_ELEMENTS // (heads * patches * patches))
    means = []
    for query, key in zip(torch.split(query_FPC, step), torch.split(key_FPC, step), strict=True):
        query_FAPD = query.float().view(-1, patches, heads, channels // heads).transpose(1, 2)
        key_FAPD = key.float().view(-1, patches, heads, channels // heads).transpose(1, 2)
        scores = query_FAPD @ key_FAPD.transpose(-1, -2) / (channels // heads) ** 0.5
        means.append(scores.softmax(dim=-1).mean(dim=(1, 2)))
    return torch.cat(means)


def mean_query_attention(query_FPAd: Tensor, key_FPAd: Tensor, group: int) -> Tensor:
    """Attention of each frame's mean query to groups of patches, averaged over heads.

    Parameters
    ----------
    query_FPAd, key_FPAd: after the rotary embedding.
    group: number of neighbouring patches of a token; their keys are averaged.

    Returns
    -------
    ``(F, P / group)`` float32, rows sum to one.
    """
    query_FAd = query_FPAd.mean(dim=1, dtype=torch.float32)
    key_FGAd = key_FPAd.reshape(len(key_FPAd), -1, group, *key_FPAd.shape[2:]).mean(dim=2, dtype=torch.float32)
    scores_FAG: Tensor = torch.einsum("fad,fgad->fag", query_FAd, key_FGAd) / math.sqrt(query_FPAd.shape[-1])
    return scores_FAG.softmax(dim=-1).mean(dim=1)


def grouped_mean(values_FPC: Tensor, group: int) -> Tensor:
    """Means over groups of neighbouring patches: ``(F, P / group, C)``."""
    return values_FPC.reshape(len(values_FPC), -1, group, values_FPC.shape[-1]).mean(dim=2)


def rotate_half(x: Tensor) -> Tensor:
    """The negated second half of the channels, then the first: a rotation by 90 degrees in each pair (k, k + d / 2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def mean_keys(key_FPC: Tensor, heads: int) -> Tensor:
    """Keys of one layer averaged over heads: ``(F, P, C / A)`` float32."""
    return torch.mean(key_FPC.view(*key_FPC.shape[:2], heads, -1), dim=2, dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class PoolingHead:
    """SigLIP's final layer norm and attention-pooling head, as pure functions of the encoder's last hidden states.

    Parameters
    ----------
    weights: float32 tensors under the names of a SigLIP checkpoint below ``vision_model.``: ``post_layernorm.weight``,
        ``head.probe``, ``head.attention.in_proj_weight`` and so on.
    heads: attention heads of the pooling head.
    eps: of both layer norms.
    activation: of the head's MLP.
    folded: ``(A, C)``, the probe, see `fold_probe`.
    """

    weights: Mapping[str, Tensor]
    heads: int
    eps: float
    activation: Callable[[Tensor], Tensor]
    folded: Tensor

    @classmethod
    def from_weights(
        cls,
        weights: Mapping[str, Tensor],
        heads: int,
        eps: float,
        activation: Callable[[Tensor], Tensor],
        device: torch.device | str = "cpu",
    ) -> "PoolingHead":
        """Copy the weights to float32 on a device and fold the probe."""
        moved = {name: tensor.detach().to(device, torch.float32) for name, tensor in weights.items()}
        folded = fold_probe(
            moved["head.probe"], moved["head.attention.in_proj_weight"], moved["head.attention.in_proj_bias"], heads
        )
        return cls(moved, heads, eps, activation, folded)

    def to(self, device: torch.device) -> "PoolingHead":
        """The head on a device; itself if it is there already."""
        if self.folded.device == device:
            return self
        weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        return replace(self, weights=weights, folded=self.folded.to(device))

    def __call__(self, hidden_FPC: Tensor, *, pool: bool) -> tuple[Tensor, Tensor | None]:
        """Saliency, and the global vector of each frame if ``pool``.

        Parameters
        ----------
        hidden_FPC: output of the last encoder layer, before the final layer norm.

        Returns
        -------
        ``(F, P)`` float32 that sums to one a frame, and ``(F, C)`` float32 or None.
        """
        step = max(1, CHUNK_ELEMENTS // hidden_FPC[0].numel())
        scores, pooled = [], []
        for chunk in torch.split(hidden_FPC, step):
            normed = self._layer_norm("post_layernorm", chunk.float())
            attention_FAP = probe_attention(normed, self.folded)
            scores.append(attention_FAP.mean(dim=1))
            if pool:
                pooled.append(self._pool(normed, attention_FAP))
        return torch.cat(scores), torch.cat(pooled) if pool else None

    def _pool(self, normed_FPC: Tensor, attention_FAP: Tensor) -> Tensor:
        """Attention output, then ``x + MLP(LN(x))``: the output of the head for each frame, ``(F, C)``."""
        value_weight = self.weights["head.attention.in_proj_weight"].chunk(3)[2]
        value_bias = self.weights["head.attention.in_proj_bias"].chunk(3)[2]
        # Rows of the attention sum to one, so averaging before the value projection gives the same.
        context_FAC = attention_FAP @ normed_FPC
        value_FC = (
            torch.einsum("fac,adc->fad", context_FAC, value_weight.view(self.heads, -1, value_weight.shape[1])).flatten(
                1
            )
            + value_bias
        )
        pooled_FC = self._linear("head.attention.out_proj", value_FC)
        inner = self.activation(self._linear("head.mlp.fc1", self._layer_norm("head.layernorm", pooled_FC)))
        return pooled_FC + self._linear("head.mlp.fc2", inner)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(
            x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.eps
        )


def pool_to_grid(values_FPC: Tensor, side: int) -> Tensor:
    """Pool values of a square of patches to the token grid as LLaVA-OneVision pools its features.

    Bilinear without antialiasing to ``ceil(side / 2)``: 27 x 27 gives 14 x 14, 16 x 16 gives the means of 2 x 2.

    Parameters
    ----------
    values_FPC: ``(F, side * side, C)`` in raster order.

    Returns
    -------
    ``(F, ceil(side / 2), ceil(side / 2), C)``.
    """
    square = values_FPC.reshape(-1, side, side, values_FPC.shape[-1]).permute(0, 3, 1, 2)
    half = (side + 1) // 2
    return functional.interpolate(square, size=(half, half), mode="bilinear").permute(0, 2, 3, 1)


def pool_means(values_FPC: Tensor, side: int, factor: int) -> Tensor:
    """Means of ``factor`` x ``factor`` patches of a square; remaining rows and columns are left out.

    Parameters
    ----------
    values_FPC: ``(F, side * side, C)`` in raster order.

    Returns
    -------
    ``(F, side // factor, side // factor, C)``.
    """
    square = values_FPC.reshape(-1, side, side, values_FPC.shape[-1]).permute(0, 3, 1, 2)
    return functional.avg_pool2d(square, factor).permute(0, 2, 3, 1)
