"""Token ids of prompts, which consist almost entirely of placeholders."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def token_ids(tokenizer: Any, text: str, placeholder: int) -> list[int]:
    """Token ids of a prompt, which may already begin with the first special token, as templates write it.

    Tokenizers split off added tokens before anything else, so that a run of them, of which a video has thousands, can
    be read as one and repeated.

    Parameters
    ----------
    placeholder: token that the text may have in long runs.
    """
    first = getattr(tokenizer, "bos_token", None)
    begun = isinstance(first, str) and first != "" and text.startswith(first)
    options = {"add_special_tokens": False} if begun else {}
    if placeholder in getattr(tokenizer, "added_tokens_decoder", {}):
        token = str(tokenizer.convert_ids_to_tokens(placeholder))
        runs = [len(run[0]) // len(token) for run in re.finditer(f"(?:{re.escape(token)})+", text)]
        short: list[int] = tokenizer(re.sub(f"(?:{re.escape(token)})+", lambda _: token, text), **options).input_ids
        if short.count(placeholder) == len(runs):
            counts = iter(runs)
            return [each for each in short for _ in range(next(counts) if each == placeholder else 1)]
    whole: list[int] = tokenizer(text, **options).input_ids
    return whole


def padded(tokenizer: Any, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts as ``(B, Q)`` int64, padded on the left, and their attention mask."""
    candidates = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    pad = next((int(number) for number in candidates if number is not None), 0)
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
