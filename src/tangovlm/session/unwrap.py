"""The stock model inside the wrappers of other libraries."""

from typing import Any

from torch import nn

from ..errors import ModelError


def unwrap(model: Any) -> Any:
    """The model inside the wrappers of `torch.compile`, PEFT and data parallelism; the model itself if it has none.

    The wrapper is called as before: it forwards its calls to the model, which has the hooks.

    Raises
    ------
    ModelError: a wrapper that runs copies of the model, or inserts tokens of its own into prompts.

    Examples
    --------
    >>> inner = nn.Linear(2, 2)
    >>> unwrap(nn.DataParallel(inner)) is inner
    True
    """
    while True:
        if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
            raise ModelError(
                "DataParallel runs copies of the model, which have no hooks: attach the model inside (model.module), "
                "on one device, or use one process per device (DistributedDataParallel)"
            )
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:
            model = model._orig_mod
        elif hasattr(model, "get_base_model") and hasattr(model, "active_peft_config"):
            if model.active_peft_config.is_prompt_learning:
                raise ModelError(
                    f"{model.active_peft_config.peft_type} inserts tokens of its own into prompts, which pruning does "
                    "not support: merge or remove the adapter first"
                )
            model = model.get_base_model()
        else:
            return model
