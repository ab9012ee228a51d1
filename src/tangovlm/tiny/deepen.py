"""Give a trained language model more layers without changing what it computes."""

import copy

import torch
from torch import nn
from transformers import LlavaOnevisionForConditionalGeneration


def deepen(
    model: LlavaOnevisionForConditionalGeneration, deep: LlavaOnevisionForConditionalGeneration
) -> LlavaOnevisionForConditionalGeneration:
    """Fill a model of `n` times as many layers with the weights of another one, and return it.

    Each layer is followed by n - 1 copies whose last matrices of attention and MLP are zero, so that they add nothing
    to the residual stream at first; training then uses them.
    """
    layers, all_layers = model.model.language_model.layers, deep.model.language_model.layers
    copies = len(all_layers) // len(layers)
    state = {name: value for name, value in model.state_dict().items() if ".language_model.layers." not in name}
    deep.load_state_dict(state, strict=False)
    with torch.no_grad():
        for number, layer in enumerate(all_layers):
            source = layers[number // copies]
            layer.load_state_dict(copy.deepcopy(source.state_dict()))
            if number % copies:
                for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    nn.init.zeros_(last.weight)
    return deep
