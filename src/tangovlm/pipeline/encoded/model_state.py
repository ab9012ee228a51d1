"""Whether a model is still the one whose features and caches are stored."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ...session.patching import MethodPatch

_SAMPLED = 4
"""Values of each tensor that are compared, to find changes that its version does not count, such as of `.data`."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Layers of PEFT that select and scale adapters.
_ADAPTERS = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")


@dataclass(frozen=True)
class ModelState:
    """What the output of a model depends on; equal for one that was not changed in between.

    Weights and buffers with their dtypes and devices, modules, hooks, adapters, and training mode. Methods and hooks
    of this library do not count.

    Parameters
    ----------
    tensors: of each, its storage, layout, dtype, device and version.
    modules: what each is set to.
    values: some of each tensor, as integers with their bits.
    storages: of the tensors; while these references exist, no other storage has the address of one of them.
    """

    tensors: tuple[Any, ...]
    modules: tuple[Any, ...]
    values: tuple[int, ...]
    storages: tuple[StorageWeakRef, ...] = field(compare=False)

    @classmethod
    def of(cls, model: nn.Module) -> "ModelState":
        """That of a model."""
        tensors = [*model.parameters(), *model.buffers()]
        storages = tuple(map(_reference, tensors))
        layouts = (_layout(tensor, storage) for tensor, storage in zip(tensors, storages, strict=True))
        return cls(tuple(layouts), tuple(map(_settings, model.modules())), tuple(_values(tensors)), storages)


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _layout(tensor: Tensor, storage: StorageWeakRef) -> tuple[Any, ...]:
    # Tensors of inference mode have no version.
    version = 0 if tensor.is_inference() else tensor._version
    placed = (storage.cdata, tensor.storage_offset(), tensor.shape, tensor.stride())
    return (*placed, tensor.dtype, tensor.device, version)


def _settings(module: nn.Module) -> tuple[Any, ...]:
    # Hooks are numbered, and no number is given twice.
    hooks = tuple(number for name in _HOOKS for number, hook in list(getattr(module, name).items()) if _counts(hook))
    forward = vars(module).get("forward")
    while isinstance(forward, MethodPatch):
        forward = forward.__wrapped__
    replaced = None if getattr(forward, "__func__", None) is type(module).forward else forward
    return id(module), module.training, hooks, replaced, *(repr(vars(module).get(name)) for name in _ADAPTERS)


def _counts(hook: Any) -> bool:
    """Whether it may change outputs: hooks of transformers, which the first call registers, record them."""
    return str(getattr(hook, "__module__", "")).partition(".")[0] not in ("tangovlm", "transformers")


def _values(tensors: list[Tensor]) -> Iterator[int]:
    sampled: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() and tensor.is_contiguous() and not (tensor.is_meta or tensor.is_complex()):
            flat = tensor.detach().view(-1)
            sampled.setdefault(tensor.device, []).append(flat[:: -(-flat.numel() // _SAMPLED)].float())
    for values in sampled.values():
        yield from torch.cat(values).view(torch.int32).tolist()
