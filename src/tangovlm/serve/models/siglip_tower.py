"""The SigLIP tower of LLaVA-OneVision on vLLM: signals from its last layer, and the pooling head, which vLLM lacks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...models.common.part import Part
from ...models.common.saliency import mean_attention, mean_keys
from ...models.common.signals import ForwardHook, SignalParts, on_output
from ...models.llava_onevision import LlavaOnevision, PoolingHeadSignals
from ..video_pruner import mean_over_ranks


class PoolingHead(nn.Module):
    """SigLIP's pooling head and the layer norm before it, in float32, not sharded over tensor-parallel ranks.

    A submodule of the model, so that vLLM creates, stores and moves its parameters with those of the model.
    """

    def __init__(self, vision: Any) -> None:
        from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

        super().__init__()
        self.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.head = SiglipMultiheadAttentionPoolingHead(vision)
        self.float().requires_grad_(False)

    def copy_weights(self, weights: Mapping[str, Tensor]) -> set[str]:
        """Copy weights, named as in a SigLIP checkpoint; returns the names."""
        for name, weight in weights.items():
            self.get_parameter(name).data.copy_(weight)
        return set(weights)


class ServedSignals(PoolingHeadSignals):
    """Signals of the tower as vLLM builds it."""

    def hooks(self, found: SignalParts, needs: frozenset[str], kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        taps = []
        if self.needs_head(needs, kind):
            on_hidden = self.on_hidden(found, needs, kind)
            encoder = self.family.tower.encoder
            taps.append(on_output(encoder, lambda module, _args, output: on_hidden(module, (output,), output)))
        if "keys" in needs or ("saliency" in needs and kind == "attn"):
            attention = self.family.tower.encoder.layers[-1].self_attn
            taps.append(on_output(attention.qkv_proj, self._on_layer(found, needs, kind)))
        return taps

    def _on_layer(self, found: SignalParts, needs: frozenset[str], kind: str) -> Callable[..., None]:
        heads = self.family.tower.encoder.layers[-1].self_attn.num_heads_per_partition

        @torch.no_grad()
        def hook(_module: nn.Module, _args: Any, output: tuple[Tensor, Any]) -> None:
            query, key, _ = output[0].chunk(3, dim=-1)
            if "saliency" in needs and kind == "attn":
                scores = mean_over_ranks(mean_attention(query, key, heads))
                found["saliency"].append(self.pool(scores[..., None])[..., 0])
            if "keys" in needs:
                found["keys"].append(self.pool(mean_over_ranks(mean_keys(key, heads))))

        return hook


class ServedLlavaOnevision(LlavaOnevision):
    """The family, bound to the model of vLLM."""

    signals = Part(ServedSignals)

    @property
    def encoder(self) -> Any:
        """The tower; the model of vLLM, not the family, computes features with it."""
        return self.tower

    @property
    def tower(self) -> Any:
        """The SigLIP vision model, without the parts that vLLM does not build."""
        tower = self.model.vision_tower
        return getattr(tower, "vision_model", tower)

    @property
    def device(self) -> torch.device:
        """See `Family.device`."""
        device: torch.device = self.model.image_newline.device
        return device

    def check_tower(self) -> None:
        """Check that the tower has its last layer, whose output the pooling head and the saliency need.

        Raises
        ------
        ModelError: another tower, or one without its last layers.
        """
        config = self.model.config
        if not hasattr(self.tower, "encoder") or config.vision_config.model_type != "siglip_vision_model":
            raise ModelError(f"the vision tower is a {type(self.tower).__name__}: only SigLIP towers are supported")
        if len(self.tower.encoder.layers) != config.vision_config.num_hidden_layers:
            raise ModelError(
                f"vision_feature_layer {config.vision_feature_layer} leaves out layers of the tower: only the last is "
                "supported (-1)"
            )

    def read_head(self) -> dict[str, Tensor]:
        """See `LlavaOnevision.read_head`: the parameters of the model."""
        return dict(self.model.tango_head.named_parameters())

    def find_head(self) -> dict[str, Tensor]:
        """Read a pooling head for a checkpoint without one; see `LlavaOnevision.head` for the errors."""
        return super().read_head()

    def forget_head(self) -> None:
        """Discard the cached head, whose weights have been loaded again."""
        self.__dict__.pop("head", None)
