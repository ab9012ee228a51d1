"""The SigLIP tower of LLaVA-OneVision as vLLM builds it: signals from its last layer, and a pooling head beside it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...models.common.layout import Found
from ...models.common.saliency import mean_attention, mean_keys
from ...models.common.taps import Tap, behind
from ...models.llava_onevision import LlavaOnevision
from ..pruning import mean_over_ranks


class Head(nn.Module):
    """Weights of SigLIP's pooling head and of the layer norm in front of it, in float32 and whole on every rank.

    Parameters of the model, so that whatever makes, keeps and moves those of vLLM's models does it with these too.
    """

    def __init__(self, vision: Any) -> None:
        from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

        super().__init__()
        self.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.head = SiglipMultiheadAttentionPoolingHead(vision)
        self.float().requires_grad_(False)

    def take(self, weights: Mapping[str, Tensor]) -> set[str]:
        """Copy weights under the names of a SigLIP checkpoint; gives the names."""
        for name, weight in weights.items():
            self.get_parameter(name).data.copy_(weight)
        return set(weights)


class Served(LlavaOnevision):
    """The family, bound to vLLM's model."""

    @property
    def encoder(self) -> Any:
        """The tower: features are made by vLLM's model, not by a method that the family would call."""
        return self.tower

    @property
    def tower(self) -> Any:
        """The SigLIP vision model, as far as vLLM builds it."""
        tower = self.model.vision_tower
        return getattr(tower, "vision_model", tower)

    @property
    def device(self) -> torch.device:
        """See `Family.device`."""
        device: torch.device = self.model.image_newline.device
        return device

    def check_tower(self) -> None:
        """See that the last layer is there, whose output the pooling head and the saliency are about.

        Raises
        ------
        ModelError: another tower, or one that is cut short.
        """
        config = self.model.config
        if not hasattr(self.tower, "encoder") or config.vision_config.model_type != "siglip_vision_model":
            raise ModelError(f"the vision tower is a {type(self.tower).__name__}: only SigLIP towers are supported")
        if len(self.tower.encoder.layers) != config.vision_config.num_hidden_layers:
            raise ModelError(
                f"vision_feature_layer {config.vision_feature_layer} leaves out layers of the tower: only the last is "
                "supported (-1)"
            )

    def listen(self, found: Found, needs: frozenset[str], kind: str) -> list[Tap]:
        """See `Family.listen`."""
        taps = []
        if self.wants_head(needs, kind):
            on_hidden = self._on_hidden(found, needs, kind)
            taps.append(behind(self.tower.encoder, lambda module, _args, output: on_hidden(module, (output,), output)))
        if "keys" in needs or ("saliency" in needs and kind == "attn"):
            attention = self.tower.encoder.layers[-1].self_attn
            taps.append(behind(attention.qkv_proj, self._on_layer(found, needs, kind)))
        return taps

    def _on_layer(self, found: Found, needs: frozenset[str], kind: str) -> Callable[..., None]:
        heads = self.tower.encoder.layers[-1].self_attn.num_heads_per_partition

        @torch.no_grad()
        def hook(_module: nn.Module, _args: Any, output: tuple[Tensor, Any]) -> None:
            query, key, _ = output[0].chunk(3, dim=-1)
            if "saliency" in needs and kind == "attn":
                scores = mean_over_ranks(mean_attention(query, key, heads))
                found["saliency"].append(self.pool(scores[..., None])[..., 0])
            if "keys" in needs:
                found["keys"].append(self.pool(mean_over_ranks(mean_keys(key, heads))))

        return hook

    def read_head(self) -> dict[str, Tensor]:
        """See `LlavaOnevision.read_head`: the model's own parameters."""
        return dict(self.model.tango_head.named_parameters())

    def find_head(self) -> dict[str, Tensor]:
        """A pooling head for a checkpoint without one; see `LlavaOnevision.head` for the errors."""
        return super().read_head()

    def forget_head(self) -> None:
        """What was made of weights that are loaded anew."""
        self.__dict__.pop("head", None)
