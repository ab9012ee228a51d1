"""The devices of a model's weights, which may be several, or offloaded until a module runs (`accelerate`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError


def device_of(module: nn.Module) -> torch.device:
    """The device that a module runs on: that of its first parameter, or the execution device if it is offloaded."""
    parameter = next(module.parameters())
    if parameter.is_meta:
        for part in module.modules():
            for hook in _hooks(part):
                device = getattr(hook, "execution_device", None)
                if device is not None:
                    return torch.device(device)
    return parameter.device


@contextmanager
def unchanged_random_state(device: torch.device) -> Iterator[None]:
    """Restore the state of torch's global random generators of the CPU and of a device."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters of a module by name, including offloaded ones, with PEFT adapters merged.

    Raises
    ------
    ModelError: weights that are not loaded, or adapters that cannot be merged.
    """
    if any(hasattr(part, "get_base_layer") for part in module.modules()):
        return _merged(module)
    weights = {name: value.detach() for name, value in module.named_parameters()}
    for place, part in module.named_modules():
        kept = [hook.weights_map for hook in _hooks(part) if getattr(hook, "weights_map", None) is not None]
        for short, value in part.named_parameters() if kept else ():
            name = f"{place}.{short}" if place else short
            if value.is_meta and short in kept[0]:
                weights[name] = kept[0][short]
    missing = [name for name, value in weights.items() if value.is_meta]
    if missing:
        raise ModelError(f"the weight {missing[0]} is on the meta device: load the model's weights")
    return weights


def _merged(module: nn.Module) -> dict[str, Tensor]:
    """Weights with active adapters merged, under the names of a module without adapters; the module is unchanged."""
    copied, adapters = deepcopy(module), []
    for place, part in copied.named_modules():
        if hasattr(part, "get_base_layer"):
            layer: Any = part
            if layer.disable_adapters and layer.merged:
                layer.unmerge()
            elif not layer.disable_adapters:
                layer.merge()
            adapters += [f"{place}.{kind}." for kind in layer.adapter_layer_names]
    weights = {
        name.replace("base_layer.", ""): value.detach()
        for name, value in copied.named_parameters()
        if not name.startswith(tuple(adapters))
    }
    if missing := [name for name, value in weights.items() if value.is_meta]:
        raise ModelError(f"the weight {missing[0]} is on the meta device: load the model's weights, or merge adapters")
    return weights


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    """The hooks of accelerate on a module."""
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))
