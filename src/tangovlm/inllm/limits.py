"""Ways to generate in which the prompt is not read at once, as one forward with a cache that is its own."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError

_WAYS = {
    "assistant_model": "assisted generation",
    "prompt_lookup_num_tokens": "prompt lookup",
    "prefill_chunk_size": "prefill in chunks",
}


def check_generation(options: Mapping[str, Any], default: Any) -> None:
    """Raise `InputError` for a way to generate that does not go with pruning inside the model.

    Parameters
    ----------
    options: keywords of `generate`.
    default: the model's generation config.
    """
    config = options.get("generation_config") or default
    for name, words in _WAYS.items():
        if options.get(name, getattr(config, name, None)):
            raise InputError(
                f"{name}: {words} does not go with pruning inside the model, which must see the whole prompt and "
                "nothing else at once: leave it out, or prune before the model only"
            )
    if options.get("use_cache", getattr(config, "use_cache", None)) is False:
        raise InputError(
            "use_cache: pruning inside the model needs the cache, or each word would prune anew: leave it on"
        )
