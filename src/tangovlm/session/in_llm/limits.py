"""Options of `generate` with which the prompt is not read at once, by one forward with a cache of its own."""

from collections.abc import Mapping
from typing import Any

from ...errors import InputError

_UNSUPPORTED = {
    "assistant_model": "assisted generation",
    "prompt_lookup_num_tokens": "prompt lookup",
    "prefill_chunk_size": "prefill in chunks",
}


def check_generation(options: Mapping[str, Any], default: Any) -> None:
    """Raise `InputError` for an option of `generate` that pruning inside the model does not support.

    Parameters
    ----------
    options: arguments of `generate` by name.
    default: the model's generation config, which also provides what the given config leaves open.
    """
    configs = [config for config in (options.get("generation_config"), default) if config is not None]
    for name, title in _UNSUPPORTED.items():
        values = (options.get(name), *(getattr(config, name, None) for config in configs))
        if next((value for value in values if value is not None), None):
            raise InputError(
                f"{name}: {title} does not work with pruning inside the model, which must read the whole prompt in one "
                "forward: leave it out, or prune before the language model only"
            )


def check_cache(cache: Any) -> None:
    """Raise `InputError` if `generate` reads a prompt with videos without a cache."""
    if cache is None:
        raise InputError(
            "use_cache: pruning inside the model needs the cache, without which every new token would prune the prompt "
            "again: leave it on"
        )
