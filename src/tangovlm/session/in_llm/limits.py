"""Ways to generate in which the prompt is not read at once, as one forward with a cache that is its own."""

from collections.abc import Mapping
from typing import Any

from ...errors import InputError

_WAYS = {
    "assistant_model": "assisted generation",
    "prompt_lookup_num_tokens": "prompt lookup",
    "prefill_chunk_size": "prefill in chunks",
}


def check_generation(options: Mapping[str, Any], default: Any) -> None:
    """Raise `InputError` for a way to generate that does not go with pruning inside the model.

    Parameters
    ----------
    options: arguments of `generate` by name.
    default: the model's generation config, which also fills what a given one leaves open.
    """
    configs = [config for config in (options.get("generation_config"), default) if config is not None]
    for name, words in _WAYS.items():
        said = (options.get(name), *(getattr(config, name, None) for config in configs))
        if next((value for value in said if value is not None), None):
            raise InputError(
                f"{name}: {words} does not go with pruning inside the model, which must see the whole prompt and "
                "nothing else at once: leave it out, or prune before the model only"
            )


def check_cache(cache: Any) -> None:
    """Raise `InputError` where `generate` reads a prompt with videos without a cache."""
    if cache is None:
        raise InputError(
            "use_cache: pruning inside the model needs the cache, or each word would prune anew: leave it on"
        )
