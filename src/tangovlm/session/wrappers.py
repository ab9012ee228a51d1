"""The stock model inside of what other libraries wrap around it."""

from typing import Any

from torch import nn

from ..errors import ModelError


def unwrapped(model: Any) -> Any:
    """The model inside of `torch.compile`'s, PEFT's and the data-parallel wrappers; the model itself if it has none.

    The wrapper is called as before: it hands its calls on to the model, on which the hooks are.

    Raises
    ------
    ModelError: a wrapper that runs copies of the model, or puts tokens of its own into prompts.

    Examples
    --------
    >>> inner = nn.Linear(2, 2)
    >>> unwrapped(nn.DataParallel(inner)) is inner
    True
    """
    while True:
        if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
            raise ModelError(
                "DataParallel runs copies of the model, which have no hooks: attach the model inside (model.module), "
                "on one device, or use one process a device (DistributedDataParallel)"
            )
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:
            model = model._orig_mod
        elif hasattr(model, "get_base_model") and hasattr(model, "active_peft_config"):
            if model.active_peft_config.is_prompt_learning:
                raise ModelError(
                    f"{model.active_peft_config.peft_type} puts tokens of its own into prompts, which pruning does not "
                    "know: merge or remove the adapter first"
                )
            model = model.get_base_model()
        else:
            return model
